"""Sends missing wake-ups and repairs the ledger: the one mechanism for every kind of loss.

A killed child, a killed worker, a lost message, an emptied queue and a worker that joins late are all the same case: a
job with fewer wake-ups than workers.

In each interval, one worker of a generator looks for all of them: if each did, each would read what all announce, and
Redis would be asked for the square of their number.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence

from pipeline.common.errors import NoisemillError, UnknownJobError
from pipeline.common.formatting import shard_count
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo
from workers.telemetry.logs import Repeated

log = logging.getLogger("noisemill")

#: The number of damaged entries that a worker remembers to have logged.
_REMEMBERED = 100
#: Part of the interval for which a turn lasts: shorter than the shortest pause, so that a lone worker has every turn.
_TURN = 0.75


class Reconciler:
    """Runs in a thread of each worker's parent process, which never imports TensorFlow."""

    def __init__(self, ledger: Ledger, wakeups: Wakeups, worker_id: str, interval_s: float) -> None:
        self._ledger, self._wakeups = ledger, wakeups
        self._worker_id = worker_id
        self._interval_s = interval_s
        #: Wake-ups sent so far.
        self.sent = 0
        self._stop = threading.Event()
        self._logged: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Starts with a round at once; the next ones follow at its interval."""
        self._thread.start()

    def stop(self) -> None:
        """Stops it, if it has started; waits for the current round."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=15)

    def take_turn(self) -> int:
        """One round, unless another worker of this generator has just made one; returns the number of wake-ups sent."""
        mine = self._ledger.worker(self._worker_id)
        if mine is None:  # The child is not up yet and could not take a wake-up.
            return 0
        if not self._ledger.takes_turn(f"reconciling:{mine.digest}", _TURN * self._interval_s):
            return 0
        return self.reconcile()

    def reconcile(self) -> int:
        """One round over the live jobs of this worker's generator; returns the number of wake-ups sent."""
        workers = self._ledger.workers()
        mine = next((worker for worker in workers if worker.id == self._worker_id), None)
        if mine is None:
            return 0
        sent = 0
        mends = self._ledger.takes_turn("mending", self._interval_s)
        if mends:
            self._ledger.repair_lists()
        for job_id in self._ledger.live_jobs():
            try:
                if mends and (repaired := self._ledger.repair(job_id)):
                    log.warning("job %s: Redis had lost track of %s: put back", job_id, shard_count(repaired))
                sent += self._send_missing(job_id, mine, workers)
            except UnknownJobError:  # Redis has lost parts of it; continue with the others.
                continue
            except DamagedEntryError as error:
                self._log_once(job_id, str(error))
        self.sent += sent
        return sent

    def _send_missing(self, job_id: str, mine: WorkerInfo, workers: Sequence[WorkerInfo]) -> int:
        job = self._ledger.job(job_id)
        if job.digest != mine.digest or not job.live:
            return 0
        able = sum(worker.digest == job.digest and worker.may_write(job.destination) for worker in workers)
        return self._wakeups.send_missing(job_id, job.digest, job.priority, workers=able) if able else 0

    def _log_once(self, job_id: str, message: str) -> None:
        if self._logged.get(job_id) != message:
            log.warning("%s", message)
        self._logged = dict(list(self._logged.items())[-_REMEMBERED:]) | {job_id: message}

    def _run(self) -> None:
        repeated = Repeated(log)
        while not self._stop.is_set():
            try:
                sent = self.take_turn()
                repeated.clear()
                if sent:
                    log.info("sent %d missing wake-ups", sent)
            except NoisemillError as error:
                repeated.warn(error)
            # Workers that were started together should not reconcile at the same time.
            self._stop.wait(self._interval_s * random.uniform(0.8, 1.2))  # noqa: S311
