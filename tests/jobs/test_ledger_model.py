"""The real Lua against a plain model of it, in whatever order hypothesis thinks of."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
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

from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from tests.making import make_spec
from tests.servers import Valkey

SHARDS = 5
JOB = "job-1"
#: Workers; the name of one begins another's.
WORKERS = ("a", "b", "b1")

workers = st.sampled_from(WORKERS)


@dataclass
class Token:
    """One wake-up: serials sent and taken, and the slice that holds it."""

    sent: int = 0
    taken: int = 0
    #: worker/slice
    holder: str | None = None
    lapsed: bool = False
    #: Whether it was sent so long ago that it must be lost.
    overdue: bool = False

    @property
    def held(self) -> bool:
        return self.holder is not None and not self.lapsed

    @property
    def waiting(self) -> bool:
        return self.sent > self.taken and not self.overdue


@dataclass
class Model:
    """What the ledger should hold: no times, no Redis, one job of five shards."""

    state: str = "queued"
    parallel: int = 0
    done: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    #: Shard (-1 for the last step) -> claim that holds it, and its worker.
    held: dict[int, Claim] = field(default_factory=dict)
    holder: dict[int, str] = field(default_factory=dict)
    #: Shards whose leases have lapsed but went to nobody yet.
    lapsed: set[int] = field(default_factory=set)
    #: Claims of a shard but for those that a lost worker took along, which are the losses.
    attempts: Counter[int] = field(default_factory=Counter)
    losses: Counter[int] = field(default_factory=Counter)
    #: Who failed a shard, or was lost with it.
    failers: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: Shards that were claimed before.
    retry: set[int] = field(default_factory=set)
    tokens: defaultdict[int, Token] = field(default_factory=lambda: defaultdict(Token))
    leases_lost: int = 0

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def left(self) -> int:
        return SHARDS - len(self.done) - len(self.failed)

    def release(self, shard: int) -> str:
        del self.held[shard]
        self.lapsed.discard(shard)
        return self.holder.pop(shard)

    def put_back(self, shard: int, *, lost: bool = False) -> str:
        worker = self.release(shard)
        if shard < 0:
            return "retry"
        if lost:
            self.attempts[shard] -= 1
            self.losses[shard] += 1
        if self.attempts[shard] >= 3 or self.losses[shard] >= 5:
            self.failed.add(shard)
            self.forget(shard)
            return "failed"
        self.failers[shard].add(worker)
        self.retry.add(shard)
        return "retry"

    def put_back_untouched(self, shard: int) -> None:
        self.release(shard)
        if shard >= 0:
            self.attempts[shard] -= 1
            self.retry.add(shard)

    def forget(self, shard: int) -> None:
        del self.attempts[shard], self.losses[shard]
        self.failers.pop(shard, None)

    def claimable(self, worker: str) -> set[int]:
        """Shards that this worker may be given now: never claimed, or to be tried again and not for others to try."""
        at_work = {token.holder.rpartition("/")[0] for token in self.tokens.values() if token.holder and token.held}
        theirs = {shard for shard in self.retry if worker in self.failers[shard] and at_work - self.failers[shard]}
        return set(range(SHARDS)) - self.done - self.failed - self.held.keys() - theirs

    def end(self, state: str) -> None:
        self.state = state
        self.held.clear()
        self.holder.clear()
        self.lapsed.clear()
        self.tokens.clear()


class LedgerMachine(RuleBasedStateMachine):
    """Every operation is tried on both, and must answer the same. What is drawn from bundles comes late and twice."""

    url = ""

    claims = Bundle("claims")
    #: (token, serial) as they were sent.
    messages = Bundle("messages")
    #: (token, worker/slice) as they were taken.
    slices = Bundle("slices")

    @initialize(found=st.sets(st.integers(0, SHARDS - 1)), parallel=st.sampled_from([0, 0, 2]))
    def begin(self, found: set[int], parallel: int) -> None:
        self.prefix = f"model-{uuid.uuid4().hex[:10]}"
        self.ledger = Ledger(Settings(redis_url=self.url, key_prefix=self.prefix))
        self.raw = redis.Redis.from_url(self.url, decode_responses=True)
        self.slices_begun = 0
        self.enter(found, parallel)

    def enter(self, found: set[int], parallel: int = 0) -> None:
        spec = make_spec(count=SHARDS * 10, shard_size=10)
        done = [(shard, 10) for shard in sorted(found)]
        assert self.ledger.enter(
            NewJob(job_id=JOB, spec=spec, destination="/x", queue=QueueOptions(parallel=parallel)), done=done
        )
        self.model = Model(done=set(found), parallel=parallel)

    def teardown(self) -> None:
        self.raw.close()
        self.ledger._redis.close()

    # -- shards ------------------------------------------------------------------------------------

    @rule(target=claims, worker=workers)
    def claim(self, worker: str):
        answer = self.ledger.claim(JOB, worker)
        model = self.model
        if not model.live:
            assert answer == "stop"
            return multiple()
        for shard in list(model.lapsed):
            model.leases_lost += 1
            model.put_back(shard, lost=True)
        claimable = model.claimable(worker)
        if claimable:
            assert isinstance(answer, Claim)
            assert answer.shard in claimable
            model.retry.discard(answer.shard)
            model.attempts[answer.shard] += 1
            assert answer.attempt == model.attempts[answer.shard] + model.losses[answer.shard]
            model.state = "running"
        elif model.left or -1 in model.held:
            assert answer == "wait"
            return multiple()
        else:
            assert isinstance(answer, Claim)
            assert answer.shard == -1
        model.held[answer.shard] = answer
        model.holder[answer.shard] = worker
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
            model.release(claim.shard)
            model.forget(claim.shard)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        answer = self.ledger.fail(JOB, claim, "boom", delay_s=0)
        if not self.model.live or self.model.held.get(claim.shard) != claim:
            assert answer == "stale"
        else:
            assert answer == self.model.put_back(claim.shard)

    @rule(worker=workers)
    def fail_three_times(self, worker: str) -> None:
        """Chance alone seldom gives a shard up."""
        for _ in range(3):
            if isinstance(claim := self.claim(worker), Claim):
                self.fail(claim)

    @rule(worker=workers)
    def lose_five_times(self, worker: str) -> None:
        for _ in range(5):
            if isinstance(claim := self.claim(worker), Claim):
                self.let_lapse(claim)

    @rule(claim=consumes(claims))
    def give_back(self, claim: Claim) -> None:
        self.ledger.give_back(JOB, claim)
        if self.model.live and self.model.held.get(claim.shard) == claim:
            self.model.put_back_untouched(claim.shard)

    @rule(claim=claims, patient=st.booleans())
    def hold(self, claim: Claim, patient: bool) -> None:
        """The store fails: for a moment, or for good."""
        answer = self.ledger.hold(JOB, "the disk", patience_s=60 if patient else 0, claim=claim)
        model = self.model
        if not model.live or model.held.get(claim.shard) != claim:
            assert answer == "stale"
            return
        model.put_back_untouched(claim.shard)
        if not patient:
            model.end("failed")
        assert answer == ("held" if patient else "failed")

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

    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        """The worker's process dies, and its next one says so."""
        self.ledger.release_worker(worker)
        model = self.model
        if not model.live:
            return
        for shard in [shard for shard, holder in model.holder.items() if holder == worker]:
            model.leases_lost += 1
            model.put_back(shard)
        for token in model.tokens.values():
            if token.holder and token.holder.rpartition("/")[0] == worker:
                token.holder = None

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

    # -- wake-ups ----------------------------------------------------------------------------------

    @rule(target=messages, wanted=st.integers(0, 3))
    def send_missing(self, wanted: int):
        sent = self.ledger.missing_wakeups(JOB, workers=wanted, grace_s=60)
        model = self.model
        if not model.live:
            assert sent == []
            return multiple()
        expected = []
        for number in range(max(1, min(wanted, model.left, model.parallel or 99))):
            token = model.tokens[number]
            if not token.held and not token.waiting:
                token.sent += 1
                token.overdue = False
                expected.append((number, token.sent))
        assert sent == expected
        return multiple(*sent)

    @rule(message=messages)
    def lose_message(self, message: tuple[int, int]) -> None:
        """It was sent long ago, and nobody took it."""
        number = message[0]
        if self.model.live and (token := self.model.tokens.get(number)) and token.sent:
            parts = self._wakeup(number)
            parts[2] = "1"
            self._set_wakeup(number, parts)
            token.overdue = True

    @rule(target=slices, message=messages, worker=workers)
    def take(self, message: tuple[int, int], worker: str):
        number, serial = message
        self.slices_begun += 1
        holder = f"{worker}/{self.slices_begun}"
        taken = self.ledger.take_wakeup(JOB, number, serial, holder)
        token = self.model.tokens.get(number)
        free = self.model.live and token is not None and not token.held and serial > token.taken
        assert taken == free
        if not taken:
            return multiple()
        assert token is not None
        token.taken, token.holder, token.lapsed = token.sent, holder, False
        return number, holder

    @rule(of=slices)
    def renew_slice(self, of: tuple[int, str]) -> None:
        number, holder = of
        self.ledger.renew(JOB, {}, token=number, holder=holder)
        token = self.model.tokens.get(number)
        if self.model.live and token and token.holder == holder:
            token.lapsed = False

    @rule(of=slices)
    def let_slice_lapse(self, of: tuple[int, str]) -> None:
        number, holder = of
        token = self.model.tokens.get(number)
        if token and token.holder == holder:
            parts = self._wakeup(number)
            parts[3] = "1"
            self._set_wakeup(number, parts)
            token.lapsed = True

    @rule(target=messages, of=slices, again=st.booleans())
    def put_down(self, of: tuple[int, str], again: bool):
        number, holder = of
        serial = self.ledger.return_wakeup(JOB, number, holder, again=again)
        token = self.model.tokens.get(number)
        if token is None or token.holder != holder:
            assert serial is None
            return multiple()
        token.holder = None
        if not again:
            assert serial is None
            return multiple()
        token.sent += 1
        token.overdue = False
        assert serial == token.sent
        return number, serial

    def _wakeup(self, number: int) -> list[str]:
        text = self.raw.hget(f"{self.prefix}:job:{JOB}:wakeups", str(number))
        assert isinstance(text, str)
        return text.split("|")

    def _set_wakeup(self, number: int, parts: list[str]) -> None:
        self.raw.hset(f"{self.prefix}:job:{JOB}:wakeups", str(number), "|".join(parts))

    # -- the whole job -----------------------------------------------------------------------------

    @rule()
    def cancel(self) -> None:
        if self.model.live:
            self.model.end("cancelled")
        assert self.ledger.cancel(JOB) == self.model.state

    @rule()
    def abandon(self) -> None:
        self.ledger.abandon(JOB, "no use")
        if self.model.live:
            self.model.end("failed")

    @rule(found=st.booleans(), parallel=st.sampled_from([0, 1]))
    def resume(self, found: bool, parallel: int) -> None:
        if not self.model.live:
            self.enter(self.model.done if found else set(), parallel)

    @rule()
    def submit_again(self) -> None:
        """A job that is live is left as it is."""
        if self.model.live:
            spec = make_spec(count=SHARDS * 10, shard_size=10)
            assert not self.ledger.enter(
                NewJob(job_id=JOB, spec=spec, destination="/y", queue=QueueOptions(priority=0)), done=[(0, 10)]
            )

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
        assert job.leases_lost == model.leases_lost
        assert (self.ledger.live_jobs() == [JOB]) == model.live

    @invariant()
    def every_shard_is_somewhere_once(self) -> None:
        """Done, given up, in one worker's hands, waiting for another attempt, or not begun."""
        if not self.model.live:
            return
        key = f"{self.prefix}:job:{JOB}"
        held = set(self.raw.hkeys(f"{key}:holders")) - {"-1"}
        retry, failed = set(self.raw.zrange(f"{key}:retry", 0, -1)), set(self.raw.hkeys(f"{key}:failed"))
        done = {str(shard) for shard in range(SHARDS) if self.raw.getbit(f"{key}:done", shard)}
        cursor = int(str(self.raw.hget(key, "cursor")))
        fresh = {str(shard) for shard in range(cursor, SHARDS)} - done
        places: list[set[str]] = [{str(name) for name in place} for place in (held, retry, failed, done, fresh)]
        assert set().union(*places) == {str(shard) for shard in range(SHARDS)}
        assert sum(map(len, places)) == SHARDS


def test_the_ledger_is_its_model(valkey: Valkey) -> None:
    class Machine(LedgerMachine):
        url = valkey.url

    plan = settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=plan)
