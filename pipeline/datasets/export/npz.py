"""Writes one `.npz` file for FID tools: `arr_0` uint8 (n, height, width, channels), `arr_1` int64 labels.

It is streamed into the store with bounded memory, and put in place only when it is complete.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.common.errors import DestinationOccupiedError, UsageError
from pipeline.datasets.export.conversion import check_precision, converted
from pipeline.datasets.export.source import Source
from pipeline.formats.format import check_image
from pipeline.stores import normalise, open_store
from pipeline.stores.store import Sink, Store, StoredFile

#: The earliest time in zip files. A fixed time makes the same bytes of the same samples.
_TIME = (1980, 1, 1, 0, 0, 0)
_LABELS_AT_A_TIME = 2**20


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


def write_npz(source: Source, file: NpzFile, comment: dict[str, Any], on_batch: Callable[[int], None]) -> StoredFile:
    """Writes the file with this archive comment; calls `on_batch` with the number of samples of each batch."""
    check_image("npz", source.spec.sample_type)
    check_precision(source.spec, "uint8")
    file.store.sweep()
    draft = file.store.draft()
    try:
        with zipfile.ZipFile(_Stream(draft.sink(file.name)), "w", zipfile.ZIP_STORED, allowZip64=True) as archive:  # type: ignore[call-overload]
            archive.comment = json.dumps(comment, sort_keys=True).encode()[:65535]
            _write_samples(archive, source, on_batch)
            if source.spec.classes is not None:
                _write_labels(archive, source)
        return draft.commit()[0]
    except BaseException:
        draft.discard()
        raise


def _write_samples(archive: zipfile.ZipFile, source: Source, on_batch: Callable[[int], None]) -> None:
    spec = source.spec
    with archive.open(_member("arr_0.npy"), "w", force_zip64=True) as member:
        member.write(_header(np.uint8, (spec.count, *spec.sample_shape)))
        first = 0
        for samples, _ in source.batches(0, spec.count):
            member.write(converted(samples, spec, "uint8", first).data)
            first += len(samples)
            on_batch(len(samples))


def _write_labels(archive: zipfile.ZipFile, source: Source) -> None:
    count = source.spec.count
    with archive.open(_member("arr_1.npy"), "w", force_zip64=True) as member:
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
