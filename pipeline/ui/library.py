"""The datasets that the page may show: those given on the command line, and those of jobs.

A request names a dataset by its key, a hash of the destination, never by a path.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from pipeline.common.errors import UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.stores import is_canonical, normalise
from pipeline.ui.open_dataset import OpenDataset

#: Destinations of jobs that are remembered, datasets that are kept open, and bytes that each may cache.
_KNOWN, _OPEN, _CACHE_BYTES = 1000, 6, 64 * 2**20
#: A dataset's job.json is read again after this time, seconds: it may be extended or replaced.
_RECHECK_S = 3.0


class UnknownDatasetError(UsageError):
    """There is no dataset of this key."""


def key_of(destination: str) -> str:
    """The key of a destination, as it stands in the ledger or as `normalise` returns it: 16 hexadecimal digits."""
    return hashlib.sha256(destination.encode(errors="replace")).hexdigest()[:16]


class Library:
    """The known destinations, and their datasets opened. May be used by several threads."""

    def __init__(self, destinations: Sequence[str]) -> None:
        """The destinations that the user gave. Raises UsageError for an invalid one."""
        self.given = {key_of(url): url for url in map(normalise, destinations)}
        self._of_jobs: OrderedDict[str, str] = OrderedDict()
        self._open: OrderedDict[str, tuple[float, OpenDataset]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, destinations: Iterable[str]) -> None:
        """Adds destinations of jobs, which come from Redis; ignores invalid ones."""
        with self._lock:
            for url in destinations:
                key = key_of(url)
                if key in self._of_jobs:
                    self._of_jobs.move_to_end(key)
                elif is_canonical(url):
                    self._of_jobs[key] = url
            while len(self._of_jobs) > _KNOWN:
                self._of_jobs.popitem(last=False)

    def destinations(self) -> dict[str, str]:
        """Key -> destination: those given, then those of jobs, the latest first."""
        with self._lock:
            return {**self.given, **dict(reversed(self._of_jobs.items()))}

    def open(self, key: str) -> OpenDataset:
        """The dataset of a key. Raises UnknownDatasetError, DatasetError, StoreError."""
        with self._lock:
            url = self.given.get(key) or self._of_jobs.get(key)
            checked_at, found = self._open.get(key, (float("-inf"), None))
        if url is None:
            raise UnknownDatasetError(
                "this page knows no such dataset: it shows those of jobs, and those it was started with"
            )
        if found is not None and time.monotonic() - checked_at < _RECHECK_S:
            return found
        fresh = Dataset(url, cache_bytes=_CACHE_BYTES)
        if found is None or found.dataset.spec != fresh.spec:
            found = OpenDataset(fresh)
        with self._lock:
            self._open[key] = (time.monotonic(), found)
            self._open.move_to_end(key)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return found
