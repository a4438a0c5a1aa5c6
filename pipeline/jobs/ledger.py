"""The live state of jobs in Redis: shards, leases, wake-ups, progress; and which workers are up.

Every change is one call of `ledger.lua`, which is atomic and safe to repeat. The destination, not the ledger, records
which shards have been made: a ledger that is lost can be rebuilt from the destinations.
"""

from __future__ import annotations

import difflib
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import redis

from pipeline.common.counts import MAX_BATCH
from pipeline.common.errors import LedgerError, UnknownJobError, shown
from pipeline.common.settings import Settings, load_settings
from pipeline.jobs.connection import connect, redis_errors
from pipeline.jobs.entries import DamagedEntryError, Fields, is_of_another_type
from pipeline.jobs.job import LIVE_STATES, Job, damaged_job, read_job
from pipeline.jobs.worker_info import WorkerInfo, read_worker
from pipeline.spec.selection import Selection

if TYPE_CHECKING:
    from pipeline.spec.job_spec import JobSpec

#: A worker that has not announced itself for this long is gone, seconds.
WORKER_TTL_S = 20

_Item = TypeVar("_Item")

#: How many of the latest jobs `mend_lists` checks.
_LATEST = 1000

_LUA = Path(__file__).with_name("ledger.lua")

#: Operations that add a job: a full Redis refuses them. The others are allowed then, and need hardly any memory
#: (docs/decisions/0030-a-full-redis.md).
_GROWING = ("begin", "mark_done")

#: The oldest version that supports scripts with flags.
_OLDEST_REDIS = 7


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


