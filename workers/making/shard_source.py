"""Where the mill gets its shards from: claims them in the ledger for as long as the slice lasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.common.errors import StoreError
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger import Claim
from workers.making.assignment import Assignment
from workers.making.leases import Leases
from workers.making.mill import Work
from workers.making.shard_sink import ShardSink

#: Poll interval while waiting to start a shard that must be made alone, seconds.
_LOOK_S = 0.01


class ShardSource:
    """The shards that a slice claims."""

    def __init__(self, assignment: Assignment, leases: Leases, sink: ShardSink, is_broken: Callable[[], bool]) -> None:
        """`is_broken`: whether the mill has failed, so that nothing in progress will end."""
        self._assignment, self._leases, self._sink, self._is_broken = assignment, leases, sink, is_broken
        self._until = assignment.clock.now() + assignment.settings.slice_s
        #: Whether all shards that are left were leased at the last claim.
        self.waited = False

    def next_work(self) -> Work | None:
        """The next shard, while the slice lasts. A shard that is at the destination already is not made again."""
        plan = self._assignment.spec.plan
        while self._assignment.clock.now() < self._until and not self._leases.stopping:
            self._wait_while(self._leases.has_suspect)
            claim = self._claim()
            if claim is None:
                return None
            if claim.shard >= len(plan):
                raise DamagedEntryError(self._assignment.job, f"there is no shard {claim.shard}")
            work = Work(claim=claim, shard=plan[claim.shard])
            self._leases.add(work)
            if claim.attempt == 1:
                return work
            try:
                if not self._sink.found_done(work):
                    self._wait_while(partial(self._leases.has_others, work))
                    return work
            except StoreError as error:
                work.trouble = error
                self._sink.gave_up(work)
        return None

    def claim_last_step(self) -> None:
        """Claims again after all shards were leased: by now this slice may have committed the last of them.

        If that yields a shard, it is given back for the next slice: another slice may have the device now.
        """
        claim = self._claim()
        if claim is not None:
            self._assignment.ledger.give_back(self._assignment.job, claim)

    def _claim(self) -> Claim | None:
        """The next shard, or None. Notes if the job has ended, all shards are leased or only the last step is left."""
        of, leases = self._assignment, self._leases
        claim = leases.patiently(lambda: of.ledger.claim(of.job, of.worker_id))
        self.waited = claim == "wait"
        if claim == "stop":
            leases.patiently(leases.renew)
            leases.ended = True
        if not isinstance(claim, Claim):
            return None
        if claim.shard < 0:
            leases.last_step = claim
            return None
        return claim

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        """Waits while the condition holds, unless the mill is broken, which would never change it."""
        while condition() and not self._leases.stopping and not self._is_broken():
            self._assignment.clock.sleep(_LOOK_S)
