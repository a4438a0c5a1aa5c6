"""One `.npy` file per shard, which numpy can memory-map; labels are in another file."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from pipeline.common.files import read_npy_header
from pipeline.formats.format import BatchChecker, Labels, check_listed, malformed, row_range
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard, shard_name
from pipeline.stores.store import Draft, Store


class NpyFormat:
    """Arrays (n, *shape) in numpy's own format, version 1.0."""

    name = "npy"
    dtypes: tuple[str, ...] = ("float32", "float16", "uint8")
    layouts: tuple[str, ...] = ("flat",)
    libraries: tuple[str, ...] = ()
    per_sample = False

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """The generator's own values."""
        return "float32"

    def check(self, sample: SampleType) -> None:
        """Accepts any shape."""
        check_listed(self, sample)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> NpyWriter:
        """Streams the batches after a header."""
        return NpyWriter(draft, shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The samples, then the labels if there are classes."""
        conditional = sample.class_names is not None
        return [_samples_name(shard), _labels_name(shard)] if conditional else [_samples_name(shard)]

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """The whole of both files."""
        samples = self.read_rows(store, shard, sample, labels, slice(None))
        if sample.class_names is None:
            return samples, None
        return samples, _read(store, _labels_name(shard), "int32", (shard.count,), range(shard.count))

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """Reads only the header and these rows."""
        return _read(store, _samples_name(shard), sample.dtype, (shard.count, *sample.shape), row_range(shard, rows))


class NpyWriter:
    """Streams one shard."""

    def __init__(self, draft: Draft, shard: Shard, sample: SampleType) -> None:
        self._draft = draft
        self._shard = shard
        self._conditional = sample.class_names is not None
        self._intake = BatchChecker(shard, sample)
        self._sink = draft.sink(_samples_name(shard))
        self._sink.write(_header(sample.dtype, (shard.count, *sample.shape)))

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Appends the raw samples."""
        self._intake.take(samples, labels)
        self._sink.write(samples.data)

    def close(self) -> None:
        """Writes the labels."""
        self._intake.finish()
        if self._conditional:
            labels = self._intake.labels
            self._draft.add(_labels_name(self._shard), _header("int32", labels.shape) + labels.tobytes())


def _samples_name(shard: Shard) -> str:
    return shard_name(shard.index, ".npy")


def _labels_name(shard: Shard) -> str:
    return shard_name(shard.index, ".labels.npy")


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = npy_format.dtype_to_descr(np.dtype(dtype))
    npy_format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _read(store: Store, name: str, dtype: str, shape: tuple[int, ...], rows: range) -> NDArray[Any]:
    """Rows of an array that must have this dtype and shape."""
    samples = np.empty((len(rows), *shape[1:]), dtype=dtype)
    with malformed(store, name), store.open(name) as file:
        check_header(file, samples.dtype, shape)
        row_bytes = samples.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        file.seek(rows.start * row_bytes, io.SEEK_CUR)
        _fill(file, samples)
    return samples


def check_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Moves `file` to the first sample. Raises ValueError for another version, dtype, order or shape."""
    found = read_npy_header(file)
    if found != (shape, False, dtype):
        raise ValueError(f"it holds {found[2]} of shape {found[0]}, not {dtype} of shape {shape}")


def _fill(file: BinaryIO, samples: NDArray[Any]) -> None:
    if not samples.nbytes:
        return
    # BinaryIO lacks `readinto`, which the files of all stores have; `read` would make another copy.
    read = file.readinto(samples.data.cast("B"))  # type: ignore[attr-defined]
    if read != samples.nbytes:
        raise ValueError(f"it ends {samples.nbytes - read} bytes early")
