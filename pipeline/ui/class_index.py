"""Finds the samples of a class by rank, from the label plan, without reading samples."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Labels that are counted at a time, and labels up to which all are counted at the first question.
_BLOCK, _AT_ONCE = 2**17, 2 * 10**7


class ClassIndex:
    """The members of each class in order. Counts labels block by block, as far as it has to, and remembers the counts.

    May be used by several threads.
    """

    def __init__(
        self, labels: Callable[[int, int], NDArray[np.int32]], count: int, classes: int, *, balanced: bool
    ) -> None:
        """`labels(first, n)` are those of samples `first` to `first + n - 1`; `balanced` if they are i mod classes."""
        self._labels, self._count, self._classes, self._balanced = labels, count, classes, balanced
        #: For each counted block, the members of each class before its end.
        self._until: list[NDArray[np.int64]] = []
        self._lock = threading.Lock()

    def total(self, label: int) -> int | None:
        """The number of members; None if the dataset is so large that they are not all counted yet."""
        if self._balanced:
            return max(0, -(-(self._count - label) // self._classes))
        if self._count <= _AT_ONCE:
            self._count_until(lambda: False)
        with self._lock:
            done = len(self._until) * _BLOCK >= self._count
            return int(self._until[-1][label]) if done else None

    def members(self, label: int, first: int, number: int) -> list[int]:
        """The members of a class from rank `first` on, up to `number` of them; fewer at the end."""
        if self._balanced:
            stop = min(first + number, self.total(label) or 0)
            return [label + rank * self._classes for rank in range(first, stop)]
        self._count_until(lambda: bool(self._until) and int(self._until[-1][label]) >= first + number)
        with self._lock:
            ends = [int(until[label]) for until in self._until]
        found: list[int] = []
        block = int(np.searchsorted(ends, first, side="right"))
        while len(found) < number and block < len(ends):
            start = block * _BLOCK
            labels = self._labels(start, min(_BLOCK, self._count - start))
            before = ends[block - 1] if block else 0
            members = np.flatnonzero(labels == label) + start
            skipped = max(0, first - before)
            found += members[skipped : skipped + number - len(found)].tolist()
            block += 1
        return found

    def _count_until(self, enough: Callable[[], bool]) -> None:
        """Counts blocks until `enough` or the end."""
        with self._lock:
            while len(self._until) * _BLOCK < self._count and not enough():
                start = len(self._until) * _BLOCK
                labels = self._labels(start, min(_BLOCK, self._count - start))
                counts = np.bincount(labels, minlength=self._classes).astype(np.int64)
                self._until.append(counts + (self._until[-1] if self._until else 0))
