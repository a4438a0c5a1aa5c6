"""Reads the samples of a complete dataset in order, and checks each file against its receipt."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from shlex import quote
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.reading import RowReader
from pipeline.datasets.receipts import EngineRecord, Receipt
from pipeline.datasets.verification import damaged_inputs
from pipeline.stores.store import Store, StoredFile

#: Files up to this size are read once and kept in memory; larger ones are read twice, for the check and for decoding.
_WHOLE_BYTES = 64 * 2**20
_PIECE_BYTES = 4 * 2**20
#: Bytes of samples in a batch.
_BATCH_BYTES = 8 * 2**20


class CheckedFiles:
    """The files of one shard, whose hashes must match its receipt. Implements the reading part of `Store`."""

    def __init__(self, store: Store, receipt: Receipt) -> None:
        self.url = store.url
        self._store = store
        self._expected = {file.name: file for file in receipt.files}
        self._kept: dict[str, bytes] = {}
        self._checked: set[str] = set()

    def read(self, name: str) -> bytes:
        """The whole file. Raises DatasetError if it is not what its receipt says."""
        data = self._store.read(name)
        self._check(self._expected[name], hashlib.sha256(data).hexdigest(), len(data))
        return data

    def open(self, name: str) -> BinaryIO:
        """The file for reading in pieces. Raises DatasetError if it is not what its receipt says."""
        expected = self._expected[name]
        if expected.size_bytes <= _WHOLE_BYTES:
            if name not in self._kept:
                self._kept = {name: self.read(name)}
            return io.BytesIO(self._kept[name])
        if name not in self._checked:
            digest, size_bytes = hashlib.sha256(), 0
            with self._store.open(name) as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
                    size_bytes += len(piece)
            self._check(expected, digest.hexdigest(), size_bytes)
            self._checked.add(name)
        return self._store.open(name)

    def _check(self, expected: StoredFile, sha256: str, size_bytes: int) -> None:
        if (sha256, size_bytes) == (expected.sha256, expected.size_bytes):
            return
        cut = f" (it has {size_bytes:,} bytes of {expected.size_bytes:,})" if size_bytes < expected.size_bytes else ""
        raise DatasetError(
            f"{self.url}/{expected.name} is damaged: its hash is not its receipt's{cut}; "
            f"'noisemill resume {quote(self.url)}' makes it again"
        )


class Source:
    """A complete dataset to export. May be used by several threads; keeps files of `shards_kept` shards in memory.

    Raises DatasetError if it is incomplete, has no samples, or the user's files are damaged.
    """

    def __init__(self, destination: str, *, shards_kept: int) -> None:
        self.dataset = Dataset(destination)
        self.spec = self.dataset.spec
        manifest = self.dataset.manifest()
        if self.spec.format == "null":
            raise DatasetError(f"{self.dataset.url} holds no samples: it was made with --format null")
        if manifest is None or not self.dataset.whole:
            raise DatasetError(
                f"{self.dataset.url} is not whole: 'noisemill resume {quote(self.dataset.url)}' makes what is missing"
            )
        self.manifest = manifest
        if problems := damaged_inputs(self.dataset):
            raise DatasetError(f"{self.dataset.url}: {problems[0]}")
        self._shards_kept = shards_kept
        self._readers: OrderedDict[int, _ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    def batches(self, first: int, count: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int32] | None]]:
        """Samples `first` to `first + count - 1` as stored, with their labels, a few megabytes at a time."""
        rows = max(1, _BATCH_BYTES // max(1, self._sample_bytes()))
        stop = first + count
        while first < stop:
            shard = self.dataset.plan[first // self.spec.shard_size]
            taken = min(rows, stop - first, shard.first + shard.count - first)
            yield self._reader(shard.index).rows(first - shard.first, taken), self.dataset.labels(first, taken)
            first += taken

    def made_by(self, index: int) -> EngineRecord:
        """The engine that computed a sample."""
        return self._reader(index // self.spec.shard_size).receipt.made_by

    def _reader(self, index: int) -> _ShardReader:
        with self._lock:
            if index not in self._readers:
                self._readers[index] = _ShardReader(self.dataset, index)
            self._readers.move_to_end(index)
            while len(self._readers) > self._shards_kept:
                self._readers.popitem(last=False)
            return self._readers[index]

    def _sample_bytes(self) -> int:
        return int(np.prod(self.spec.sample_shape, dtype=np.int64)) * np.dtype(self.spec.dtype).itemsize


class _ShardReader:
    """Reads one shard, one thread at a time, since neighboring batches need the same file."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        receipt = dataset.receipt(index)
        if receipt is None:
            raise DatasetError(
                f"{dataset.url}: shard {index} has no receipt: 'noisemill resume {quote(dataset.url)}' makes it again"
            )
        self.receipt = receipt
        self._shard = dataset.plan[index]
        self._dataset = dataset
        files: Any = CheckedFiles(dataset.store, receipt)
        self._rows = RowReader(dataset.spec, files, _WHOLE_BYTES)
        self._lock = threading.Lock()

    def rows(self, start: int, count: int) -> NDArray[Any]:
        with self._lock:
            return self._rows.read(self._shard, self._labels, range(start, start + count))

    def _labels(self) -> NDArray[np.int32] | None:
        return self._dataset.labels(self._shard.first, self._shard.count)
