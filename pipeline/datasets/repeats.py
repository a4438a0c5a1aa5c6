"""Counts the samples of a shard that equal another one, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

#: Samples that all others are compared with. 8 bytes each, and as much for sorting, make 64 MiB.
MOST_KEPT = 2**22


class Repeats:
    """Counts samples by the hashes of their bytes.

    Exact up to `most_kept` samples. Later samples are compared only with the first `most_kept`, so the count is a lower
    bound: a generator that has collapsed to a few samples makes them among the first millions already.
    """

    def __init__(self, count: int, most_kept: int = MOST_KEPT) -> None:
        self._hashes = np.empty(min(count, most_kept), np.uint64)
        self._seen = 0
        #: The distinct hashes among those kept, and their counts; set once no more are kept.
        self._known: tuple[NDArray[np.uint64], NDArray[np.intp]] | None = None

    def add(self, samples: NDArray[Any] | Sequence[bytes]) -> None:
        """Adds samples: (n, sample_size), C-contiguous, or the bytes of each."""
        fresh = np.fromiter(map(xxh3_64_intdigest, samples), np.uint64, count=len(samples))
        kept = fresh[: len(self._hashes) - self._seen]
        self._hashes[self._seen : self._seen + len(kept)] = kept
        self._seen += len(kept)
        if len(kept) < len(fresh):
            self._compare(fresh[len(kept) :])

    def count(self) -> int:
        """Number of samples that equal another one."""
        counts = self._counted()[1]
        return int(counts[counts > 1].sum())

    def _compare(self, later: NDArray[np.uint64]) -> None:
        self._known = known, counts = self._counted()
        at = np.minimum(np.searchsorted(known, later), len(known) - 1)
        np.add.at(counts, at[known[at] == later], 1)

    def _counted(self) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
        if self._known is not None:
            return self._known
        return np.unique(self._hashes[: self._seen], return_counts=True)
