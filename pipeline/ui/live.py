"""The state of the fleet for the page: read from Redis once for all viewers, and kept while Redis is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from pipeline.common.errors import LedgerError
from pipeline.common.settings import Settings
from pipeline.fleet.overview import FleetMonitor, FleetState, WorkerRates
from pipeline.jobs.job import Job
from pipeline.schedules.book import ScheduleBook
from pipeline.ui.library import Library, key_of

#: The number of latest jobs that are listed, besides the live ones.
_LATEST = 50
#: A state that is younger than this is shown to all viewers; after an error Redis is left alone for longer, seconds.
_FRESH_S, _AFTER_ERROR_S = 0.8, 2.0
#: Schedules change less often, seconds.
_SCHEDULES_S = 4.0
#: Runs of a schedule, and given-up shards and errors of a job, that are shown.
_RUNS, _FAILURES = 12, 20
#: Points of the history of the rate, one per state.
_HISTORY = 150


class Live:
    """Jobs, workers, queues and schedules now. May be used by several threads."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._settings, self._library = settings, library
        self._monitor = FleetMonitor(settings, _LATEST)
        self._book = ScheduleBook(settings)
        self._rates = WorkerRates()
        self._lock = threading.Lock()
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._state: dict[str, Any] = {
            "error": None, "seen_at": None, "jobs": [], "workers": [], "queues": [], "schedules": [],
            "schedule_errors": [], "scheduler": None, "history": [],
        }  # fmt: skip
        self._read_at = self._schedules_at = float("-inf")

    def state(self) -> dict[str, Any]:
        """The state for the page. While Redis is away: the last one, and `error` says why."""
        # One thread reads; the others show what there is, except before the first state.
        if self._lock.acquire(blocking=self._read_at == float("-inf")):
            try:
                pause = _FRESH_S if self._state["error"] is None else _AFTER_ERROR_S
                if time.monotonic() - self._read_at >= pause:
                    self._state = self._refreshed()
                    self._read_at = time.monotonic()
            finally:
                self._lock.release()
        return self._state

    def forget_schedules(self) -> None:
        """Makes the next state read everything again, after a change."""
        with self._lock:
            self._read_at = self._schedules_at = float("-inf")

    def _refreshed(self) -> dict[str, Any]:
        try:
            fleet = self._monitor.read()
            schedules = self._schedules()
        except LedgerError as error:
            return {**self._state, "error": str(error)}
        self._rates.take(fleet)
        self._library.add(job.destination for job in fleet.jobs)
        workers = [{**worker.as_json(), "rate_now": self._rates.of(worker)} for worker in fleet.workers]
        self._history.append(sum(worker["rate_now"] or 0.0 for worker in workers))
        names = {worker.digest: worker.generator for worker in fleet.workers}
        names |= {job.digest: job.generator for job in fleet.jobs}
        return {
            "error": None,
            "seen_at": time.time(),
            "jobs": [job_for_page(job, fleet) for job in fleet.jobs],
            "workers": workers,
            "queues": [
                {"digest": digest, "generator": names.get(digest, ""), "waiting": waiting}
                for digest, waiting in fleet.queues.items()
            ],
            "history": [round(rate, 1) for rate in self._history],
            **schedules,
        }

    def _schedules(self) -> dict[str, Any]:
        names = ("schedules", "schedule_errors", "scheduler")
        if time.monotonic() - self._schedules_at < _SCHEDULES_S:
            return {name: self._state[name] for name in names}
        errors: list[str] = []
        found = []
        for schedule in self._book.schedules(errors):
            try:
                runs = self._book.runs(schedule.name)[-_RUNS:]
                entry = self._book.as_json(schedule, runs[-1] if runs else None)
            except LedgerError as error:  # Damaged entries of one schedule; the others are shown.
                errors.append(f"schedule {schedule.name!r}: {error}")
                continue
            self._library.add(run.destination for run in runs if run.state == "done")
            found.append(
                {**entry, "recurrence": str(schedule.recurrence), "runs": [self._run(run.as_json()) for run in runs]}
            )
        scheduler = self._book.scheduler()
        self._schedules_at = time.monotonic()
        return dict(zip(names, (found, errors, scheduler), strict=True))

    @staticmethod
    def _run(run: dict[str, Any]) -> dict[str, Any]:
        return {**run, "dataset": key_of(run["destination"])}


def job_for_page(job: Job, fleet: FleetState) -> dict[str, Any]:
    """A job with what follows from its state, and at most some of its failures."""
    failed = sorted(job.failed.items())
    return {
        **job.as_json(),
        "failed": {str(shard): message for shard, message in failed[:_FAILURES]},
        "failed_count": len(failed),
        "errors": list(job.errors[:_FAILURES]),
        "shown_state": fleet.state_of(job),
        "live": job.live,
        "share": job.share,
        "seconds_left": job.seconds_left,
        "dataset": key_of(job.destination),
    }
