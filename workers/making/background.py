"""What is left of a slice when it needs no device any more, carried out beside the next slice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

log = logging.getLogger("noisemill")


class Background:
    """Goes through what is left of slices in a thread, one after another: no more than one is beside the next slice."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._thread is not None and self._thread.is_alive()

    def take_over(self, rest: Iterator[object]) -> None:
        """Goes through `rest`. Returns once what is under way, if anything is, is over."""
        self.wait()
        self._thread = threading.Thread(target=_exhaust, args=(rest,), name="background", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for what is under way."""
        if self._thread is not None:
            self._thread.join()


def _exhaust(rest: Iterator[object]) -> None:
    try:
        for _ in rest:
            pass
    except Exception:
        log.exception("what was left of a slice ended in what was not foreseen")
