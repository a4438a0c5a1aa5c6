"""The protocols of a format, implemented by npy, png, tar, tfrecord, parquet and null, and code that they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, UsageError
from pipeline.common.files import NPY_ERRORS, first_line
from pipeline.formats.image import image_shape
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard
from pipeline.stores.store import Draft, Store

Labels = NDArray[np.int32]


class ShardWriter(Protocol):
    """Encodes the batches of one shard into a draft. Used by one thread."""

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Takes the shard's next samples, (n, *shape) of the stored dtype, C-contiguous, with labels int32 (n,).

        Neither may change before `close`, since they may be written only then.
        `labels` is None if and only if the samples have no classes. Raises ValueError for another
        shape, dtype or label, or for more samples than the shard has; StoreError.
        """
        ...

    def close(self) -> None:
        """Writes the rest: labels, ends of files. Raises ValueError if samples are missing; StoreError.

        Does not commit the draft.
        """
        ...


class Format(Protocol):
    """A way to store the samples of a shard. Stateless."""

    #: Its name in `--format`.
    name: str
    #: All dtypes that it can store.
    dtypes: tuple[str, ...]
    #: All layouts that it supports, the default first.
    layouts: tuple[str, ...]
    #: Packages of the extra with the format's name, whose versions the bytes of its files depend on.
    libraries: tuple[str, ...]
    #: Whether its writer runs Python code for each sample. That holds the interpreter's lock, so that shards written at
    #: the same time would wait for each other.
    per_sample: bool

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """The dtype in which samples of this shape are stored by default."""
        ...

    def check(self, sample: SampleType) -> None:
        """Raises UsageError if it cannot store samples of this type."""
        ...

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> ShardWriter:
        """A writer of one shard into `draft`, which the caller commits after the writer's `close`."""
        ...

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The files of such a shard, in the order in which they are written.

        `labels`, int32 (shard.count,), are needed only for the layout "class".
        """
        ...

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """Samples (shard.count, *shape) and their labels as stored.

        `labels` are those of the plan: the layout "class" finds its files by them.
        Raises DatasetError that names the missing or malformed file; StoreError.
        """
        ...

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """Samples `rows` of the shard, (n, *shape), without reading the others if the format allows it.

        Raises ValueError for a step other than 1; DatasetError and StoreError as `read` does.
        """
        ...


class BatchChecker:
    """Checks that all writers share: batches match the sample type, and a shard gets all its samples."""

    def __init__(self, shard: Shard, sample: SampleType) -> None:
        self._shard = shard
        self._sample = sample
        self._batches: list[Labels] = []
        #: Samples taken so far.
        self.count = 0

    @property
    def labels(self) -> Labels:
        """Labels of all samples taken so far, int32 (count,). Empty if the samples have no classes."""
        return np.concatenate([np.empty(0, dtype=np.int32), *self._batches])

    def take(self, samples: NDArray[Any], labels: Labels | None) -> int:
        """Counts a batch; returns the dataset index of its first sample. Raises ValueError if it does not fit."""
        expected = (*samples.shape[:1], *self._sample.shape)
        if samples.shape != expected or samples.dtype != self._sample.dtype or not samples.flags.c_contiguous:
            raise ValueError(
                f"samples {samples.dtype} {samples.shape} are not C-contiguous {self._sample.dtype} of shape {expected}"
            )
        if self.count + len(samples) > self._shard.count:
            raise ValueError(f"shard {self._shard.index} has {self._shard.count} samples, more came")
        self._take_labels(len(samples), labels)
        first = self._shard.first + self.count
        self.count += len(samples)
        return first

    def finish(self) -> None:
        """Raises ValueError if samples are missing."""
        if self.count != self._shard.count:
            raise ValueError(f"shard {self._shard.index} has {self._shard.count} samples, {self.count} came")

    def _take_labels(self, count: int, labels: Labels | None) -> None:
        classes = self._sample.class_names
        if classes is None or labels is None:
            if classes is not None or labels is not None:
                raise ValueError("samples of a conditional generator come with labels, others without")
            return
        if labels.shape != (count,) or labels.dtype != np.int32:
            raise ValueError(f"labels {labels.dtype} {labels.shape} are not int32 ({count},)")
        if count and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels {labels.min()}..{labels.max()} are not in 0..{len(classes) - 1}")
        self._batches.append(labels.copy())


def check_listed(format_: Format, sample: SampleType) -> None:
    """Raises UsageError unless the format supports the dtype and layout of `sample`, and its libraries are there."""
    if sample.dtype not in format_.dtypes:
        raise UsageError(f"{format_.name} stores {' or '.join(format_.dtypes)}, not {sample.dtype}")
    if sample.layout not in format_.layouts:
        raise UsageError(f"{format_.name} has no layout {sample.layout!r}: use {' or '.join(format_.layouts)}")
    for library in format_.libraries:
        if find_spec(library) is None:
            raise UsageError(f"{format_.name} needs {library}: pip install 'noisemill[{format_.name}]'")


def check_image(format_name: str, sample: SampleType) -> None:
    """Raises UsageError unless samples are images that PNG can hold."""
    if image_shape(sample.shape) is None:
        wanted = "images of 1, 3 or 4 channels (height, width, channels), or (height, width)"
        raise UsageError(f"{format_name} needs {wanted}: the samples are {sample.shape}; use npy")


def picture_dtype(shape: tuple[int, ...]) -> str:
    """uint8 for shapes that PNG can hold, float32 for others."""
    return "float32" if image_shape(shape) is None else "uint8"


def is_png(sample: SampleType) -> bool:
    """Whether a format for any samples stores these as PNGs: images of uint8."""
    return sample.dtype == "uint8" and image_shape(sample.shape) is not None


def labels_of(labels: list[int], shard: Shard) -> Labels:
    """Labels read for a shard, int32 (shard.count,). Raises ValueError for another number of labels or beyond int32."""
    if len(labels) != shard.count:
        raise ValueError(f"it has {len(labels)} labels, not {shard.count}")
    if not all(0 <= label < 2**31 for label in labels):
        raise ValueError("it has labels beyond int32")
    return np.array(labels, dtype=np.int32)


def row_range(shard: Shard, rows: slice) -> range:
    """The rows selected by a slice of a shard. Raises ValueError for a step other than 1."""
    start, stop, step = rows.indices(shard.count)
    if step != 1:
        raise ValueError(f"rows of a shard are read with step 1, not {step}")
    return range(start, max(start, stop))


@contextmanager
def malformed(store: Store, name: str) -> Iterator[None]:
    """Turns a missing file, and any ValueError about its content, into a DatasetError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{store.url}/{name} is missing: `noisemill verify` lists all damage") from error
    except DatasetError:
        raise
    except NPY_ERRORS as error:
        raise DatasetError(
            f"{store.url}/{name} is malformed: {first_line(error)}; `noisemill verify` lists all damage"
        ) from error
