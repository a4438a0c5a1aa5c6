"""Celery's pool of one process: the worker's child, which knows nothing of Celery and starts before it.

Celery's own pool of processes starts them after itself, and each of them imports it again before it can import
TensorFlow (docs/decisions/0116-the-child-starts-first.md).
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown

from pipeline.common.errors import NoisemillError
from pipeline.jobs.broker import Wakeups
from workers.worker.child_process import ChildProcess, Message

log = logging.getLogger("noisemill")

#: A generator is given up once this number of children in a row have died while they loaded it.
_MOST_DEATHS = 3


@dataclass(frozen=True)
class _Call:
    """A wake-up that Celery has received, and Celery's callbacks."""

    #: Arguments of the task.
    wakeup: Message
    accepted: Callable[[int, float], None]
    #: Acknowledges the message.
    succeeded: Callable[[tuple[bool, None, float]], None]


class ChildPool(BasePool):
    """Passes wake-ups to the child, one at a time, and starts another child if it dies.

    All of it runs in Celery's event loop, in the main thread.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: Why the child cannot work; None while it can.
        self.fatal: str | None = None
        self._hub: Any = None
        self._waiting: deque[_Call] = deque()
        self._current: _Call | None = None
        self._ready = self._stopping = self._stopped = False
        self._deaths = 0

    def serve(self, child: ChildProcess, wakeups: Wakeups) -> None:
        """Uses this child, and sends the wake-ups that it returns to the queue. Call it before the worker starts."""
        self._child, self._wakeups = child, wakeups

    def end_slice(self) -> None:
        """Lets the child end its slice after the current batch; one that still loads ends at once."""
        self._stopping = True
        self._child.signal(signal.SIGUSR2)

    # -- what Celery calls -------------------------------------------------------------------------

    def register_with_event_loop(self, hub: Any) -> None:
        """Called again after each lost connection to Redis."""
        self._hub = hub
        hub.add_reader(self._child.fileno(), self._on_readable)

    def on_apply(
        self,
        _target: Any,
        arguments: tuple[Any, ...],
        _named: Any,
        *,
        accept_callback: Callable[[int, float], None],
        callback: Callable[[tuple[bool, None, float]], None],
        **_: Any,
    ) -> None:
        """Takes the call of a task, whose body `workers.worker.intake` has written."""
        _type, _id, _request, body, *_rest = arguments
        self._waiting.append(_Call(json.loads(body)[1], accept_callback, callback))
        self._pass_on()

    def flush(self) -> None:
        """Forgets what waits: after a lost connection it cannot be acknowledged any more."""
        self._waiting.clear()

    def on_stop(self) -> None:
        """Waits until the child has carried out its wake-up and ended."""
        if self._stopped:
            return
        self._stopped = True
        self._child.send({"stop": True})
        while (message := self._child.receive()) is not None:
            self._take(message)
        self._child.wait()
        self._conclude()

    def on_terminate(self) -> None:
        """Kills the child."""
        self._child.signal(signal.SIGKILL)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Kills the child: there is no other way to end its slice before its batch is over."""
        self.on_terminate()

    # -- messages of the child ---------------------------------------------------------------------

    def _on_readable(self) -> None:
        message = self._child.receive()
        if message is None:
            self._replace()
        else:
            self._take(message)
        if self.fatal is not None:
            raise WorkerShutdown(0)
        self._pass_on()

    def _take(self, message: Message) -> None:
        match message:
            case {"fatal": reason}:
                self.fatal = reason
            case {"ready": _}:
                self._ready, self._deaths = True, 0
            case {"send": wakeup}:
                self._send(wakeup)
            case {"done": _}:
                self._conclude()

    def _send(self, wakeup: Message) -> None:
        try:
            self._wakeups.send(**wakeup)
        except NoisemillError as error:
            log.warning("a wake-up could not be sent; the reconciler will correct that: %s", error)

    def _pass_on(self) -> None:
        """Passes the next wake-up to the child, if it waits for one."""
        if self._ready and self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._current.accepted(self._child.pid, time.monotonic())
            self._child.send(self._current.wakeup)

    def _conclude(self) -> None:
        """Acknowledges the current wake-up. If its child has died, the reconciler will send another."""
        current, self._current = self._current, None
        if current is not None:
            current.succeeded((False, None, 0.0))

    def _replace(self) -> None:
        """Starts another child in place of one that has died, unless it was told to end."""
        self._hub.remove(self._child.fileno())
        if self._stopping:
            return
        log.error("process %d, which holds the generator, exited with '%s'", self._child.pid, self._child.wait())
        self._conclude()
        self._deaths += not self._ready
        self._ready = False
        if self._deaths >= _MOST_DEATHS:
            self.fatal = f"the process died {self._deaths} times while it loaded the generator: is it too large?"
            return
        self._child.restart()
        self._hub.add_reader(self._child.fileno(), self._on_readable)
