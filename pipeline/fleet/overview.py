"""The state of a fleet: the jobs, workers and queues of one Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.common.errors import UnknownJobError
from pipeline.common.settings import Settings
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo

#: The number of latest jobs that are read by default.
_LATEST = 20

#: Time over which a worker's rate is averaged, seconds.
_RATE_OVER_S = 20.0


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """The state at one time."""

    #: Running jobs by priority, queued jobs, and the latest ended jobs.
    jobs: Sequence[Job]
    #: The oldest first.
    workers: Sequence[WorkerInfo]
    #: Digest of a generator -> waiting wake-ups.
    queues: dict[str, int]

    @property
    def rate(self) -> float:
        """Samples per second of the running jobs, each since it began."""
        return sum(job.rate or 0.0 for job in self.jobs if job.state == "running")

    def has_worker(self, job: Job) -> bool:
        """Whether a worker that is up could make the job."""
        return any(worker.digest == job.digest and worker.may_write(job.destination) for worker in self.workers)

    def state_of(self, job: Job) -> str:
        """The job's state, or "held" or "no worker" if that is why nothing is made."""
        if job.live and job.held_at is not None:
            return "held"
        return "no worker" if job.live and not self.has_worker(job) else job.state

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "jobs": [job.as_json() for job in self.jobs],
            "workers": [worker.as_json() for worker in self.workers],
            "queues": self.queues,
            "rate": self.rate,
        }


class FleetMonitor:
    """Reads the state of a fleet repeatedly: the live jobs, and the `latest` others."""

    def __init__(self, settings: Settings, latest: int = _LATEST) -> None:
        self._ledger = Ledger(settings)
        self._latest = latest
        self._wakeups = Wakeups(settings, self._ledger)

    def read(self) -> FleetState:
        """The fleet now. Raises LedgerError."""
        jobs = {job.id: job for job in self._ledger.jobs(latest=self._latest)}
        for job_id in self._ledger.live_jobs():
            if job_id not in jobs:
                try:
                    jobs[job_id] = self._ledger.job(job_id)
                except UnknownJobError:  # It has ended and was deleted since it was listed.
                    continue
        workers = self._ledger.workers()
        digests = {worker.digest for worker in workers} | {job.digest for job in jobs.values() if job.live}
        return FleetState(
            jobs=sorted(jobs.values(), key=_order),
            workers=workers,
            queues={digest: self._wakeups.waiting(digest) for digest in sorted(digests) if digest},
        )


class WorkerRates:
    """The recent rate of each worker, from several states."""

    def __init__(self) -> None:
        self._history: dict[str, deque[tuple[float, int]]] = {}

    def take(self, state: FleetState) -> None:
        """Adds a state."""
        self._history = {worker.id: self._history.get(worker.id, deque()) for worker in state.workers}
        for worker in state.workers:
            history = self._history[worker.id]
            if history and worker.up_s < history[-1][0]:  # The worker was restarted.
                history.clear()
            if not history or worker.up_s > history[-1][0]:
                history.append((worker.up_s, worker.samples))
            while len(history) > 2 and history[-1][0] - history[0][0] > _RATE_OVER_S:
                history.popleft()

    def of(self, worker: WorkerInfo) -> float | None:
        """Samples per second; None if it is not known yet."""
        (first_s, first), (last_s, last) = self._history[worker.id][0], self._history[worker.id][-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None


def _order(job: Job) -> tuple[int, float, float]:
    if not job.live:
        return (2, 0, -(job.ended_at or 0))
    return (0 if job.state == "running" else 1, job.priority, job.queued_at or 0)
