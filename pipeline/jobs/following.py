"""Waiting for a job to end, and reporting its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from shlex import quote

from pipeline.common.errors import (
    DestinationBusyError,
    JobFailedError,
    LedgerError,
    NoisemillError,
    UnknownJobError,
    one_line,
)
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger, Order
from pipeline.jobs.redis_url import has_sentinels

log = logging.getLogger("noisemill")

#: Callback that gets the job's state while waiting for it.
Watcher = Callable[[Job], None]

_POLL_S = 0.2
#: The longest that sentinels may take to notice a loss (their default is 30 s) and to put a replica in place, seconds.
_FAILOVER_S = 90.0
#: The number of times that one client adds a job again: a Redis that loses it over and over cannot carry it.
_MOST_ENTRIES = 10


class Follower:
    """Polls a job, and tolerates a Redis that is away for less than a lease, or for as long as a failover may take.

    With `enters_again`, a job that Redis has lost (it was emptied, or a failover came before the job had reached the
    replica) is added again from its destination, unless somebody has removed it.
    """

    def __init__(
        self,
        ledger: Ledger,
        job_id: str,
        *,
        enters_again: bool = False,
        notice: Callable[[str], None] = log.warning,
    ) -> None:
        self._ledger, self._job_id = ledger, job_id
        self._enters_again, self._notice = enters_again, notice
        self._last: Job | None = None
        self._order: Order | None = None
        self._heard_at = time.monotonic()
        self._entries = 0
        settings = ledger.settings
        self._patience_s = max(settings.lease_s, _FAILOVER_S) if has_sentinels(settings.redis_url) else settings.lease_s

    def poll(self) -> Job | None:
        """The job's state; None if Redis does not respond for now, or has lost the job, which is then added again.

        Raises LedgerError once Redis has not responded for that long, JobFailedError if it has lost the job,
        UnknownJobError if it never had it.
        """
        try:
            job = self._ledger.job(self._job_id)
            if self._order is None and self._enters_again:
                self._order = self._ledger.order(self._job_id)
            self._last = job
        except UnknownJobError:
            if self._last is None:
                raise
            self._enter_again(self._last)
            return None
        except LedgerError:
            if self._last is None or time.monotonic() - self._heard_at > self._patience_s:
                raise
            return None
        self._heard_at = time.monotonic()
        return self._last

    def _enter_again(self, lost: Job) -> None:
        """Adds the lost job again, or raises JobFailedError. If its destination is busy, the next poll tries again."""
        try:
            if self._order is None or self._entries >= _MOST_ENTRIES or self._ledger.was_deleted(lost.id):
                raise self._gone(lost)
            from pipeline.jobs.queueing import enter_again  # It imports numpy.

            enter_again(self._ledger, lost.id, self._order)
        except (DestinationBusyError, LedgerError) as error:
            # Workers have not left it yet, or Redis is away again.
            if time.monotonic() - self._heard_at > 2 * self._patience_s:
                raise self._gone(lost, error) from error
            return
        except JobFailedError:
            raise
        except NoisemillError as error:
            raise self._gone(lost, error) from error
        self._entries += 1
        self._heard_at = time.monotonic()
        self._notice(f"Redis no longer had job {lost.id}: it was added again from {lost.destination}")

    def _gone(self, lost: Job, error: NoisemillError | None = None) -> JobFailedError:
        why = f", and it cannot be added again here ({one_line(error)})" if error else ""
        return JobFailedError(
            f"Redis no longer has job {lost.id}: it was emptied, or came back without its data{why}\n"
            f"'noisemill resume {quote(lost.destination)}' makes what is missing"
        )


def wait_for(
    ledger: Ledger,
    job_id: str,
    watcher: Watcher | None = None,
    *,
    timeout_s: float | None = None,
    check: Callable[[], None] | None = None,
    enters_again: bool = False,
    poll_s: float = _POLL_S,
) -> Job:
    """Waits until a job has ended; calls `watcher` with its state, and `check` at each poll.

    Raises the errors of `Follower.poll`, and TimeoutError.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    follower = Follower(ledger, job_id, enters_again=enters_again)
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
        time.sleep(poll_s)


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
