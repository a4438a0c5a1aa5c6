"""How long the mill's stages were busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.datasets.stages import STAGES
from pipeline.stores.store import Draft, Sink, StoredFile


class StageClock:
    """Seconds during which each stage was busy, with any number of threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._busy = dict.fromkeys(STAGES, 0)
        self._since = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Counts the time inside as busy."""
        with self._lock:
            if not self._busy[stage]:
                self._since[stage] = time.perf_counter()
            self._busy[stage] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[stage] -= 1
                if not self._busy[stage]:
                    self.seconds[stage] += time.perf_counter() - self._since[stage]

    def add(self, stage: str, seconds: float) -> None:
        """Counts seconds as busy."""
        with self._lock:
            self.seconds[stage] += seconds

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        with self._lock:
            now = time.perf_counter()
            for stage in filter(self._busy.get, STAGES):  # With two batches at a time, one is always in progress.
                self.seconds[stage] += now - self._since[stage]
                self._since[stage] = now
            taken, self.seconds = self.seconds, dict.fromkeys(STAGES, 0.0)
        return taken


class TimedDraft:
    """A draft that counts the seconds spent in it."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.seconds = 0.0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def sink(self, name: str) -> _TimedSink:
        """A stream whose time is counted here."""
        with self.busy():
            return _TimedSink(self._draft.sink(name), self)

    def add(self, name: str, data: bytes) -> None:
        """Adds a whole small file."""
        # Some formats call this for every sample, so without the cost of a context manager.
        start = time.perf_counter()
        self._draft.add(name, data)
        self.seconds += time.perf_counter() - start

    def commit(self) -> list[StoredFile]:
        """Puts all files in place."""
        return self._draft.commit()

    def discard(self, *, keep_placed: bool = False) -> None:
        """Removes the files of this attempt."""
        self._draft.discard(keep_placed=keep_placed)


class _TimedSink:
    """A sink whose time is counted by its draft."""

    def __init__(self, sink: Sink, draft: TimedDraft) -> None:
        self._sink, self._draft = sink, draft

    def write(self, data: Any) -> int:
        with self._draft.busy():
            return self._sink.write(data)
