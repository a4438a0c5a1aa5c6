"""Writes one `.npz` file for FID tools: images uint8 (n, height, width, channels), and labels int64 (n,).

It is streamed into the store with bounded memory, and put in place only when it is complete.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.common.errors import DestinationOccupiedError, UsageError, shown
from pipeline.datasets.export.conversion import check_precision, converted
from pipeline.datasets.export.source import Source
from pipeline.formats.format import check_image
from pipeline.formats.image import image_shape
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import normalise, open_store
from pipeline.stores.store import Sink, Store, StoredFile

#: The earliest time in zip files. A fixed time makes the same bytes of the same samples.
_TIME = (1980, 1, 1, 0, 0, 0)
_LABELS_AT_A_TIME = 2**20
#: Names of the arrays by default: those that numpy gives, and guided-diffusion and the tools after it read.
_NAMES = "arr_0,arr_1"
_RGB = 3


@dataclass(frozen=True, kw_only=True)
class NpzArrays:
    """The arrays of a file."""

    #: Names of the images and of the labels.
    images: str
    labels: str
    #: Shape of an image in the file.
    shape: tuple[int, ...]


def npz_arrays(spec: JobSpec, channels: int | None, names: str | None) -> NpzArrays:
    """The arrays for samples of this spec; by default as guided-diffusion reads them, with the channels that they have.

    Raises UsageError for samples that are not images, or values that are not possible.
    """
    check_image("npz", spec.sample_type)
    check_precision(spec, "uint8")
    images, comma, labels = _NAMES.partition(",") if names is None else names.partition(",")
    if not (is_array_name(images) and (is_array_name(labels) or not comma)) or images == labels:
        raise UsageError(f"arrays {shown(names)}: give two different names as in images,labels")
    if comma == "" and spec.classes is not None:
        raise UsageError(f"arrays {shown(names)}: the samples have labels too, give two names as in images,labels")
    if channels is None:
        return NpzArrays(images=images, labels=labels, shape=spec.sample_shape)
    if channels != _RGB:
        raise UsageError(f"channels {channels}: only {_RGB} is possible, RGB")
    shape = image_shape(spec.sample_shape)
    assert shape is not None, "checked above"
    if shape[-1] not in (1, _RGB):
        raise UsageError(f"channels {_RGB}: images of {shape[-1]} channels have an alpha channel, which RGB has not")
    return NpzArrays(images=images, labels=labels, shape=(*shape[:-1], _RGB))


def is_array_name(name: str) -> bool:
    """Whether numpy and other readers of zip files take it as the name of an array."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) is not None and not name.endswith(".npy")


class NpzFile:
    """The target file. Raises UsageError if it is not `.npz`, DestinationOccupiedError if it exists."""

    def __init__(self, out: str) -> None:
        if not out.endswith(".npz"):
            raise UsageError(f"{out}: --to npz writes one file, whose name must end in .npz")
        folder, _, self.name = normalise(out).rpartition("/")
        if folder == "s3:/":
            raise UsageError(f"{out} names a bucket, not a file in one: write s3://bucket/name.npz")
        self.store: Store = open_store(folder or "/")
        self.url = normalise(out)

    def check_free(self) -> None:
        """Raises DestinationOccupiedError if the file, or a folder with its name, exists; StoreError."""
        self.store.check_writable()
        below = next(iter(self.store.list(f"{self.name}/")), None)
        if self.store.exists(self.name) or below is not None:
            raise DestinationOccupiedError(f"{self.url} is there already: remove it, or choose another name")


def write_npz(
    source: Source, file: NpzFile, arrays: NpzArrays, comment: dict[str, Any], on_batch: Callable[[int], None]
) -> StoredFile:
    """Writes the file with this archive comment; calls `on_batch` with the number of samples of each batch."""
    file.store.sweep()
    draft = file.store.draft()
    try:
        with zipfile.ZipFile(_Stream(draft.sink(file.name)), "w", zipfile.ZIP_STORED, allowZip64=True) as archive:  # type: ignore[call-overload]
            archive.comment = json.dumps(comment, sort_keys=True).encode()[:65535]
            _write_samples(archive, source, arrays, on_batch)
            if source.spec.classes is not None:
                _write_labels(archive, source, arrays.labels)
        return draft.commit()[0]
    except BaseException:
        draft.discard()
        raise


def _write_samples(
    archive: zipfile.ZipFile, source: Source, arrays: NpzArrays, on_batch: Callable[[int], None]
) -> None:
    spec = source.spec
    # The same number of values, or a third of them, each of which is repeated.
    repeats = math.prod(arrays.shape) // math.prod(spec.sample_shape)
    with archive.open(_member(f"{arrays.images}.npy"), "w", force_zip64=True) as member:
        member.write(_header(np.uint8, (spec.count, *arrays.shape)))
        first = 0
        for samples, _ in source.batches(0, spec.count):
            pixels = converted(samples, spec, "uint8", first)
            member.write(pixels.data if repeats == 1 else np.repeat(pixels.reshape(-1), repeats).data)
            first += len(samples)
            on_batch(len(samples))


def _write_labels(archive: zipfile.ZipFile, source: Source, name: str) -> None:
    count = source.spec.count
    with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
        member.write(_header(np.int64, (count,)))
        for first in range(0, count, _LABELS_AT_A_TIME):
            labels = source.dataset.labels(first, min(_LABELS_AT_A_TIME, count - first))
            assert labels is not None
            member.write(labels.astype(np.int64).data)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=_TIME)


def _header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


class _Stream:
    """A sink as a file for `zipfile`: without tell and seek, so that sizes follow each member."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: Any) -> int:
        return self._sink.write(data)

    def flush(self) -> None:
        """Does nothing: the draft's commit flushes."""
