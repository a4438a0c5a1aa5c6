"""What a shard's receipt says of its values, gathered batch by batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import SampleError
from pipeline.datasets.receipts import Statistics
from pipeline.datasets.repeats import Repeats
from pipeline.datasets.sketch import Sketch

#: Values that are looked at in one go: 1 MiB of float64.
_STRETCH = 2**17


def check_finite(samples: NDArray[Any], first: int, made: str = "NaN or infinity") -> None:
    """Raises SampleError that names the first sample with NaN or infinity; `first` is the index of row 0."""
    # Minimum and maximum carry a NaN or an infinity through, and cost a fraction of isfinite.
    if math.isfinite(float(samples.min())) and math.isfinite(float(samples.max())):
        return
    bad = np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1))
    raise SampleError(f"the generator made {made}: sample {first + int(bad[0])} is the first")


class ShardStatistics:
    """Statistics of the stored samples of one shard, in bounded memory."""

    def __init__(self, count: int, classes: int | None, *, first: int) -> None:
        self._repeats = Repeats(count)
        self._sketch = Sketch(first)
        self._minimum, self._maximum = math.inf, -math.inf
        self._sum = 0.0
        self._values = 0
        self._constant = 0
        self._classes = None if classes is None else np.zeros(classes, np.int64)

    def add(self, samples: NDArray[Any], labels: NDArray[np.int32] | None) -> None:
        """Takes in one batch as it is stored, C-contiguous."""
        rows = samples.reshape(len(samples), -1)
        # Some rows at a time stay in the processor's cache through all that is done to them.
        stretch = max(1, _STRETCH // rows.shape[1])
        for start in range(0, len(rows), stretch):
            self._add(rows[start : start + stretch])
        if self._classes is not None and labels is not None:
            self._classes += np.bincount(labels, minlength=len(self._classes))

    def _add(self, rows: NDArray[Any]) -> None:
        least, most = rows.min(axis=1), rows.max(axis=1)
        self._minimum = min(self._minimum, float(least.min()))
        self._maximum = max(self._maximum, float(most.max()))
        if rows.shape[1] > 1:
            self._constant += int((least == most).sum())
        exact = rows.astype(np.float64)
        self._sum += float(exact.sum())
        self._values += rows.size
        self._sketch.add(exact)
        self._repeats.add(rows)

    def result(self) -> Statistics:
        """Statistics of all that was taken in."""
        return Statistics(
            minimum=self._minimum,
            maximum=self._maximum,
            mean=self._sum / self._values,
            repeated=self._repeats.count(),
            constant=self._constant,
            classes=None if self._classes is None else tuple(int(number) for number in self._classes),
            sketch=self._sketch.result(),
        )
