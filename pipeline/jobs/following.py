"""Following a job until it has ended, and saying what has become of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from shlex import quote

from pipeline.common.errors import JobFailedError, LedgerError, UnknownJobError
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger

#: What is called with the job's state while one waits for it.
Watcher = Callable[[Job], None]

_POLL_S = 0.2


class Follower:
    """Looks at a job again and again, and is patient with a Redis that is away for less than a lease."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self._job_id = ledger, job_id
        self._last: Job | None = None
        self._heard_at = time.monotonic()

    def look(self) -> Job | None:
        """The job's state; None where Redis does not answer just now.

        Raises LedgerError once it has not answered for a lease, JobFailedError where it has forgotten the job,
        UnknownJobError where it never knew it.
        """
        try:
            self._last = self._ledger.job(self._job_id)
        except UnknownJobError:
            if self._last is None:
                raise
            raise JobFailedError(
                f"Redis knows nothing of job {self._job_id} any more: it was emptied, or came back without its data\n"
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
    """Waits until a job has ended, calling `watcher` with its state meanwhile and `check` at each look.

    Raises what `Follower.look` raises, and TimeoutError.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    follower = Follower(ledger, job_id)
    while True:
        job = follower.look()
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
    """Cancels a job, if it is live, and waits until the workers that are up have put it down.

    One that has not heard of it yet may still put a shard in place.
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
    """Raises JobFailedError, saying what is missing and how to go on, unless the job is done."""
    if job.state == "done":
        return
    if job.state == "cancelled":
        raise JobFailedError(
            f"job {job.id} was cancelled; {job.shards_done} of {job.shards} shards are kept: "
            f"'noisemill resume {quote(job.destination)}' makes the rest"
        )
    if job.error:
        raise JobFailedError(
            f"job {job.id} failed: {job.error}\n'noisemill resume {quote(job.destination)}' goes on once that is mended"
        )
    shard, reason = job.first_failed
    raise JobFailedError(
        f"job {job.id} failed: {len(job.failed)} of {job.shards} shards, the first is {shard}: {reason}\n"
        f"'noisemill resume {quote(job.destination)}' tries them again"
    )
