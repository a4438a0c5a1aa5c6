"""What goes into the generator for any range of samples: latents and labels.

They come from the seed and the label plan, or from files that the user brought and that lie at the
destination (`latents.npy`, `labels.npy`), of which only the rows asked for are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import shards
from pipeline.errors import DatasetError
from pipeline.labels import LabelPlan, label_plan
from pipeline.latents import latents, parse_noise
from pipeline.spec import JobSpec
from pipeline.stores.store import Store


class Inputs:
    """Latents and labels of one job."""

    def __init__(self, spec: JobSpec, store: Store) -> None:
        self._spec = spec
        self._store = store
        self._noise = parse_noise(spec.noise)
        self._plan: LabelPlan | None = None
        if spec.labels is not None and spec.classes is not None and not spec.labels.startswith("file:"):
            self._plan = label_plan(spec.labels, classes=len(spec.classes), seed=spec.seed)

    def latents(self, first: int, count: int) -> NDArray[np.float32]:
        """Latents of samples `first` to `first + count - 1`, float32 of shape (count, latent_dim)."""
        if self._spec.latents is None:
            return latents(self._spec.seed, first, count, self._spec.latent_dim, self._noise)
        rows = read_rows(self._store, shards.LATENTS, first, count)
        return rows.astype(np.float32, copy=False).reshape(count, self._spec.latent_dim)

    def labels(self, first: int, count: int) -> NDArray[np.int32] | None:
        """Labels of the same samples, int32 of shape (count,); None for a generator without classes."""
        if self._spec.labels is None:
            return None
        if self._plan is not None:
            return self._plan.labels(first, count)
        return read_rows(self._store, shards.LABELS, first, count).astype(np.int32, copy=False)


def read_rows(store: Store, name: str, first: int, count: int) -> NDArray[Any]:
    """Rows `first` to `first + count - 1` of an .npy file, without reading the others.

    Raises DatasetError if the file is absent, is no .npy file, or ends before.
    """
    try:
        with store.open(name) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            if fortran or dtype.hasobject or not shape or first + count > shape[0]:
                raise ValueError(f"it does not hold rows {first} to {first + count - 1}")
            row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            file.seek(file.tell() + first * row_bytes)
            data = file.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise ValueError("it ends early")
            return np.frombuffer(data, dtype=dtype).reshape(count, *shape[1:])
    except FileNotFoundError:
        raise DatasetError(f"{store.url}/{name} is missing") from None
    except ValueError as error:
        raise DatasetError(f"{store.url}/{name} cannot be read: {error}") from None