class Ledger:
    """The ledger behind one Redis URL. Safe to share between threads.

    Every method raises LedgerError if Redis cannot be reached or refuses a command.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect(settings.redis_url)
        lua = _LUA.read_text(encoding="utf-8")
        self._growing = self._redis.register_script(f"#!lua\n{lua}")
        self._going_on = self._redis.register_script(f"#!lua flags=allow-oom\n{lua}")
        self._prefix = settings.key_prefix

    # -- the life of a job -------------------------------------------------------------------------

    def enter(
        self,
        *,
        job_id: str,
        spec: JobSpec,
        destination: str,
        priority: int,
        parallel: int = 0,
        done: Iterable[tuple[int, int]] = (),
        engine: str | None = None,
        batch: int = 0,
        whole: bool = False,
        schedule: str | None = None,
        webhook: str | None = None,
        only: Selection | None = None,
    ) -> bool:
        """Adds a job. Returns False if it is live already, or if another client has begun to add it since.

        `done` are the shards (index, samples) that are at the destination already. At most `parallel` workers share
        the job (0: any number). Engine and batch are those of an earlier run, or None and 0. `whole`: the manifest is
        there too, so the job is done. `schedule` is the name of the schedule that submitted it, `webhook` the URL that
        is called at its end; a job that is added again keeps its earlier ones.

        `only` limits the job to a selection of shards, which includes `done`; its last step writes no manifest.
        """
        fields: dict[str, str | int] = {
            "id": job_id,
            "spec": spec.to_json(),
            "destination": destination,
            "generator": spec.generator_name,
            "digest": spec.digest,
            "priority": priority,
            "parallel": parallel,
            "count": spec.count,
            "shards": len(spec.plan),
            "batch": batch or spec.batch,
        }
        fields |= {
            name: value for name, value in (("engine", engine), ("schedule", schedule), ("webhook", webhook)) if value
        }
        if only is not None:
            of_it = {"count": only.samples(spec.plan), "shards": len(only), "cursor": len(only)}
            fields |= {**of_it, "selection": str(only)}
        fields["entry"] = entry = uuid.uuid4().hex
        with self._talk():
            if self._call(job_id, "begin", *(part for pair in fields.items() for part in pair)) != "new":
                return False
            self._redis.zadd(self._key("jobs"), {job_id: time.time()})
            found: set[int] = set()
            for chunk in _batched(done, 1000):
                self._call(job_id, "mark_done", entry, *(number for pair in chunk for number in pair))
                found.update(shard for shard, _ in chunk if only is not None)
            for wanted in _batched((shard for shard in only or () if shard not in found), 1000):
                self._call(job_id, "want", entry, *wanted)
            return bool(self._call(job_id, "open", entry, "done" if whole else "queued") != "stale")

    def cancel(self, job_id: str) -> str:
        """Cancels a live job; returns its state now. Raises UnknownJobError."""
        with self._talk():
            return self._known(job_id, str(self._call(job_id, "cancel")))

    def complain(self, job_id: str, message: str) -> None:
        """Records why a worker leaves a live job to others.

        Ignored while any shard is leased; deleted when a shard is committed.
        """
        with self._talk():
            self._call(job_id, "complain", message)

    def forget(self, job_id: str) -> str:
        """Deletes the entry of a job that has ended. Returns "forgotten", or the state of a live job.

        Raises UnknownJobError.
        """
        with self._talk():
            answer = self._known(job_id, str(self._call(job_id, "forget")))
            if answer == "forgotten":
                self._redis.zrem(self._key("jobs"), job_id)
        return answer

    def abandon(self, job_id: str, message: str) -> None:
        """Fails a job that cannot be carried out at all."""
        with self._talk():
            self._call(job_id, "abandon", message)

    def hold(self, job_id: str, message: str, *, patience_s: float, claim: Claim | None = None) -> str:
        """Holds the job because its store fails. Returns "held", "failed" or "stale".

        The job fails once the store has failed for `patience_s` seconds without a shard being committed; the next
        commit ends the hold. A claim is given back and does not count as an attempt; "stale": it is another worker's.
        """
        shard, fence = (claim.shard, claim.fence) if claim else ("", "")
        with self._talk():
            return str(self._call(job_id, "hold", shard, fence, message[:2000], round(patience_s * 1000)))

    def mend(self, job_id: str) -> int:
        """Restores the invariants of a live job; returns the number of shards that were unassigned.

        Redis may have lost keys (an eviction policy, a failover) or refused a script half-way (an ACL, a full disk).
        """
        mended, position = 0, 0
        while position >= 0:
            with self._talk():
                _, shards, onward = self._call(job_id, "mend", job_id, self._lease_ms, position)
            mended, position = mended + int(shards), int(onward)
        return mended

    def mend_lists(self) -> None:
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

    def identity(self) -> str:
        """The unique id of this ledger, which is the holder of its destinations' leases."""
        with self._talk():
            return str(self._call("", "identity", uuid.uuid4().hex))

    def takes_turn(self, what: str, interval_s: float) -> bool:
        """Whether the caller is the one worker that does this task in the current interval."""
        with self._talk():
            return bool(self._call("", "turn", what, max(1, round(interval_s * 1000))))

    def job(self, job_id: str) -> Job:
        """The job's state. Raises UnknownJobError."""
        with self._talk():
            flat, *rest = self._call(job_id, "status")
        entry = Fields(job_id, flat)
        if not entry:
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return read_job(job_id, entry, *rest)

    def spec(self, job_id: str) -> tuple[JobSpec, str]:
        """The job's spec and destination. Raises UnknownJobError."""
        from pipeline.spec.job_spec import JobSpec  # Imports numpy, which 'status' does not need.

        with self._talk():
            text, destination = self._redis.hmget(self._job_key(job_id), "spec", "destination")
        if text is None or destination is None:
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return JobSpec.from_json(text, source=f"the ledger's entry of job {job_id}"), str(destination)

    def jobs(self, latest: int = 0) -> list[Job]:
        """All jobs in the ledger, the latest first; at most `latest` of them, if that is not 0."""
        with self._talk():
            ids = self._redis.zrevrange(self._key("jobs"), 0, latest - 1)
        found = []
        for job_id in map(str, ids):
            try:
                found.append(self.job(job_id))
            except UnknownJobError:
                with self._talk():
                    self._redis.zrem(self._key("jobs"), job_id)
            except DamagedEntryError as error:
                found.append(damaged_job(job_id, str(error)))
        return found

    def job_count(self) -> int:
        """The number of jobs in the ledger; reads none of them."""
        with self._talk():
            return self._redis.zcard(self._key("jobs"))

    def live_jobs(self) -> list[str]:
        """Ids of the jobs that are queued or running."""
        with self._talk():
            return sorted(str(job_id) for job_id in self._redis.smembers(self._key("live")))

    def find_job(self, text: str) -> str:
        """The id that begins with `text`. Raises UnknownJobError if none or several do."""
        with self._talk():
            ids = [str(job_id) for job_id in self._redis.zrevrange(self._key("jobs"), 0, -1)]
        if text in ids:
            return text
        matching = [job_id for job_id in ids if text and job_id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UnknownJobError(f"job {text!r} could be any of {', '.join(matching[:5])}: give more of it")
        near = difflib.get_close_matches(text, [*ids, *(job_id[: len(text)] for job_id in ids)], n=1, cutoff=0.75)
        meant = next((job_id for job_id in ids if near and job_id.startswith(near[0])), None)
        hint = f"did you mean {meant!r}?" if meant else "see 'noisemill jobs'"
        raise UnknownJobError(f"job {text!r} is unknown: {hint}")

    # -- shards, as workers see them ---------------------------------------------------------------

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
        """Records that a shard is at the destination with its receipt. Returns "done", "already", "stale" or "stop"."""
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

    def finish(self, job_id: str, claim: Claim) -> str:
        """Ends a job after its last step. Returns "done", "failed" (shards were given up) or "stale"."""
        with self._talk():
            return str(self._call(job_id, "finish", claim.fence))

    # -- wake-ups ----------------------------------------------------------------------------------

    def missing_wakeups(self, job_id: str, *, workers: int, grace_s: float) -> list[tuple[int, int]]:
        """The wake-ups (token, serial) that a job lacks; they count as sent from now."""
        with self._talk():
            flat = self._call(job_id, "wakeups", workers, round(grace_s * 1000))
        return [(int(token), int(serial)) for token, serial in zip(flat[::2], flat[1::2], strict=True)]

    def take_wakeup(self, job_id: str, token: int, serial: int, holder: str) -> bool:
        """Takes a token's lease. Returns False if another holds it, the message is stale or the job has ended."""
        with self._talk():
            return bool(self._call(job_id, "take", token, serial, holder, self._lease_ms) == "taken")

    def put_down_wakeup(self, job_id: str, token: int, holder: str, *, again: bool) -> int | None:
        """Ends a slice; returns the serial with which to send the wake-up again, or None."""
        with self._talk():
            serial = int(self._call(job_id, "put_down", token, holder, "1" if again else "0"))
        return serial or None

    # -- workers -----------------------------------------------------------------------------------

    def announce(self, worker: WorkerInfo) -> bool:
        """Lists a worker as up; to be repeated well within WORKER_TTL_S. Returns whether it was not listed before."""
        with self._talk(), self._redis.pipeline(transaction=False) as batch:
            batch.set(self._key(f"worker:{worker.id}"), json.dumps(asdict(worker)), ex=WORKER_TTL_S)
            batch.zadd(self._key("workers"), {worker.id: worker.started_at})
            return bool(batch.execute()[1])

    def withdraw(self, worker_id: str) -> None:
        """Removes a worker from the list."""
        with self._talk():
            self._redis.delete(self._key(f"worker:{worker_id}"))
            self._redis.zrem(self._key("workers"), worker_id)

    def release_worker(self, worker_id: str) -> None:
        """Puts back the shards and wake-ups that a worker's process held when it died."""
        for job_id in self.live_jobs():
            with self._talk():
                self._call(job_id, "release_worker", worker_id)

    def workers(self, digest: str | None = None) -> list[WorkerInfo]:
        """Workers that are up, the oldest first; with `digest`, those that hold that generator."""
        with self._talk():
            ids = [str(worker_id) for worker_id in self._redis.zrange(self._key("workers"), 0, -1)]
            texts: list[Any] = self._redis.mget([self._key(f"worker:{worker_id}") for worker_id in ids]) if ids else []
            gone = [worker_id for worker_id, text in zip(ids, texts, strict=True) if text is None]
            if gone:
                self._redis.zrem(self._key("workers"), *gone)
        found = [read_worker(str(text)) for text in texts if text is not None]
        return [worker for worker in found if worker is not None and digest in (None, worker.digest)]

    def server_info(self) -> dict[str, Any]:
        """The sections server, memory and persistence of Redis's INFO."""
        with self._talk():
            return {
                name: value
                for section in ("server", "memory", "persistence")
                for name, value in self._redis.info(section).items()
            }

    def ping(self) -> str:
        """The server's name and version. Raises LedgerError if it does not answer as Redis does."""
        with self._talk():
            info = self._redis.info("server")
        if "redis_version" not in info:
            raise LedgerError("the server answers, but does not tell its version as Redis does")
        if int(str(info["redis_version"]).partition(".")[0]) < _OLDEST_REDIS:
            raise LedgerError(
                f"Redis {info['redis_version']} is too old: use Redis {_OLDEST_REDIS} or later, or Valkey"
            )
        name = str(info.get("server_name", "redis"))
        return f"{name} {info.get('valkey_version') or info['redis_version']}"

    def now(self) -> float:
        """Unix time by the server's clock, by which leases expire."""
        with self._talk():
            answer: Any = self._redis.time()
        seconds, microseconds = answer
        return float(seconds) + float(microseconds) / 1e6

    def queue_length(self, keys: Sequence[str]) -> int:
        """The number of messages in Celery's lists with these names."""
        with self._talk(), self._redis.pipeline(transaction=False) as batch:
            for key in keys:
                batch.llen(key)
            return sum(batch.execute())

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return round(self.settings.lease_s * 1000)

    @contextmanager
    def _talk(self) -> Iterator[None]:
        with redis_errors(self.settings.redis_url):
            yield

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _job_key(self, job_id: str) -> str:
        return self._key(f"job:{job_id}")

    def _call(self, job_id: str, operation: str, *arguments: str | int | float) -> Any:
        keys = [self._job_key(job_id), self._key("live"), self._key("webhooks")]
        script = self._growing if operation in _GROWING else self._going_on
        try:
            return script(keys=keys, args=[operation, *arguments])
        except redis.ResponseError as error:
            if is_of_another_type(error):
                raise DamagedEntryError(job_id, "a value is of another type than it has to be") from error
            raise

    @staticmethod
    def _known(job_id: str, state: str) -> str:
        if state == "unknown":
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return state


def open_ledger(redis_url: str | None) -> Ledger:
    """The ledger at `redis_url`, else at that of the environment, after a ping. Raises LedgerError."""
    ledger = Ledger(load_settings(redis_url=redis_url))
    ledger.ping()
    return ledger


def _batched(items: Iterable[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    """Tuples of up to `size` items. (Python 3.12 has it in itertools.)"""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
