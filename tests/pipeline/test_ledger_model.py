"""The real Lua against a plain model of it, in whatever order hypothesis thinks of."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from pipeline.ledger import Claim, Ledger
from pipeline.settings import Settings
from tests.pipeline.making import make_spec
from tests.servers import Valkey

SHARDS = 5
JOB = "job-1"


@dataclass
class Model:
    """What the ledger should hold: no times, no Redis, one job of five shards."""

    state: str = "queued"
    done: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    #: Shard (-1 for the last step) -> claim that holds it.
    held: dict[int, Claim] = field(default_factory=dict)
    #: Shards whose leases have lapsed but went to nobody yet.
    lapsed: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    retry: set[int] = field(default_factory=set)

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")

    def put_back(self, shard: int) -> str:
        del self.held[shard]
        self.lapsed.discard(shard)
        if shard < 0:
            return "retry"
        if self.attempts[shard] >= 3:
            self.failed.add(shard)
            return "failed"
        self.retry.add(shard)
        return "retry"

    def end(self, state: str) -> None:
        self.state = state
        self.held.clear()
        self.lapsed.clear()


class LedgerMachine(RuleBasedStateMachine):
    """Every operation is tried on both, and must answer the same."""

    url = ""

    claims = Bundle("claims")

    @initialize(found=st.sets(st.integers(0, SHARDS - 1)))
    def begin(self, found: set[int]) -> None:
        self.prefix = f"model-{uuid.uuid4().hex[:10]}"
        self.ledger = Ledger(Settings(redis_url=self.url, key_prefix=self.prefix))
        self.raw = redis.Redis.from_url(self.url, decode_responses=True)
        self.enter(found)

    def enter(self, found: set[int]) -> None:
        spec = make_spec(count=SHARDS * 10, shard_size=10)
        done = [(shard, 10) for shard in sorted(found)]
        assert self.ledger.enter(job_id=JOB, spec=spec, destination="/x", priority=5, done=done)
        self.model = Model(done=set(found))

    def teardown(self) -> None:
        self.raw.close()

    @rule(target=claims, worker=st.sampled_from("ab"))
    def claim(self, worker: str):
        answer = self.ledger.claim(JOB, worker)
        model = self.model
        if not model.live:
            assert answer == "stop"
            return multiple()
        for shard in list(model.lapsed):
            model.put_back(shard)
        fresh = set(range(SHARDS)) - model.done - model.failed - model.held.keys()
        if fresh:
            assert isinstance(answer, Claim)
            assert answer.shard in fresh
            model.retry.discard(answer.shard)
            model.attempts[answer.shard] = model.attempts.get(answer.shard, 0) + 1
            assert answer.attempt == model.attempts[answer.shard]
            model.state = "running"
        elif model.held:
            assert answer == "wait"
            return multiple()
        else:
            assert isinstance(answer, Claim)
            assert answer.shard == -1
        model.held[answer.shard] = answer
        return answer

    @rule(claim=claims)
    def commit(self, claim: Claim) -> None:
        if claim.shard < 0:
            return
        model, answer = self.model, self.ledger.commit(JOB, claim, samples=10, size_bytes=5, stage_seconds={"noise": 1})
        if not model.live:
            assert answer == "stop"
        elif claim.shard in model.done:
            assert answer == "already"
        elif model.held.get(claim.shard) != claim:
            assert answer == "stale"
        else:
            assert answer == "done"
            model.done.add(claim.shard)
            del model.held[claim.shard]
            model.lapsed.discard(claim.shard)
            model.attempts[claim.shard] = 0

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        answer = self.ledger.fail(JOB, claim, "boom", delay_s=0)
        if not self.model.live or self.model.held.get(claim.shard) != claim:
            assert answer == "stale"
        else:
            assert answer == self.model.put_back(claim.shard)

    @rule()
    def fail_three_times(self) -> None:
        """Chance alone seldom gives a shard up."""
        for _ in range(3):
            if isinstance(claim := self.claim("a"), Claim):
                self.fail(claim)

    @rule(claim=claims, patience_s=st.sampled_from([600, 600, 0]))
    def hold(self, claim: Claim, patience_s: float) -> None:
        answer, model = self.ledger.hold(JOB, "full", patience_s=patience_s, claim=claim), self.model
        if not model.live or model.held.get(claim.shard) != claim:
            assert answer == "stale"
            return
        assert answer == ("held" if patience_s else "failed")
        del model.held[claim.shard]
        model.lapsed.discard(claim.shard)
        if claim.shard >= 0:
            model.attempts[claim.shard] -= 1
        if not patience_s:
            model.end("failed")

    @rule(claim=consumes(claims))
    def give_back(self, claim: Claim) -> None:
        self.ledger.give_back(JOB, claim)
        if self.model.live and self.model.held.get(claim.shard) == claim:
            del self.model.held[claim.shard]
            self.model.lapsed.discard(claim.shard)
            if claim.shard >= 0:
                self.model.attempts[claim.shard] -= 1

    @rule(claim=claims, samples=st.integers(0, 10))
    def renew(self, claim: Claim, samples: int) -> None:
        renewal = self.ledger.renew(JOB, {claim.shard: (claim.fence, samples)})
        assert renewal.state == self.model.state
        holds = self.model.held.get(claim.shard) == claim
        if self.model.live:
            assert renewal.lost == (set() if holds else {claim.shard})
            if holds:
                self.model.lapsed.discard(claim.shard)

    @rule(claim=claims)
    def let_lapse(self, claim: Claim) -> None:
        if self.model.held.get(claim.shard) == claim:
            self.raw.zadd(f"{self.prefix}:job:{JOB}:leases", {str(claim.shard): 1})
            self.model.lapsed.add(claim.shard)

    @rule(claim=claims)
    def finish(self, claim: Claim) -> None:
        if claim.shard >= 0:
            return
        answer = self.ledger.finish(JOB, claim)
        model = self.model
        if model.live and model.held.get(-1) == claim:
            model.end("failed" if model.failed else "done")
            assert answer == model.state
        else:
            assert answer == (model.state if model.state in ("done", "failed") else "stale")

    @rule()
    def cancel(self) -> None:
        if self.model.live:
            self.model.end("cancelled")
        assert self.ledger.cancel(JOB) == self.model.state

    @rule(found=st.booleans())
    def resume(self, found: bool) -> None:
        if not self.model.live:
            self.enter(self.model.done if found else set())

    @rule()
    def script_is_forgotten(self) -> None:
        self.raw.script_flush()

    @invariant()
    def both_are_the_same(self) -> None:
        job, model = self.ledger.job(JOB), self.model
        assert job.state == model.state
        assert job.shards_done == len(model.done)
        assert job.samples_done == 10 * len(model.done)
        assert set(job.failed) == model.failed
        assert job.shards_leased == len(model.held)
        assert (self.ledger.live_jobs() == [JOB]) == model.live


def test_the_ledger_is_its_model(valkey: Valkey) -> None:
    class Machine(LedgerMachine):
        url = valkey.url

    plan = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=plan)
