"""Reads samples by index, fast and with bounded memory.

On local disk `.npy` shards are memory-mapped. Tar files and files in S3, which are read in larger pieces, are read in
blocks of rows, of a Parquet file its row groups, and the latest blocks are cached. PNG files are read one by one.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats import FORMATS
from pipeline.formats.format import Labels, malformed
from pipeline.formats.npy import check_header
from pipeline.formats.parquet import row_group_rows
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import Shard
from pipeline.stores.local import LocalStore
from pipeline.stores.store import Store

#: Shards mapped at the same time; each keeps a file open.
_MAPS = 64
#: Smallest block in S3, bytes: a request takes as long for less.
_REMOTE_BLOCK_BYTES = 2**20
#: Block in a tar file, bytes. It is read from its start, so blocks are large: a whole shard of the default size.
_TAR_BLOCK_BYTES = 64 * 2**20


class RowReader:
    """Reads rows of shards of one dataset. May be used by several threads."""

    def __init__(self, spec: JobSpec, store: Store, cache_bytes: int) -> None:
        self._sample = spec.sample_type
        self._format = FORMATS[spec.format]
        self._store = store
        self._from_start = spec.format == "tar"
        self._mapped = spec.format == "npy" and isinstance(store, LocalStore)
        self._block_rows = _block_rows(spec, isinstance(store, LocalStore))
        self._cache: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()

    def read(self, shard: Shard, labels: Callable[[], Labels | None], rows: range) -> NDArray[Any]:
        """These rows of a shard, (n, *shape), as a new array.

        `labels` returns the planned labels, by which the layout "class" finds files. Raises DatasetError.
        """
        if self._mapped:
            return np.array(self._cached((shard.index, 0), partial(self._map, shard))[rows.start : rows.stop])
        if not self._block_rows:
            return self._format.read_rows(self._store, shard, self._sample, labels(), slice(rows.start, rows.stop))
        parts = []
        for first in range(rows.start // self._block_rows * self._block_rows, rows.stop, self._block_rows):
            stop = min(first + self._block_rows, shard.count)
            if rows.start <= first and stop <= rows.stop:
                # The whole block is requested, as in sequential reading: it will not be needed again.
                parts.append(self._read(shard, labels, first, stop))
                continue
            if rows.start == first and self._from_start:
                # The first images of a shard, for example for a contact sheet: the rest is many times as much.
                parts.append(self._read(shard, labels, first, rows.stop))
                continue
            block = self._cached((shard.index, first), partial(self._read, shard, labels, first, stop))
            parts.append(block[max(0, rows.start - first) : rows.stop - first])
        return np.concatenate(parts) if parts else np.empty((0, *self._sample.shape), self._sample.dtype)

    def _read(self, shard: Shard, labels: Callable[[], Labels | None], first: int, stop: int) -> NDArray[Any]:
        return self._format.read_rows(self._store, shard, self._sample, labels(), slice(first, stop))

    def _map(self, shard: Shard) -> NDArray[Any]:
        name = self._format.names(shard, self._sample, None)[0]
        shape, dtype = (shard.count, *self._sample.shape), np.dtype(self._sample.dtype)
        with malformed(self._store, name), self._store.open(name) as file:
            check_header(file, dtype, shape)
            return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)

    def _cached(self, key: tuple[int, int], read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The cached block of this key; drops the least recently used ones if there are too many."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        block = read()
        with self._lock:
            self._cache[key] = block
            while self._is_too_large() and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return block

    def _is_too_large(self) -> bool:
        if self._mapped:
            return len(self._cache) > _MAPS
        return sum(block.nbytes for block in self._cache.values()) > self._cache_bytes


def _block_rows(spec: JobSpec, local: bool) -> int:
    """Rows read and cached at a time; 0 if each is read by itself."""
    if spec.format == "png" or (spec.format == "npy" and local):
        return 0
    if spec.format == "parquet":
        return row_group_rows(spec.sample_type)
    target = _TAR_BLOCK_BYTES if spec.format == "tar" else _REMOTE_BLOCK_BYTES
    row_bytes = math.prod(spec.sample_shape) * np.dtype(spec.dtype).itemsize
    return max(1, min(spec.shard_size, target // max(1, row_bytes)))
