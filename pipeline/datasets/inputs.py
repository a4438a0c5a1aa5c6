"""The generator's inputs for any range of samples: latents, noise, attributes and labels.

They come from the seed and the plans, or from the user's files at the destination (`latents.npy`, `attributes.npy`,
`labels.npy`), of which only the requested rows are read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, UsageError
from pipeline.common.files import NPY_ERRORS, first_line, read_npy_header
from pipeline.common.quantities import parse_numbers
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.labels import LabelPlan, label_plan
from pipeline.spec.latents import latents, noise_keys, noise_rows, parse_noise
from pipeline.stores.store import Store


class Inputs:
    """The generator's inputs in one job."""

    def __init__(self, spec: JobSpec, store: Store) -> None:
        self._spec = spec
        self._store = store
        try:
            self._noise = parse_noise(spec.noise)
        except UsageError as error:
            raise DatasetError(f"{store.url}/{shards.JOB}: {error}") from None
        self._plan: LabelPlan | None = None
        if spec.labels is not None and spec.classes is not None and not spec.labels.startswith("file:"):
            self._plan = label_plan(spec.labels, classes=len(spec.classes), seed=spec.seed)

    def latents(self, first: int, count: int) -> NDArray[np.float32]:
        """Latents of candidates `first` to `first + count - 1`, float32 of shape (count, latent_dim).

        Candidates are counted through all samples; without a choice, each sample has one.
        """
        if self._spec.latents is None:
            spec = self._spec
            return latents(spec.seed, first, count, spec.latent_dim, self._noise, spec.latent_block)
        return read_rows(self._store, shards.LATENTS, first, count, "float32", (self._spec.latent_dim,))

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Latent, noise, attributes and key of candidates side by side, float32 of shape (count * best_of, row_dim).

        They are the candidates of samples `first` to `first + count - 1`, those of a sample one after another.
        """
        spec = self._spec
        attributes = None if spec.attributes is None else self._attributes(spec.attributes, first, count)
        first, count = first * spec.best_of, count * spec.best_of
        columns = [self.latents(first, count), *noise_rows(spec.seed, first, count, spec.noise_sizes)]
        if attributes is not None:
            columns.append(np.repeat(attributes, spec.best_of, axis=0))
        if spec.sampler is not None:
            columns.append(noise_keys(spec.seed, first, count))
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    def _attributes(self, plan: str, first: int, count: int) -> NDArray[np.float32]:
        """Attributes of samples by their plan, float32 of shape (count, attributes_dim)."""
        kind, _, rest = plan.partition(":")
        if kind == "file":
            return read_rows(self._store, shards.ATTRIBUTES, first, count, "float32", (self._spec.attributes_dim,))
        return np.tile(np.array(parse_numbers(rest), np.float32), (count, 1))

    def labels(self, first: int, count: int) -> NDArray[np.int32] | None:
        """Labels of samples `first` to `first + count - 1`, int32 of shape (count,); None without classes."""
        if self._spec.labels is None:
            return None
        if self._plan is not None:
            return self._plan.labels(first, count)
        labels = read_rows(self._store, shards.LABELS, first, count, "int32", ())
        if count and not 0 <= labels.min() <= labels.max() < len(self._spec.classes or ()):
            raise DatasetError(f"{self._store.url}/{shards.LABELS} has labels that are not classes: it was changed")
        return labels


def read_rows(store: Store, name: str, first: int, count: int, dtype: str, row_shape: tuple[int, ...]) -> NDArray[Any]:
    """Rows `first` to `first + count - 1` of an .npy file of this dtype and shape, without reading the others.

    Raises DatasetError if the file is absent, malformed or too short.
    """
    try:
        with store.open(name) as file:
            shape, fortran, found = read_npy_header(file)
            if fortran or found != np.dtype(dtype) or shape[1:] != row_shape:
                raise ValueError(f"it holds {found} of shape {shape}, not {dtype} of shape {('n', *row_shape)}")
            if not shape or first + count > shape[0]:
                raise ValueError(f"it does not hold rows {first} to {first + count - 1}")
            row_bytes = found.itemsize * math.prod(row_shape)
            file.seek(file.tell() + first * row_bytes)
            data = file.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise ValueError("it ends early")
            return np.frombuffer(data, dtype=found).reshape(count, *row_shape)
    except FileNotFoundError:
        raise DatasetError(f"{store.url}/{name} is missing") from None
    except NPY_ERRORS as error:
        raise DatasetError(f"{store.url}/{name} cannot be read: {first_line(error)}") from None
