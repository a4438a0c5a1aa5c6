"""Carries out the runs of schedules: submits a job for each due run, follows it, and deletes old datasets.

It runs in threads of the active scheduler. Every step can be repeated: a run's destination and seed are in the book, so
a second attempt submits the same job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pipeline.client.making import plan_job
from pipeline.client.removal import remove_dataset
from pipeline.common.errors import (
    DatasetError,
    DestinationOccupiedError,
    LedgerError,
    NoisemillError,
    StoreError,
    UnknownJobError,
    shown,
)
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import read_spec
from pipeline.datasets.verification import verify
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger, QueueOptions
from pipeline.jobs.request import JobRequest
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.schedule import Run, Schedule
from pipeline.stores import normalise, open_store
from workers.telemetry.logs import about
from workers.telemetry.metrics import RUNS_ENDED

log = logging.getLogger("noisemill")

#: Poll interval of the book, seconds.
_POLL_S = 0.5
#: Pause before a failed step is repeated, and the longest that a run waits for a failing store, seconds.
_RETRY_S, _GIVE_UP_S = 10.0, 3600.0
_ENDS = {"done": "is done", "failed": "failed", "cancelled": "was cancelled"}
#: The number of failed or cancelled runs that are still followed: the user may resume them.
_WATCHED = 3


class Steward:
    """Two threads over the book: one for jobs, one for `--keep`, whose reading may take long."""

    def __init__(self, book: ScheduleBook) -> None:
        self._book = book
        self._ledger = Ledger(book.settings)
        self._stop = threading.Event()
        self._not_before: dict[tuple[str, int], float] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(self.advance,), name="steward", daemon=True),
            threading.Thread(target=self._run, args=(self.keep,), name="keeper", daemon=True),
        ]

    def start(self) -> None:
        """Starts both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops after the current step, if that does not take long."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=3)

    # -- jobs ----------------------------------------------------------------------------------------

    def advance(self, schedule: Schedule) -> bool:
        """Follows the jobs of a schedule's runs, and submits a job for the next waiting run.

        Returns whether to call it again even if nothing changes in the book.
        """
        runs = self._book.runs(schedule.name)
        going = [run for run in runs if run.going and run.job]
        ended = [run for run in runs[-_WATCHED:] if run.state in ("failed", "cancelled") and run.job]
        for run in going + ended:
            self._follow(schedule, run)
        waiting = next((run for run in runs if run.going and not run.job), None)
        if waiting is not None and not going and self._is_time_for(schedule, waiting):
            self._try_submit(schedule, waiting)
        return bool(going or ended or waiting)

    def _is_time_for(self, schedule: Schedule, run: Run) -> bool:
        return time.monotonic() >= self._not_before.get((schedule.name, run.number), 0.0)

    def _follow(self, schedule: Schedule, run: Run) -> None:
        assert run.job is not None
        try:
            job = self._ledger.job(run.job)
        except UnknownJobError:
            if run.going and self._ledger.was_deleted(run.job):
                self._end(schedule, run, "failed", "its job was removed")
            elif run.going and self._is_time_for(schedule, run):
                log.warning("schedule %s: Redis has lost job %s of run %d: it is submitted again",
                            schedule.name, run.job, run.number)  # fmt: skip
                self._try_submit(schedule, run)
            return
        if job.state in ("done", "failed", "cancelled"):
            if job.state != run.state:
                self._end(schedule, run, job.state, _why(job), samples=job.samples_done, ended_at=job.ended_at)
        elif job.state in ("queued", "running") and (job.state, job.samples_done) != (run.state, run.samples):
            self._book.update(
                schedule.name, run.number, state=job.state, samples=job.samples_done, error=None, ended_at=None
            )

    def _try_submit(self, schedule: Schedule, run: Run) -> None:
        """Submits a job. A failing store is tried again for an hour; any other error ends the run."""
        try:
            self._submit(schedule, run)
        except LedgerError:
            raise
        except StoreError as error:
            if time.time() - run.fired_at > _GIVE_UP_S:
                self._end(schedule, run, "failed", str(error))
                return
            self._not_before[schedule.name, run.number] = time.monotonic() + _RETRY_S
            if run.error != str(error):
                log.warning("schedule %s: run %d waits for its store: %s", schedule.name, run.number, error)
                self._book.update(schedule.name, run.number, error=str(error))
        except Exception as error:
            # An error must not stop the other schedules.
            reason = str(error)
            if not isinstance(error, NoisemillError):
                reason = f"{type(error).__name__}: {shown(reason)}"
                log.exception("schedule %s: run %d failed with an unexpected error", schedule.name, run.number)
            self._end(schedule, run, "failed", reason)

    def _submit(self, schedule: Schedule, run: Run) -> None:
        planned = plan_job(schedule.generator, JobRequest(**{**schedule.request, "seed": run.seed}))
        self._claim_destination(schedule, run)
        handle = planned.at(run.destination).enqueue(
            self._ledger,
            QueueOptions(
                priority=schedule.priority,
                parallel=schedule.parallel,
                schedule=schedule.name,
                webhook=schedule.webhook,
            ),
        )
        self._book.update(
            schedule.name,
            run.number,
            state="queued",
            job=handle.id,
            spec_sha256=planned.spec.sha256,
            error=(handle.warning or "").partition(": start one")[0] or None,
        )
        log.info("schedule %s: run %d is job %s", schedule.name, run.number, handle.id, extra=about(handle.id))

    def _claim_destination(self, schedule: Schedule, run: Run) -> None:
        """Checks that a run's destination is free or its own. Raises DestinationOccupiedError."""
        store = open_store(run.destination)
        occupied = read_spec(store) is not None
        # In this order: another scheduler, which is about to lose the lock, may have placed the run meanwhile.
        placed = any(known.placed for known in self._book.runs(schedule.name) if known.number == run.number)
        if occupied and not placed:
            raise DestinationOccupiedError(
                f"{store.url} holds a job that this schedule did not make: move it away, or change the template"
            )
        if not placed:
            self._book.update(schedule.name, run.number, placed=True)

    def _end(
        self,
        schedule: Schedule,
        run: Run,
        state: str,
        error: str | None,
        *,
        samples: int = 0,
        ended_at: float | None = None,
    ) -> None:
        self._not_before.pop((schedule.name, run.number), None)
        self._book.update(
            schedule.name, run.number, state=state, error=error, samples=samples, ended_at=ended_at or time.time()
        )
        RUNS_ENDED.labels(schedule.name, state).inc()
        level = logging.INFO if state == "done" else logging.WARNING
        log.log(
            level, "schedule %s: run %d %s%s", schedule.name, run.number, _ENDS[state], f": {error}" if error else ""
        )

    # -- datasets ------------------------------------------------------------------------------------

    def keep(self, schedule: Schedule) -> bool:
        """Verifies finished runs, and deletes the oldest intact datasets beyond those to keep.

        Returns False: call it again once the book has changed.
        """
        if schedule.keep is None:
            return False
        for run in self._book.runs(schedule.name):
            if schedule.may_remove(run) and run.state == "done" and run.verified is None and not self._stop.is_set():
                self._verify(schedule, run)
        runs = self._book.runs(schedule.name)
        sound = [run for run in runs if schedule.may_remove(run) and run.state == "done" and run.verified]
        surplus = sound[: -schedule.keep]
        if not surplus:
            return False
        # A user who deleted a newer dataset by hand does not want older ones deleted in its place.
        gone = [run for run in sound[-schedule.keep :] if not Dataset(run.destination).whole]
        for run in gone:
            self._book.update(schedule.name, run.number, verified=False, error="it is no longer complete")
        if not gone:
            for run in surplus:
                self._remove(schedule, run)
        return False

    def _verify(self, schedule: Schedule, run: Run) -> None:
        try:
            report = verify(run.destination)
            problems = report.problems
        except DatasetError as error:
            problems = [str(error)]
        if problems:
            log.warning("schedule %s: run %d does not count as kept: %s", schedule.name, run.number, problems[0])
        self._book.update(schedule.name, run.number, verified=not problems, error=problems[0] if problems else None)

    def _remove(self, schedule: Schedule, run: Run) -> None:
        assert run.spec_sha256 is not None
        try:
            if normalise(run.destination) != run.destination:
                raise DatasetError(f"{run.destination} is a link now: what it leads to is left alone")
            remove_dataset(run.destination, run.spec_sha256, self._ledger)
        except DatasetError as error:
            log.warning("schedule %s: run %d: %s", schedule.name, run.number, error)
            self._book.update(schedule.name, run.number, verified=False, error=str(error))
            return
        self._book.update(schedule.name, run.number, state="removed")
        log.info("schedule %s: run %d is removed from %s", schedule.name, run.number, run.destination)

    # -- inside --------------------------------------------------------------------------------------

    def _run(self, step: Callable[[Schedule], bool]) -> None:
        logged: dict[str, str] = {}
        settled: dict[str, tuple[Schedule, str | None]] = {}
        not_before: dict[str, float] = {}
        while not self._stop.wait(_POLL_S):
            try:
                schedules, changes = self._book.schedules(unreadable=[]), self._book.changes()
            except LedgerError:
                continue  # The main thread logs it.
            for schedule in schedules:
                if self._stop.is_set():
                    return
                present = (schedule, changes.get(schedule.name))
                if settled.get(schedule.name) == present or time.monotonic() < not_before.get(schedule.name, 0.0):
                    continue
                try:
                    again = step(schedule)
                    logged.pop(schedule.name, None)
                    if not again:
                        settled[schedule.name] = present
                except Exception as error:
                    # An error of one schedule must not stop the others. It is logged once, and the step repeated.
                    if logged.get(schedule.name) != str(error):
                        expected = isinstance(error, NoisemillError)
                        log.warning("schedule %s: %s", schedule.name, error, exc_info=None if expected else error)
                    logged[schedule.name] = str(error)
                    not_before[schedule.name] = time.monotonic() + _RETRY_S


def _why(job: Job) -> str | None:
    if job.state != "failed":
        return None
    if job.error:
        return job.error
    shard, reason = job.first_failed
    return f"shard {shard}: {reason}"
