"""Calls the webhooks of jobs that have ended, whichever worker ended them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.common.errors import NoisemillError
from pipeline.jobs.webhooks import Call, Webhooks, receiver_of, send, shown_webhook, webhook_secret
from workers.telemetry.logs import Repeated, about

log = logging.getLogger("noisemill")

#: Longest poll interval, seconds.
_POLL_S = 2.0
#: Receivers called at the same time, and calls taken per poll.
_RECEIVERS, _CALLS = 8, 64
#: Calls taken longer ago than this are given back before their lease (a minute) expires, seconds.
_OLDEST_S = 30.0
#: Pause of a receiver after its first failure, doubled with each further one up to the longest, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass
class _Receiver:
    """The state of one receiver (scheme, host and port)."""

    busy: bool = False
    failures: int = 0
    #: Not called before this time, by the caller's clock.
    free_at: float = 0.0


class WebhookCaller:
    """Runs in threads of each worker's parent process.

    Each receiver is called in a thread of its own, one call at a time, so a slow or failing receiver does not delay the
    others. After a failure, all calls to the receiver pause.
    """

    def __init__(self, webhooks: Webhooks, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._webhooks = webhooks
        self._interval_s = min(_POLL_S, interval_s)
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._lock = threading.Lock()
        self._receivers: dict[str, _Receiver] = {}
        self._repeated = Repeated(log)

    def start(self) -> None:
        """Starts the thread. Raises UsageError if the secret cannot be read."""
        webhook_secret()
        self._thread.start()

    def stop(self) -> None:
        """Stops it. Calls in progress that take long are left to another worker."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def call_due(self) -> int:
        """Makes all due calls and waits for them; returns their number."""
        calls, threads = self._start_due()
        for thread in threads:
            thread.join()
        return calls

    def _start_due(self) -> tuple[int, list[threading.Thread]]:
        due: dict[str, list[Call]] = {}
        taken_at = self._clock()
        with self._lock:
            room = _RECEIVERS - sum(receiver.busy for receiver in self._receivers.values())
        for _ in range(_CALLS):
            if self._stop.is_set() or len(due) >= room or (call := self._webhooks.take()) is None:
                break
            name = receiver_of(call.url)
            pause_s = self._pause_s(name)
            if pause_s > 0:
                self._webhooks.postpone(call, pause_s)
            else:
                due.setdefault(name, []).append(call)
        threads = []
        for name, calls in due.items():
            with self._lock:
                self._receivers.setdefault(name, _Receiver()).busy = True
            thread = threading.Thread(target=self._call_all, args=(name, calls, taken_at), name=name, daemon=True)
            thread.start()
            threads.append(thread)
        return sum(map(len, due.values())), threads

    def _pause_s(self, name: str) -> float:
        """Remaining pause of a receiver, seconds."""
        with self._lock:
            receiver = self._receivers.get(name)
            if receiver is None:
                return 0.0
            return _FIRST_PAUSE_S if receiver.busy else receiver.free_at - self._clock()

    def _call_all(self, name: str, calls: list[Call], taken_at: float) -> None:
        """Makes the calls to one receiver; after a failure the others are postponed.

        Calls with the fewest tries come first, so that a path that never responds does not delay the others for ever.
        """
        pause_s = 0.0
        try:
            for call in sorted(calls, key=lambda call: call.tries):
                if pause_s or self._stop.is_set() or self._clock() - taken_at > _OLDEST_S:
                    self._webhooks.postpone(call, pause_s)
                else:
                    pause_s = self._note(name, well=self._make(call))
        except NoisemillError as error:
            self._repeated.warn(error)
        finally:
            with self._lock:
                self._receivers[name].busy = False

    def _note(self, name: str, *, well: bool) -> float:
        """Records the result of a call to a receiver; returns the pause that follows, seconds."""
        with self._lock:
            receiver = self._receivers[name]
            receiver.failures = 0 if well else receiver.failures + 1
            pause_s = 0.0 if well else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(receiver.failures - 1, 10))
            receiver.free_at = self._clock() + pause_s
            return pause_s

    def _make(self, call: Call) -> bool:
        """Makes a call. Returns whether the receiver accepted it."""
        try:
            reason = send(call, webhook_secret())
        except NoisemillError as error:
            reason = str(error)
        job = call.id.partition("@")[0]
        if reason is None:
            self._webhooks.drop(call.id)
            log.info("job %s: its webhook was called", job, extra=about(job))
            return True
        pause_s = self._webhooks.put_off(call)
        again = "it is given up" if pause_s is None else f"again in {pause_s:.0f} s"
        log.warning("job %s: webhook %s failed, %s: %s", job, shown_webhook(call.url), again, reason, extra=about(job))
        return False

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._start_due()
                self._repeated.clear()
            except NoisemillError as error:
                self._repeated.warn(error)
            self._stop.wait(self._interval_s)
