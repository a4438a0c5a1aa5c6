"""Runs the rest of a slice, which needs no device, while the next slice has it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("noisemill")


class Background:
    """Runs the rests of slices in a thread, one after another, so at most one beside the current slice."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether the rest of a slice is running."""
        return self._thread is not None and self._thread.is_alive()

    def take_over(self, rest: Callable[[], None]) -> None:
        """Waits for the rest that is running, then starts this one and returns."""
        self.wait()
        self._thread = threading.Thread(target=_run, args=(rest,), name="background", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for the rest that is running, if any."""
        if self._thread is not None:
            self._thread.join()


def _run(rest: Callable[[], None]) -> None:
    try:
        rest()
    except Exception:
        log.exception("the rest of a slice failed with an unexpected error")
