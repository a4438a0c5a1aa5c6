"""Restores the invariants of the ledger after Redis has lost keys or refused a script half-way."""

from __future__ import annotations

import time
from collections.abc import Iterable

from pipeline.jobs.job import LIVE_STATES
from pipeline.jobs.ledger.jobs import Jobs

#: How many of the latest jobs `mend_lists` checks.
_LATEST = 1000


class Repair(Jobs):
    """What workers do for all jobs."""

    def takes_turn(self, what: str, interval_s: float) -> bool:
        """Whether the caller is the one worker that does this task in the current interval."""
        with self._talk():
            return bool(self._call("", "turn", what, max(1, round(interval_s * 1000))))

    def repair(self, job_id: str) -> int:
        """Restores the invariants of a live job; returns the number of shards that were unassigned.

        Redis may have lost keys (an eviction policy, a failover) or refused a script half-way (an ACL, a full disk).
        """
        repaired, position = 0, 0
        while position >= 0:
            with self._talk():
                _, shards, onward = self._call(job_id, "repair", job_id, self._lease_ms, position)
            repaired, position = repaired + int(shards), int(onward)
        return repaired

    def repair_lists(self) -> None:
        """Restores the invariants between jobs: live jobs are listed as jobs and as live, and webhooks have a due time.

        Jobs that have ended and are missing from the list of jobs stay lost: nothing depends on them.
        """
        with self._talk():
            latest = [str(job_id) for job_id in self._redis.zrevrange(self._key("jobs"), 0, _LATEST - 1)]
            live = {str(job_id) for job_id in self._redis.smembers(self._key("live"))}
            with self._redis.pipeline(transaction=False) as batch:
                for job_id in latest:
                    batch.hget(self._job_key(job_id), "state")
                states = batch.execute(raise_on_error=False)  # One may be damaged.
            lost = {job_id for job_id, state in zip(latest, states, strict=True) if state in LIVE_STATES} - live
            if lost:
                self._redis.sadd(self._key("live"), *lost)
            self._add_missing("jobs", live, time.time())
            self._add_missing("webhooks:due", map(str, self._redis.hkeys(self._key("webhooks"))), self.now() * 1000)

    def _add_missing(self, name: str, members: Iterable[str], score: float) -> None:
        """Adds missing members to a sorted set. Writes nothing if none is missing: a full Redis refuses writes."""
        wanted = list(members)
        with self._redis.pipeline(transaction=False) as batch:
            for member in wanted:
                batch.zscore(self._key(name), member)
            scores = batch.execute()
        missing = [member for member, found in zip(wanted, scores, strict=True) if found is None]
        if missing:
            self._redis.zadd(self._key(name), dict.fromkeys(missing, score), nx=True)

    def release_worker(self, worker_id: str) -> None:
        """Puts back the shards and wake-ups that a worker's process held when it died."""
        for job_id in self.live_jobs():
            with self._talk():
                self._call(job_id, "release_worker", worker_id)
