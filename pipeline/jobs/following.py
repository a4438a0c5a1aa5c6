"""Waiting for a job to end, and reporting its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from shlex import quote

from pipeline.common.errors import JobFailedError, LedgerError, UnknownJobError
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger

#: Callback that gets the job's state while waiting for it.
Watcher = Callable[[Job], None]

_POLL_S = 0.2


class Follower:
    """Polls a job, and tolerates a Redis that is away for less than a lease."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self._job_id = ledger, job_id
        self._last: Job | None = None
        self._heard_at = time.monotonic()

    def poll(self) -> Job | None:
        """The job's state; None if Redis does not respond for now.

        Raises LedgerError once it has not responded for a lease, JobFailedError if it has lost the job, UnknownJobError
        if it never had it.
        """
        try:
            self._last = self._ledger.job(self._job_id)
        except UnknownJobError:
            if self._last is None:
                raise
            raise JobFailedError(
                f"Redis no longer has job {self._job_id}: it was emptied, or came back without its data\n"
                f"'noisemill resume {quote(self._last.destination)}' makes what is missing"
            ) from None
        except LedgerError:
            if self._last is None or time.monotonic() - self._heard_at > self._ledger.settings.lease_s:
                raise
            return None
        self._heard_at = time.monotonic()
        return self._last


def wait_for(
    ledger: Ledger,
    job_id: str,
    watcher: Watcher | None = None,
    *,
    timeout_s: float | None = None,
    check: Callable[[], None] | None = None,
) -> Job:
    """Waits until a job has ended; calls `watcher` with its state, and `check` at each poll.

    Raises the errors of `Follower.look`, and TimeoutError.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    follower = Follower(ledger, job_id)
    while True:
        job = follower.poll()
        if job is not None:
            if watcher is not None:
                watcher(job)
            if not job.live:
                return job
        if check is not None:
            check()
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"job {job_id} has not ended after {timeout_s:g} s")
        time.sleep(_POLL_S)


def cancel_and_wait(ledger: Ledger, job_id: str) -> None:
    """Cancels a job, if it is live, and waits until the workers that are up have left it.

    A worker that has not noticed yet may still put a shard in place.
    """
    try:
        if ledger.cancel(job_id) != "cancelled":
            return
    except UnknownJobError:
        return
    until = time.monotonic() + ledger.settings.lease_s
    while any(worker.job == job_id for worker in ledger.workers()) and time.monotonic() < until:
        time.sleep(_POLL_S)


def raise_unless_done(job: Job) -> None:
    """Raises JobFailedError, with what is missing and how to continue, unless the job is done."""
    if job.state == "done":
        return
    if job.state == "cancelled":
        raise JobFailedError(
            f"job {job.id} was cancelled; {job.shards_done} of {job.shards} shards are kept: "
            f"'noisemill resume {quote(job.destination)}' makes the rest"
        )
    if job.error:
        raise JobFailedError(
            f"job {job.id} failed: {job.error}\n"
            f"once that is fixed, 'noisemill resume {quote(job.destination)}' continues"
        )
    shard, reason = job.first_failed
    raise JobFailedError(
        f"job {job.id} failed: {len(job.failed)} of {job.shards} shards, the first is {shard}: {reason}\n"
        f"'noisemill resume {quote(job.destination)}' tries them again"
    )
