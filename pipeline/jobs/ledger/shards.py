"""What a worker sees of a job in the ledger: wake-ups, claims of shards, leases, commits, and the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.common.errors import shown
from pipeline.common.quantities import MAX_BATCH
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger.call import Call


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's claim to a shard, or to the last step of a job."""

    #: Shard index; -1 for the last step (manifest, card, preview).
    shard: int
    #: A number that grows with every claim, and so distinguishes an old holder from the new one.
    fence: str
    #: The number of claims of this shard so far, from 1; 0 for the last step.
    attempt: int


@dataclass
class Renewal:
    """The result of renewing leases."""

    #: The job's state, or "unknown".
    state: str
    #: Shards whose lease went to another worker.
    lost: set[int] = field(default_factory=set)


class Shards(Call):
    """The shards and wake-ups of jobs."""

    def settle(self, job_id: str, engine: str, batch: int) -> tuple[str, int]:
        """The job's engine and batch: those given, unless an earlier slice has set others."""
        with self._talk():
            settled_engine, settled_batch = self._call(job_id, "settle", engine, batch)
        try:
            settled = str(settled_engine), int(settled_batch)
        except (TypeError, ValueError):
            raise DamagedEntryError(job_id, f"batch is {shown(settled_batch)}") from None
        if not re.fullmatch("[a-z_]{1,20}", settled[0]) or not 1 <= settled[1] <= MAX_BATCH:
            raise DamagedEntryError(job_id, f"engine and batch are {shown(settled)}")
        return settled

    def claim(self, job_id: str, worker: str) -> Claim | Literal["wait", "stop"]:
        """The next shard for a worker, or the job's last step.

        "wait": other workers hold all shards that are left. "stop": the job is no longer live.
        """
        with self._talk():
            answer = self._call(job_id, "claim", worker, self._lease_ms)
        match answer:
            case ["shard", shard, fence, attempt]:
                if not re.fullmatch("[0-9]{1,9}", shard):
                    raise DamagedEntryError(job_id, f"there is no shard {shown(shard)}")
                return Claim(shard=int(shard), fence=str(fence), attempt=int(attempt))
            case ["finalise", fence]:
                return Claim(shard=-1, fence=str(fence), attempt=0)
            case ["wait"]:
                return "wait"
            case _:
                return "stop"

    def renew(
        self, job_id: str, claims: Mapping[int, tuple[str, int]], *, token: int | None = None, holder: str = ""
    ) -> Renewal:
        """Renews the leases of shards {index: (fence, samples made)} and of the wake-up's token."""
        parts: list[str | int] = []
        for shard, (fence, samples) in claims.items():
            parts += [shard, fence, samples]
        with self._talk():
            state, *lost = self._call(job_id, "renew", self._lease_ms, "" if token is None else token, holder, *parts)
        return Renewal(state=str(state), lost={int(shard) for shard in lost})

    def commit(
        self, job_id: str, claim: Claim, *, samples: int, size_bytes: int, stage_seconds: Mapping[str, float]
    ) -> str:
        """Records that a shard is at the destination with its receipt.

        Returns "done", "filled" (done, and with it all of the shards whose receipts share a pack), "already", "stale"
        or "stop".
        """
        counters: list[str | float] = []
        for stage, seconds in stage_seconds.items():
            counters += [f"seconds_{stage}", round(seconds, 6)]
        with self._talk():
            return str(self._call(job_id, "commit", claim.shard, claim.fence, samples, size_bytes, *counters))

    def fail(self, job_id: str, claim: Claim, message: str, *, delay_s: float) -> str:
        """Records a failed attempt. Returns "retry" (after the delay), "failed" (given up) or "stale"."""
        with self._talk():
            return str(self._call(job_id, "fail", claim.shard, claim.fence, message[:2000], round(delay_s * 1000)))

    def give_back(self, job_id: str, claim: Claim) -> None:
        """Gives a claim back; it does not count as an attempt."""
        with self._talk():
            self._call(job_id, "give_back", claim.shard, claim.fence)

    def hold(self, job_id: str, message: str, *, patience_s: float, claim: Claim | None = None) -> str:
        """Holds the job because its store fails. Returns "held", "failed" or "stale".

        The job fails once the store has failed for `patience_s` seconds without a shard being committed; the next
        commit ends the hold. A claim is given back and does not count as an attempt; "stale": it is another worker's.
        """
        shard, fence = (claim.shard, claim.fence) if claim else ("", "")
        with self._talk():
            return str(self._call(job_id, "hold", shard, fence, message[:2000], round(patience_s * 1000)))

    def record_error(self, job_id: str, message: str) -> None:
        """Records why a worker leaves a live job to others.

        Ignored while any shard is leased; deleted when a shard is committed.
        """
        with self._talk():
            self._call(job_id, "record_error", message)

    def abandon(self, job_id: str, message: str) -> None:
        """Fails a job that cannot be carried out at all."""
        with self._talk():
            self._call(job_id, "abandon", message)

    def finish(self, job_id: str, claim: Claim) -> str:
        """Ends a job after its last step. Returns "done", "failed" (shards were given up) or "stale"."""
        with self._talk():
            return str(self._call(job_id, "finish", claim.fence))

    def missing_wakeups(self, job_id: str, *, workers: int, grace_s: float) -> list[tuple[int, int]]:
        """The wake-ups (token, serial) that a job lacks; they count as sent from now."""
        with self._talk():
            flat = self._call(job_id, "wakeups", workers, round(grace_s * 1000))
        return [(int(token), int(serial)) for token, serial in zip(flat[::2], flat[1::2], strict=True)]

    def take_wakeup(self, job_id: str, token: int, serial: int, holder: str) -> bool:
        """Takes a token's lease. Returns False if another holds it, the message is stale or the job has ended."""
        with self._talk():
            return bool(self._call(job_id, "take", token, serial, holder, self._lease_ms) == "taken")

    def return_wakeup(self, job_id: str, token: int, holder: str, *, again: bool) -> int | None:
        """Ends a slice; returns the serial with which to send the wake-up again, or None."""
        with self._talk():
            serial = int(self._call(job_id, "return_wakeup", token, holder, "1" if again else "0"))
        return serial or None
