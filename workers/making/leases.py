"""Keeps the leases of one slice: of its shards, of its wake-up and of the job's last step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shlex import quote
from typing import TypeVar

from pipeline.common.errors import LedgerError
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.job import LIVE_STATES
from pipeline.jobs.ledger import Claim
from workers.making.assignment import Assignment, in_words
from workers.making.mill import Work
from workers.telemetry import metrics

log = logging.getLogger("noisemill")

_Answer = TypeVar("_Answer")

#: Interval at which leases are renewed, progress is reported and cancellation is noticed, seconds.
_PULSE_S = 0.5
#: Pause before a call to Redis is repeated, seconds.
_RETRY_S = 0.5


class Leases:
    """What a slice holds in the ledger, and whether it has to end. May be used from several threads."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        #: Whether the job has ended, or cannot continue for now.
        self.ended = False
        #: The claim to the job's last step, once this slice has it.
        self.last_step: Claim | None = None
        self._works: dict[int, Work] = {}
        self._lock = threading.Lock()
        self._renewed_at = assignment.clock.now()

    @property
    def stopping(self) -> bool:
        """Whether the job has ended or the worker has to stop."""
        return self.ended or self._assignment.stop.is_set()

    def add(self, work: Work) -> None:
        """From now on the shard's lease is renewed."""
        with self._lock:
            self._works[work.shard.index] = work

    def forget(self, work: Work) -> None:
        """Ends the renewal."""
        with self._lock:
            self._works.pop(work.shard.index, None)

    def has_suspect(self) -> bool:
        """Whether a shard is in progress whose earlier attempt may have crashed the process.

        Such a shard is made alone, so that the next crash identifies it and loses no others.
        """
        with self._lock:
            return any(work.claim.attempt > 1 for work in self._works.values())

    def has_others(self, work: Work) -> bool:
        """Whether this process has any other shard or slice in progress."""
        with self._lock:
            return any(other is not work for other in self._works.values()) or self._assignment.is_busy()

    def patiently(self, call: Callable[[], _Answer]) -> _Answer:
        """Repeats a call that fails for want of Redis, for as long as a lease lasts: a short outage costs no work."""
        clock = self._assignment.clock
        deadline = clock.now() + self._assignment.settings.lease_s
        while True:
            try:
                return call()
            except DamagedEntryError:
                raise
            except LedgerError:
                if self.stopping or clock.now() > deadline:
                    raise
            clock.sleep(_RETRY_S)

    def renew(self) -> None:
        """Renews everything, reports progress, and finds out what was lost meanwhile. Raises LedgerError."""
        of = self._assignment
        with self._lock:
            claims = {index: (work.claim.fence, work.samples) for index, work in self._works.items()}
        if self.last_step is not None:
            claims[self.last_step.shard] = (self.last_step.fence, 0)
        renewal = of.ledger.renew(of.job, claims, token=of.token, holder=of.holder)
        self._renewed_at = of.clock.now()
        if renewal.state not in LIVE_STATES:
            if renewal.state == "unknown" and not self.ended:
                log.warning(
                    "job %s: Redis no longer has it; 'noisemill resume %s' makes what is missing",
                    of.job, quote(of.destination),
                    extra=of.about(),
                )  # fmt: skip
            self.ended = True
        with self._lock:
            for index in renewal.lost & self._works.keys():
                # A shard that was committed during the renewal is not lost but done.
                self._mark_lost(self._works[index])

    def check_age(self) -> None:
        """Gives all shards up for lost if they have not been renewed for as long as a lease lasts."""
        if self._assignment.clock.now() - self._renewed_at > self._assignment.settings.lease_s:
            with self._lock:
                for work in self._works.values():
                    self._mark_lost(work)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renews them in a thread of its own for the duration of the block: a long prediction does not delay it."""
        over = threading.Event()
        thread = threading.Thread(target=self._pulse, args=(over,), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _pulse(self, over: threading.Event) -> None:
        logged = False
        while not over.wait(_PULSE_S):
            try:
                self.renew()
                logged = False
            except LedgerError as error:
                if not logged:
                    of = self._assignment
                    reason = in_words(error)
                    log.warning("job %s: leases could not be renewed: %s", of.job, reason, extra=of.about())
                logged = True
                self.check_age()

    def _mark_lost(self, work: Work) -> None:
        if work.lost:
            return
        work.lost = True
        metrics.LEASES_LOST.inc()
        of, shard = self._assignment, work.shard.index
        log.warning(
            "job %s shard %d: the lease went to another", of.job, shard, extra=of.about(shard, work.claim.attempt)
        )
