"""The live state of jobs in Redis: shards, leases, wake-ups, progress; and which workers are up.

Every change is one call of `ledger.lua`, which is atomic and safe to repeat. The destination is the
truth about what has been made; the ledger can be lost whole and made again from there.
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

#: A worker that has not announced itself for so long is gone, seconds.
WORKER_TTL_S = 20

_Item = TypeVar("_Item")

#: Of so many jobs, the latest, it is looked whether they are live and not listed as such.
_LATEST = 1000

_LUA = Path(__file__).with_name("ledger.lua")

#: What enters a job: refused, whole, by a Redis that is full. What carries it out goes on there, and needs next to
#: nothing (docs/decisions/0030-a-full-redis.md).
_GROWING = ("begin", "mark_done")

#: The oldest version of the protocol that knows scripts with flags.
_OLDEST_REDIS = 7


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's claim to a shard, or to the last step of a job."""

    #: Shard index; -1 for the last step (manifest, card, preview).
    shard: int
    #: Grows with every claim: tells an old holder from a new one.
    fence: str
    #: How often the shard was claimed so far, from 1; 0 for the last step.
    attempt: int


@dataclass
class Renewal:
    """What a renewal of leases answered."""

    state: str
    lost: set[int] = field(default_factory=set)


class Ledger:
    """The ledger behind one Redis URL. Safe to share between threads.

    Every method raises LedgerError when Redis cannot be reached or refuses.
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
        """Enters a job, with the shards (index, samples) that lie at the destination already.

        Answers False where the job is live, or another client is entering it since. At most `parallel` workers share
        it (0: any number). Engine and batch are those that an earlier run settled, or None and 0. `whole` says
        that the manifest lies there too: the job is done as it is. `schedule` names what asked for it; `webhook` is the
        URL that hears of its end. A job that is entered again keeps those it had.

        Of a selection `only`, `done` are among it, and the others are not made; its last step makes no manifest.
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
        """Cancels a live job; answers the state that it is in now. Raises UnknownJobError."""
        with self._talk():
            return self._known(job_id, str(self._call(job_id, "cancel")))

    def complain(self, job_id: str, message: str) -> None:
        """Says why a worker leaves a live job to others.

        Forgotten when a shard is committed; not heard while others make one.
        """
        with self._talk():
            self._call(job_id, "complain", message)

    def forget(self, job_id: str) -> str:
        """Deletes what is known of a job that has ended: "forgotten", or the state of a live one.

        Raises UnknownJobError.
        """
        with self._talk():
            answer = self._known(job_id, str(self._call(job_id, "forget")))
            if answer == "forgotten":
                self._redis.zrem(self._key("jobs"), job_id)
        return answer

    def abandon(self, job_id: str, message: str) -> None:
        """Ends a job that cannot be carried out at all."""
        with self._talk():
            self._call(job_id, "abandon", message)

    def hold(self, job_id: str, message: str, *, patience_s: float, claim: Claim | None = None) -> str:
        """Says that the job's store fails: held, or failed once it has done nothing else for `patience_s` seconds.

        A claim is given back, and does not count as an attempt; "stale" where it is another's. The next shard that
        is committed ends it.
        """
        shard, fence = (claim.shard, claim.fence) if claim else ("", "")
        with self._talk():
            return str(self._call(job_id, "hold", shard, fence, message[:2000], round(patience_s * 1000)))

    def mend(self, job_id: str) -> int:
        """Restores what must hold of a job that is live; answers how many of its shards were in nobody's hands.

        Redis may have lost keys (an eviction policy, a failover) or have refused a script half-way (an ACL, a disk).
        """
        mended, position = 0, 0
        while position >= 0:
            with self._talk():
                _, shards, onward = self._call(job_id, "mend", job_id, self._lease_ms, position)
            mended, position = mended + int(shards), int(onward)
        return mended

    def mend_lists(self) -> None:
        """Restores what must hold between jobs: live ones are listed as jobs and as live, webhooks wait to be called.

        Of jobs that have ended, those that the list of jobs has lost stay lost: nothing depends on them.
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
        """Adds to a sorted set what it lacks. Writes nothing where it lacks nothing, as a full Redis refuses to."""
        wanted = list(members)
        with self._redis.pipeline(transaction=False) as batch:
            for member in wanted:
                batch.zscore(self._key(name), member)
            scores = batch.execute()
        missing = [member for member, found in zip(wanted, scores, strict=True) if found is None]
        if missing:
            self._redis.zadd(self._key(name), dict.fromkeys(missing, score), nx=True)

    def identity(self) -> str:
        """What tells this ledger from all others: the holder of leases of destinations."""
        with self._talk():
            return str(self._call("", "identity", uuid.uuid4().hex))

    def takes_turn(self, what: str, interval_s: float) -> bool:
        """Whether it is this caller's turn to do something that one of all workers does in each interval."""
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
        from pipeline.spec.job_spec import JobSpec  # Brings numpy, which 'status' can do without.

        with self._talk():
            text, destination = self._redis.hmget(self._job_key(job_id), "spec", "destination")
        if text is None or destination is None:
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return JobSpec.from_json(text, source=f"the ledger's entry of job {job_id}"), str(destination)

    def jobs(self, latest: int = 0) -> list[Job]:
        """All jobs that the ledger knows, the latest first; only so many where a number is given."""
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
        """How many jobs the ledger knows; reads none of them."""
        with self._talk():
            return self._redis.zcard(self._key("jobs"))

    def live_jobs(self) -> list[str]:
        """Ids of the jobs that can be worked on."""
        with self._talk():
            return sorted(str(job_id) for job_id in self._redis.smembers(self._key("live")))

    def find_job(self, text: str) -> str:
        """The id that begins with `text`. Raises UnknownJobError if none does, or several do."""
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
        """Engine and batch of this job: those given, unless an earlier slice settled others."""
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

        "wait": all that is left is in other hands. "stop": the job is not live any more.
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
        """Says that a shard lies at the destination with its receipt: done, already, stale or stop."""
        counters: list[str | float] = []
        for stage, seconds in stage_seconds.items():
            counters += [f"seconds_{stage}", round(seconds, 6)]
        with self._talk():
            return str(self._call(job_id, "commit", claim.shard, claim.fence, samples, size_bytes, *counters))

    def fail(self, job_id: str, claim: Claim, message: str, *, delay_s: float) -> str:
        """Says that an attempt failed: retry (not before the delay), failed (given up) or stale."""
        with self._talk():
            return str(self._call(job_id, "fail", claim.shard, claim.fence, message[:2000], round(delay_s * 1000)))

    def give_back(self, job_id: str, claim: Claim) -> None:
        """Gives a claim back untouched; it does not count as an attempt."""
        with self._talk():
            self._call(job_id, "give_back", claim.shard, claim.fence)

    def finish(self, job_id: str, claim: Claim) -> str:
        """Ends a job whose last step was made: done, failed (shards were given up) or stale."""
        with self._talk():
            return str(self._call(job_id, "finish", claim.fence))

    # -- wake-ups ----------------------------------------------------------------------------------

    def missing_wakeups(self, job_id: str, *, workers: int, grace_s: float) -> list[tuple[int, int]]:
        """The wake-ups (token, serial) that a job lacks; they count as sent from now."""
        with self._talk():
            flat = self._call(job_id, "wakeups", workers, round(grace_s * 1000))
        return [(int(token), int(serial)) for token, serial in zip(flat[::2], flat[1::2], strict=True)]

    def take_wakeup(self, job_id: str, token: int, serial: int, holder: str) -> bool:
        """Takes a token's lease; False where somebody holds it, the message is stale or the job over."""
        with self._talk():
            return bool(self._call(job_id, "take", token, serial, holder, self._lease_ms) == "taken")

    def put_down_wakeup(self, job_id: str, token: int, holder: str, *, again: bool) -> int | None:
        """Ends a slice; answers the serial under which the wake-up is to be sent again, if it is."""
        with self._talk():
            serial = int(self._call(job_id, "put_down", token, holder, "1" if again else "0"))
        return serial or None

    # -- workers -----------------------------------------------------------------------------------

    def announce(self, worker: WorkerInfo) -> bool:
        """Says that a worker is up; to be repeated well within WORKER_TTL_S. Answers whether it was not listed."""
        with self._talk(), self._redis.pipeline(transaction=False) as batch:
            batch.set(self._key(f"worker:{worker.id}"), json.dumps(asdict(worker)), ex=WORKER_TTL_S)
            batch.zadd(self._key("workers"), {worker.id: worker.started_at})
            return bool(batch.execute()[1])

    def withdraw(self, worker_id: str) -> None:
        """Says that a worker has left."""
        with self._talk():
            self._redis.delete(self._key(f"worker:{worker_id}"))
            self._redis.zrem(self._key("workers"), worker_id)

    def release_worker(self, worker_id: str) -> None:
        """Puts back what a worker's process held when it died."""
        for job_id in self.live_jobs():
            with self._talk():
                self._call(job_id, "release_worker", worker_id)

    def workers(self, digest: str | None = None) -> list[WorkerInfo]:
        """Workers that are up, the oldest first; those that hold one generator where `digest` is given."""
        with self._talk():
            ids = [str(worker_id) for worker_id in self._redis.zrange(self._key("workers"), 0, -1)]
            texts: list[Any] = self._redis.mget([self._key(f"worker:{worker_id}") for worker_id in ids]) if ids else []
            gone = [worker_id for worker_id, text in zip(ids, texts, strict=True) if text is None]
            if gone:
                self._redis.zrem(self._key("workers"), *gone)
        found = [read_worker(str(text)) for text in texts if text is not None]
        return [worker for worker in found if worker is not None and digest in (None, worker.digest)]

    def server_info(self) -> dict[str, Any]:
        """What the server tells of itself, its memory and its persistence (Redis's INFO)."""
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
        """Unix time by the server's clock, which leases go by."""
        with self._talk():
            answer: Any = self._redis.time()
        seconds, microseconds = answer
        return float(seconds) + float(microseconds) / 1e6

    def queue_length(self, keys: Sequence[str]) -> int:
        """Messages that wait in Celery's lists of these names."""
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
    """The ledger of a flag, else of the environment, once it has answered. Raises LedgerError."""
    ledger = Ledger(load_settings(redis_url=redis_url))
    ledger.ping()
    return ledger


def _batched(items: Iterable[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    """So many at a time. (Python 3.12 has it in itertools.)"""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
