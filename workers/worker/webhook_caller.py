"""Calls the webhooks of jobs that have ended, whichever worker ended them."""

from __future__ import annotations

import logging
import threading

from pipeline.common.errors import NoisemillError
from pipeline.jobs.webhooks import Call, Webhooks, send, shown_webhook, webhook_secret
from workers.telemetry.logs import about

log = logging.getLogger("noisemill")

#: Longest pause between two looks, seconds.
_LOOK_S = 2.0


class WebhookCaller:
    """Runs in a thread of each worker's parent process: a receiver that is slow holds up nothing else."""

    def __init__(self, webhooks: Webhooks, interval_s: float) -> None:
        self._webhooks = webhooks
        self._interval_s = min(_LOOK_S, interval_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begins at once. Raises UsageError where the secret cannot be read."""
        webhook_secret()
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a call that is under way is left to the next worker if it takes long."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def call_due(self) -> int:
        """Makes the calls that are due; answers how many were taken."""
        calls = 0
        while not self._stop.is_set() and (call := self._webhooks.take()) is not None:
            self._make(call)
            calls += 1
        return calls

    def _make(self, call: Call) -> None:
        try:
            reason = send(call, webhook_secret())
        except NoisemillError as error:
            reason = str(error)
        job = call.id.partition("@")[0]
        if reason is None:
            self._webhooks.drop(call.id)
            log.info("job %s: its webhook was called", job, extra=about(job))
            return
        pause_s = self._webhooks.put_off(call)
        again = "it is given up" if pause_s is None else f"again in {pause_s:.0f} s"
        log.warning("job %s: webhook %s failed, %s: %s", job, shown_webhook(call.url), again, reason, extra=about(job))

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                self.call_due()
                told = ""
            except NoisemillError as error:
                if str(error) != told:
                    log.warning("%s", error)
                told = str(error)
            self._stop.wait(self._interval_s)
