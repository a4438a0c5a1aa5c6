"""Statistics of a shard's values, collected batch by batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import SampleError
from pipeline.datasets.receipts import Statistics
from pipeline.datasets.repeats import Repeats
from pipeline.datasets.sketch import Sketch

#: Values processed at a time: 1 MiB of float64.
_CHUNK = 2**17


def check_finite(samples: NDArray[Any], first: int) -> None:
    """Raises SampleError that names the first sample with NaN or infinity; `first` is the index of row 0.

    Samples in float16 were finite as float32.
    """
    # Minimum and maximum propagate NaN and infinity, and cost a fraction of isfinite.
    if math.isfinite(float(samples.min())) and math.isfinite(float(samples.max())):
        return
    bad = np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1))
    made = "values that float16 cannot hold" if samples.dtype == np.float16 else "NaN or infinity"
    raise SampleError(f"the generator made {made}: sample {first + int(bad[0])} is the first")


def _rounded(number: float) -> float:
    """To 9 digits: the last ones depend on the batches of a sum, and the index of shards should not."""
    return float(f"{number:.9g}")


class ShardStatistics:
    """Statistics of the stored samples of one shard, with bounded memory."""

    def __init__(self, count: int, classes: int | None, *, first: int) -> None:
        self._repeats = Repeats(count)
        self._sketch = Sketch(first)
        #: Index of the next sample.
        self._next = first
        self._minimum, self._maximum = math.inf, -math.inf
        self._sum = 0.0
        self._values = 0
        self._constant = 0
        self._classes = None if classes is None else np.zeros(classes, np.int64)

    def add(self, samples: NDArray[Any], labels: NDArray[np.int32] | None) -> None:
        """Adds one batch of stored values, C-contiguous. Raises SampleError, as `check_finite` does."""
        rows = samples.reshape(len(samples), -1)
        # A few rows at a time stay in the processor's cache through all steps.
        stretch = max(1, _CHUNK // rows.shape[1])
        for start in range(0, len(rows), stretch):
            self._add(rows[start : start + stretch])
        if self._classes is not None and labels is not None:
            self._classes += np.bincount(labels, minlength=len(self._classes))

    def _add(self, rows: NDArray[Any]) -> None:
        least, most = rows.min(axis=1), rows.max(axis=1)
        lowest, highest = float(least.min()), float(most.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            check_finite(rows, self._next)
        self._minimum, self._maximum = min(self._minimum, lowest), max(self._maximum, highest)
        self._next += len(rows)
        if rows.shape[1] > 1:
            self._constant += int((least == most).sum())
        exact = rows.astype(np.float64)
        self._sum += float(exact.sum())
        self._values += rows.size
        self._sketch.add(exact)
        self._repeats.add(rows)

    def result(self) -> Statistics:
        """Statistics of all batches added."""
        return Statistics(
            minimum=self._minimum,
            maximum=self._maximum,
            mean=self._sum / self._values,
            repeated=self._repeats.count(),
            constant=self._constant,
            classes=None if self._classes is None else tuple(int(number) for number in self._classes),
            sketch=tuple(_rounded(number) for number in self._sketch.result()),
        )
