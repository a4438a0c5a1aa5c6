"""What Redis may lose of a job, or refuse half-way: after `mend`, workers still bring it to its end."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as plan
from hypothesis import strategies as st

from pipeline.common.errors import LedgerError
from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from pipeline.spec.selection import Selection
from tests.making import make_spec
from tests.servers import Valkey

JOB = "job-1"
SHARDS = 12
SUFFIXES = ("done", "leases", "holders", "retry", "attempts", "errors", "failed", "progress", "wakeups")
#: The writing commands of ledger.lua.
COMMANDS = ("setbit", "zadd", "zrem", "hset", "hdel", "hincrby", "hincrbyfloat", "sadd", "srem", "del", "hsetnx")
#: Each step of a history: its name and two numbers that say which worker, shard, key or command.
STEPS = ("claim", "commit", "fail", "give_back", "lapse", "crash", "delete", "forbid", "save", "roll_back", "wake")


class History:
    """A job, whom its shards were given to, and the shards that were made: what lies at the destination."""

    def __init__(self, url: str, only: Selection | None = None) -> None:
        prefix = f"loss-{uuid.uuid4().hex[:10]}"
        self.raw = redis.Redis.from_url(url)
        self.user = f"user-{prefix}"
        self.raw.execute_command("ACL", "SETUSER", self.user, "on", ">pw", "~*", "&*", "+@all")
        self.ledger = Ledger(
            Settings(redis_url=f"{url.replace('unix://', f'unix://{self.user}:pw@')}", key_prefix=prefix)
        )
        self.spec = make_spec(count=SHARDS * 10 - 5, shard_size=10)
        self.only = only
        self.made: set[int] = set()
        self.claims: list[Claim] = []
        self.saved: dict[bytes, bytes] = {}
        self.job = f"{prefix}:job:{JOB}"
        self.prefix = prefix
        assert self.ledger.enter(NewJob(job_id=JOB, spec=self.spec, destination="/x", only=only))

    def close(self) -> None:
        self.raw.execute_command("ACL", "DELUSER", self.user)
        self.raw.close()

    @property
    def wanted(self) -> set[int]:
        return set(self.only if self.only is not None else range(SHARDS))

    def step(self, name: str, first: int, second: int) -> None:
        if name == "delete":
            keys = [f"{self.job}:{suffix}" for suffix in SUFFIXES] + [f"{self.prefix}:live"]
            self.raw.delete(keys[first % len(keys)])
        elif name == "forbid":
            self.raw.execute_command("ACL", "SETUSER", self.user, f"-{COMMANDS[first % len(COMMANDS)]}")
            for _ in range(2):
                self.try_all(second)
            self.raw.execute_command("ACL", "SETUSER", self.user, "+@all")
        elif name == "save":
            self.saved = {key: self.raw.dump(key) or b"" for key in self.raw.scan_iter(f"{self.prefix}:*")}
        elif name == "roll_back":
            if self.saved:
                self.raw.delete(*self.raw.scan_iter(f"{self.prefix}:*"))
                for key, value in self.saved.items():
                    self.raw.restore(key, 0, value)
        else:
            self.act(name, first)

    def try_all(self, number: int) -> None:
        for name in ("claim", "commit", "fail", "give_back", "crash", "wake"):
            with contextlib.suppress(LedgerError):
                self.act(name, number)

    def act(self, name: str, number: int) -> None:
        worker = "ab"[number % 2]
        if name == "claim":
            answer = self.ledger.claim(JOB, worker)
            if isinstance(answer, Claim) and answer.shard >= 0:
                self.claims.append(answer)
        elif name == "wake":
            self.ledger.missing_wakeups(JOB, workers=2, grace_s=60)
        elif name == "crash":
            self.ledger.release_worker(worker)
        elif name == "lapse":
            self.lapse()
        elif self.claims:
            claim = self.claims.pop(number % len(self.claims))
            if name == "commit":
                self.commit(claim)
            elif name == "fail":
                self.ledger.fail(JOB, claim, "boom", delay_s=0)
            else:
                self.ledger.give_back(JOB, claim)

    def lapse(self) -> None:
        """All leases run out."""
        self.raw.zunionstore(f"{self.job}:leases", {f"{self.job}:leases": 0})

    def commit(self, claim: Claim) -> str:
        self.made.add(claim.shard)  # The receipt is written first.
        return self.ledger.commit(
            JOB, claim, samples=self.spec.plan[claim.shard].count, size_bytes=1, stage_seconds={"noise": 1}
        )

    def complete(self) -> str:
        """What workers do from here on; answers the state that the job ends in."""
        self.ledger.repair_lists()
        self.ledger.repair(JOB)
        for _ in range(20 * SHARDS):
            if JOB not in self.ledger.live_jobs():
                break
            answer = self.ledger.claim(JOB, "c")
            if answer == "wait":
                self.lapse()
                self.ledger.repair(JOB)
            elif isinstance(answer, Claim) and answer.shard >= 0:
                self.commit(answer)
            elif isinstance(answer, Claim):
                self.ledger.finish(JOB, answer)
        return self.ledger.job(JOB).state


@plan(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30), st.integers(0, 30)), max_size=40),
    only=st.sampled_from([None, None, Selection((range(1, 3), range(5, 6), range(10, 12)))]),
)
def test_whatever_is_lost_the_job_comes_to_its_end(
    valkey: Valkey, steps: list[tuple[str, int, int]], only: Selection | None
) -> None:
    history = History(valkey.url, only)
    try:
        for step in steps:
            history.step(*step)
        assert history.complete() in ("done", "failed")
        job = history.ledger.job(JOB)
        assert history.made | set(map(int, job.failed)) >= history.wanted, "a shard was neither made nor given up"
        assert job.shards_done + len(job.failed) == len(history.wanted)
        assert job.state == ("failed" if job.failed else "done")
        if not job.failed:
            assert job.samples_done == sum(history.spec.plan[shard].count for shard in history.wanted)
    finally:
        history.close()


@pytest.mark.parametrize("key", ["leases", "holders", "retry", "done", "failed", "wakeups", "attempts"])
def test_each_key_of_a_job_may_be_lost(valkey: Valkey, key: str) -> None:
    history = History(valkey.url)
    try:
        for number in range(8):
            history.act("claim", number)
        history.act("commit", 0)
        history.act("give_back", 0)
        history.act("commit", 0)
        history.raw.delete(f"{history.job}:{key}")
        assert history.complete() == "done"
        assert history.made == history.wanted
    finally:
        history.close()


def test_a_shard_that_was_found_in_nobodys_hands_is_looked_for_before_it_is_made(valkey: Valkey) -> None:
    """Its second attempt looks for a receipt; so has the first after it was lost."""
    history = History(valkey.url)
    try:
        for _ in range(3):
            claim = history.ledger.claim(JOB, "a")
            assert isinstance(claim, Claim)
            history.commit(claim)
        history.raw.delete(f"{history.job}:done")
        assert history.ledger.repair(JOB) == 3
        assert history.ledger.repair(JOB) == 0
        again = [history.ledger.claim(JOB, "a") for _ in range(4)]
        assert [(claim.shard, claim.attempt) for claim in again if isinstance(claim, Claim)] == [
            (0, 2), (1, 2), (2, 2), (3, 1),
        ]  # fmt: skip
    finally:
        history.close()


def contents(raw: redis.Redis, settings: Settings) -> dict[str, object]:
    with redis.Redis.from_url(settings.redis_url) as binary:
        return {key: binary.dump(key) for key in sorted(map(str, raw.scan_iter(f"{settings.key_prefix}:*")))}


def test_mending_what_is_well_writes_nothing(ledger: Ledger, settings: Settings, raw: redis.Redis) -> None:
    ledger.enter(NewJob(job_id=JOB, spec=make_spec(count=40, shard_size=10), destination="/x"))
    claims = [ledger.claim(JOB, "a") for _ in range(3)]
    assert isinstance(claims[0], Claim)
    ledger.commit(JOB, claims[0], samples=10, size_bytes=1, stage_seconds={})
    before = contents(raw, settings)
    assert ledger.repair(JOB) == 0
    ledger.repair_lists()
    assert contents(raw, settings) == before


def test_lists_are_restored(ledger: Ledger, settings: Settings, raw: redis.Redis) -> None:
    for name in ("job-1", "job-2"):
        ledger.enter(NewJob(job_id=name, spec=make_spec(), destination="/x", queue=QueueOptions(webhook="http://x/")))
    ledger.cancel("job-2")
    raw.delete(f"{settings.key_prefix}:live", f"{settings.key_prefix}:webhooks:due")
    ledger.repair_lists()
    assert ledger.live_jobs() == ["job-1"]
    assert raw.zcard(f"{settings.key_prefix}:webhooks:due") == 1
    raw.delete(f"{settings.key_prefix}:jobs")
    ledger.repair_lists()
    assert [job.id for job in ledger.jobs()] == ["job-1"], "nothing depends on jobs that have ended"


def test_what_is_not_live_leaves_the_list_of_live_jobs(ledger: Ledger, settings: Settings, raw: redis.Redis) -> None:
    raw.sadd(f"{settings.key_prefix}:live", "job-9")
    assert ledger.repair("job-9") == 0
    assert ledger.live_jobs() == []


def test_one_of_all_has_the_turn(ledger: Ledger, settings: Settings) -> None:
    turns: list[Callable[[], bool]] = [lambda: Ledger(settings).takes_turn("mending", 60)] * 3
    assert [turn() for turn in turns] == [True, False, False]
