"""Uploads in the background, bounded in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipeline.common.errors import StoreError

#: Overhead per waiting upload; limits the number of tiny files in the queue.
_OVERHEAD_BYTES = 4096


class Uploads:
    """Threads that carry out uploads; at most `limit_bytes` are in progress or waiting.

    One thread submits. The first failure drops all uploads that have not begun, and the next call raises it.
    """

    def __init__(self, *, threads: int, limit_bytes: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="s3-upload")
        self._limit_bytes = limit_bytes
        self._pending_bytes = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    def submit(self, size_bytes: int, upload: Callable[[], None]) -> None:
        """Starts `upload` once there is room for it. Raises the error of an earlier one."""
        cost = size_bytes + _OVERHEAD_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(cost))
            self._raise_failure()
            self._pending_bytes += cost
        self._pool.submit(self._run, cost, upload)

    def finish(self) -> None:
        """Waits for all uploads. Raises the error of the first that failed, usually a StoreError."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending_bytes)
            self._raise_failure()

    def stop(self) -> None:
        """Drops the uploads that have not begun, waits for the others, ends the threads."""
        with self._changed:
            self._failure = self._failure or StoreError("the upload was given up")
        self._pool.shutdown(wait=True)

    def _has_room(self, cost: int) -> bool:
        fits = self._pending_bytes + cost <= self._limit_bytes
        # An upload above the limit runs alone.
        return fits or not self._pending_bytes or self._failure is not None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self, cost: int, upload: Callable[[], None]) -> None:
        failure: Exception | None = None
        try:
            if self._failure is None:
                upload()
        # Any error: if the next call did not raise it, it would be lost in this thread.
        except Exception as error:
            failure = error
        finally:
            with self._changed:
                self._failure = self._failure or failure
                self._pending_bytes -= cost
                self._changed.notify_all()
