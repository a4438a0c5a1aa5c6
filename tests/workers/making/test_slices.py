"""Slices without TensorFlow or waiting: real ledger, mill and store, a stand-in engine, a clock of the test's own."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from pipeline.common.errors import LedgerError, StoreError, StoreUnavailableError, UsageError
from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.generators import Judge
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.ledger import Claim, Ledger, NewJob
from pipeline.spec import plan as shards
from pipeline.spec.about import About
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from pipeline.stores.local import LocalStore
from tests.jobs.test_ledger import worker_info
from tests.making import CLASSES, Made, StandIn, make_dataset, make_spec
from workers.engine.calibration import CalibratedEngines, Calibration
from workers.making.assignment import Assignment, Clock
from workers.making.leases import Leases
from workers.making.mill import Work
from workers.making.slices import SliceWorker

JOB = "tiny-1"
#: Of a judge.
DIGEST = "sha256:" + "1" * 64


@dataclass
class Time:
    """Passes only where somebody sleeps, or a test says so."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        if seconds < 0.1:  # A poll, which waits for a thread of the mill.
            time.sleep(seconds)
            return
        self.slept.append(seconds)
        self.seconds += seconds


class OneEngine:
    """Stands in for the calibrated engines: one engine, whatever is asked for."""

    def __init__(self, one: StandIn) -> None:
        self.one = one
        interface = SimpleNamespace(noise_sizes=(), attributes_dim=0)
        self.generator = SimpleNamespace(
            about=About(),
            interface=interface,
            settings=lambda told: tuple(told.items()),
            check_sampler=lambda sampler: None,
        )

    def engine(self, *_: object) -> StandIn:
        return self.one

    def compare(self, *_: object) -> None:
        pass

    def is_reproducible(self) -> bool:
        return True


class Disturbed(StandIn):
    """Calls what the test wants before it predicts."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
        self.before()
        return super().predict(latents, labels)


@dataclass
class Bench:
    """A worker, and a job that waits for it."""

    worker: SliceWorker
    engine: Disturbed
    ledger: Ledger
    time: Time
    folder: Path
    spec: JobSpec
    sent: list[tuple[Any, ...]]

    def enter(self, spec: JobSpec | None = None, place: Path | None = None) -> None:
        """The job, at its destination and in the ledger."""
        self.spec, place = spec or self.spec, place or self.folder
        open_store(place).write(shards.JOB, self.spec.to_json().encode())
        assert self.ledger.enter(NewJob(job_id=JOB, spec=self.spec, destination=str(place)))

    def run(self) -> None:
        """One wake-up, to its end."""
        [(token, serial)] = self.ledger.missing_wakeups(JOB, workers=1, grace_s=0.0)
        self.worker.run(job=JOB, token=token, serial=serial)
        self.worker.background.wait()

    @property
    def state(self) -> tuple[str, int, str | None]:
        job = self.ledger.job(JOB)
        return job.state, job.shards_done, job.error


@pytest.fixture
def bench(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[Bench]:
    spec, passing, engine = make_spec(), Time(), Disturbed()
    sent: list[tuple[Any, ...]] = []
    worker = SliceWorker(
        settings=settings,
        ledger=ledger,
        wakeups=cast(Wakeups, SimpleNamespace(send=lambda *told: sent.append(told))),
        engines=cast(CalibratedEngines, OneEngine(engine)),
        calibrations={("float32", None): Calibration(engine="tf", batch=64, rate=1.0)},
        info=worker_info(digest=spec.digest, classes=CLASSES, output_roots=(str(tmp_path),)),
        stop=threading.Event(),
        clock=Clock(now=passing.now, sleep=passing.sleep),
    )
    before = set(threading.enumerate())
    yield Bench(worker, engine, ledger, passing, tmp_path / "out", spec, sent)
    assert set(threading.enumerate()) <= before


def test_who_fills_a_pack_of_receipts_writes_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    monkeypatch.setattr("workers.making.shard_sink.are_packed", lambda store, files: files == 2)
    monkeypatch.setattr("workers.making.shard_sink.write_pack", lambda store, number: packed.append(number))
    spec = make_spec(count=2100, shard_size=1)
    open_store(bench.folder).write(shards.JOB, spec.to_json().encode())
    new = NewJob(job_id=JOB, spec=spec, destination=str(bench.folder))
    assert bench.ledger.enter(new, done=[(index, 1) for index in range(2100) if index not in (1500, 2099)])
    bench.run()
    assert packed == [1]


def test_a_job_in_one_slice(bench: Bench, tmp_path: Path) -> None:
    bench.enter()
    bench.run()
    assert bench.state == ("done", 4, None)
    assert Dataset(str(bench.folder)).whole
    alone = make_dataset(tmp_path / "alone", bench.spec)
    assert np.array_equal(Dataset(str(bench.folder)).samples(0, 100), Dataset(str(alone)).samples(0, 100))
    assert bench.sent == []
    assert bench.worker.samples == 100


def test_a_slice_ends_and_sends_its_wakeup_again(bench: Bench) -> None:
    bench.enter()
    bench.engine.before = lambda: bench.time.sleep(bench.worker.settings.slice_s)
    bench.run()
    state, done, _ = bench.state
    assert (state, 0 < done < 4) == ("running", True)
    assert bench.sent == [(JOB, bench.spec.digest, 5, 0, 2)]
    bench.engine.before = lambda: None
    bench.worker.run(job=JOB, token=0, serial=2)
    bench.worker.background.wait()
    assert bench.state == ("done", 4, None)


def test_a_stale_wakeup_does_nothing(bench: Bench) -> None:
    bench.enter()
    bench.run()
    bench.worker.run(job=JOB, token=0, serial=1)
    assert bench.sent == []


# -- jobs that this worker leaves to others, or that nobody can make -------------------------------


def test_another_generators_job_is_refused(bench: Bench) -> None:
    bench.enter(make_spec(digest="sha256:" + "0" * 64))
    bench.run()
    state, done, error = bench.state
    assert (state, done, bench.sent) == ("queued", 0, [])
    assert "it wants generator sha256:0000" in str(error)


def test_candidates_of_a_judge_that_the_worker_holds(bench: Bench, tmp_path: Path) -> None:
    """Four candidates of the calibrated batch make a quarter of it; the winners are those of another maker."""
    judge = SimpleNamespace(layout=lambda interface: "same")
    bench.worker.judges = {DIGEST: cast(Judge, judge)}
    asked: list[Any] = []
    engine: Any = bench.engine
    engine.best_of, engine.batch, engine.engine = 4, 16, "tf"
    engines: Any = bench.worker.engines

    def judging_engine(*how: Any) -> Any:
        asked.append(how)
        return engine

    engines.judging_engine = judging_engine
    bench.enter(make_spec(best_of=4, judge="j.keras", judge_digest=DIGEST))
    bench.run()
    assert bench.state == ("done", 4, None)
    assert all((how[1], how[5].best_of, how[5].judge) == (16, 4, judge) for how in asked)
    alone = make_dataset(tmp_path / "alone", bench.spec)
    assert np.array_equal(Dataset(str(bench.folder)).samples(0, 100), Dataset(str(alone)).samples(0, 100))
    assert np.array_equal(Dataset(str(bench.folder)).latents(0, 100), Dataset(str(alone)).latents(0, 100))


def test_a_judge_that_only_the_job_names_is_not_loaded(bench: Bench) -> None:
    bench.enter(make_spec(best_of=4, judge="/data/j.keras", judge_digest=DIGEST))
    bench.run()
    state, done, error = bench.state
    assert (state, done, bench.sent) == ("queued", 0, [(JOB, bench.spec.digest, 5, 0, 2)])
    assert "it wants the judge '/data/j.keras': start a worker with --judge" in str(error)


def test_a_judge_of_other_samples_fails_the_job(bench: Bench) -> None:
    def refuse(_: object) -> str:
        raise UsageError("judge 'j' knows 4 classes, the generator has 10")

    bench.worker.judges = {DIGEST: cast(Judge, SimpleNamespace(layout=refuse))}
    bench.enter(make_spec(best_of=4, judge="j.keras", judge_digest=DIGEST))
    bench.run()
    assert bench.state == ("failed", 0, "judge 'j' knows 4 classes, the generator has 10")


def test_a_destination_below_no_output_root_goes_to_others(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench.enter(place=tmp_path_factory.mktemp("elsewhere") / "out")
    bench.run()
    state, done, error = bench.state
    assert (state, done) == ("queued", 0)
    assert "is below no --output-root of this worker" in str(error)
    assert bench.time.slept == [1.0]
    assert bench.sent == [(JOB, bench.spec.digest, 5, 0, 2)]


def test_a_newer_versions_job_goes_to_others(bench: Bench, raw: redis.Redis) -> None:
    bench.enter()
    key = f"{bench.ledger.settings.key_prefix}:job:{JOB}"
    raw.hset(key, "spec", json.dumps({**json.loads(bench.spec.to_json()), "version": 99}))
    bench.run()
    state, done, error = bench.state
    assert (state, done, bench.time.slept) == ("queued", 0, [1.0])
    assert "was written by a newer noisemill" in str(error)
    assert len(bench.sent) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sample_shape": (4, 4, 3)}, "the job's shapes or classes are not those of its generator"),
        ({"noise_sizes": (3,)}, "the job's noise or attributes are not those of its generator"),
    ],
)
def test_a_spec_that_is_not_the_generators(bench: Bench, change: dict[str, Any], reason: str) -> None:
    bench.enter(make_spec(**change))
    bench.run()
    assert bench.state == ("failed", 0, reason)


def test_a_destination_that_has_become_another_jobs(bench: Bench) -> None:
    bench.enter()
    open_store(bench.folder).write(shards.JOB, make_spec(seed=8).to_json().encode())
    bench.run()
    state, _, error = bench.state
    assert (state, error) == ("failed", f"{bench.folder} has become another job's")


@pytest.mark.parametrize(
    ("field_name", "value", "reason"), [("engine", "magic", "engine is 'magic'"), ("batch", "x", "")]
)
def test_an_engine_that_somebody_wrote_into_redis(
    bench: Bench, raw: redis.Redis, field_name: str, value: str, reason: str
) -> None:
    bench.enter()
    raw.hset(f"{bench.ledger.settings.key_prefix}:job:{JOB}", field_name, value)
    bench.run()
    key = f"{bench.ledger.settings.key_prefix}:job:{JOB}"
    assert raw.hget(key, "state") == "failed"
    assert reason in str(raw.hget(key, "error"))


def test_a_destination_that_only_another_worker_can_write_to(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: LocalStore) -> None:
        raise StoreError("read-only here")

    monkeypatch.setattr(LocalStore, "check_writable", refuse)
    bench.enter()
    bench.ledger.announce(replace(bench.worker.info, id="other"))
    bench.run()
    assert bench.state[:2] == ("queued", 0)
    assert bench.worker.unreachable == (str(bench.folder),)
    # The last one that could: the job fails with the cause.
    bench.ledger.withdraw("other")
    bench.worker.run(job=JOB, token=0, serial=2)
    assert bench.state == ("failed", 0, "read-only here")
    assert not bench.worker.unreachable


def test_a_format_whose_library_only_another_worker_has(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    bench.enter(make_spec(format="parquet"))
    bench.ledger.announce(replace(bench.worker.info, id="other"))
    bench.run()
    assert bench.state[:2] == ("queued", 0)
    bench.ledger.withdraw("other")
    bench.worker.run(job=JOB, token=0, serial=2)
    state, _, error = bench.state
    assert state == "failed"
    assert error is not None
    assert "parquet needs pyarrow: pip install 'noisemill[parquet]'" in error


def test_receipts_name_the_version_of_what_wrote_the_files(bench: Bench) -> None:
    bench.enter(make_spec(format="parquet"))
    bench.run()
    assert bench.state == ("done", 4, None)
    manifest = Dataset(bench.folder).manifest()
    assert manifest is not None
    assert [record.versions["pyarrow"] for record in manifest.made_by] == [version("pyarrow")]


def test_an_unexpected_error_fails_the_job_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(bench.worker.engines, "engine", fail)
    bench.enter()
    bench.run()
    state, _, error = bench.state
    assert (state, bench.sent) == ("failed", [])
    assert error == "unexpected error: RuntimeError: nobody foresaw this; the worker's log has the traceback"


# -- shards ----------------------------------------------------------------------------------------


def test_a_shard_whose_lease_went_to_another_is_not_put_in_place(bench: Bench, raw: redis.Redis) -> None:
    bench.enter()
    key = f"{bench.ledger.settings.key_prefix}:job:{JOB}:holders"
    stolen: list[str] = []

    def steal() -> None:
        if not stolen:
            stolen.append("0")
            raw.hset(key, "0", "999999999999999999|another")

    bench.engine.before = steal
    bench.run()
    state, done, _ = bench.state
    assert (state, done) == ("running", 3)
    assert shards.receipt_name(0) not in {entry.name for entry in open_store(bench.folder).list()}
    assert bench.ledger.job(JOB).failed == {}


def test_a_receipt_of_an_earlier_attempt_is_committed_without_predicting(bench: Bench) -> None:
    make_dataset(bench.folder, bench.spec, finished=False)
    bench.enter()
    claims = [bench.ledger.claim(JOB, "host-1") for _ in range(4)]
    assert all(isinstance(claim, Claim) for claim in claims)
    bench.ledger.release_worker("host-1")  # It died after it had written the receipts.
    bench.run()
    assert bench.state == ("done", 4, None)
    assert bench.engine.sizes == []


def test_suspect_shards_are_made_one_at_a_time(bench: Bench) -> None:
    bench.enter()
    for _ in bench.spec.plan:
        bench.ledger.claim(JOB, "host-1")
    bench.ledger.release_worker("host-1")  # Its process died: any of them may be why.
    leased: list[int] = []
    bench.engine.before = lambda: leased.append(bench.ledger.job(JOB).shards_leased)
    bench.run()
    assert bench.state == ("done", 4, None)
    assert set(leased) == {1}


def test_a_store_that_is_away_holds_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalStore.draft
    away = [True]

    def draft(store: LocalStore) -> Any:
        if away[0]:
            raise StoreUnavailableError("the store is away")
        return real(store)

    monkeypatch.setattr(LocalStore, "draft", draft)
    bench.enter()
    bench.run()
    job = bench.ledger.job(JOB)
    assert (job.state, job.shards_done, job.error) == ("running", 0, "the store is away")
    assert job.held_at is not None
    assert bench.sent == []  # The reconciler sends the next one.
    away[0] = False
    bench.run()
    assert bench.state == ("done", 4, None)


def test_a_store_that_will_not_come_back_fails_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def draft(_: LocalStore) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr(LocalStore, "draft", draft)
    bench.enter()
    bench.run()
    assert bench.state == ("failed", 0, "the disk is full")


def test_a_worker_that_has_to_stop_gives_everything_back(bench: Bench) -> None:
    bench.enter()
    bench.engine.before = bench.worker.stop.set
    bench.run()
    job = bench.ledger.job(JOB)
    assert (job.state, job.shards_leased, bench.sent) == ("running", 0, [])
    claim = bench.ledger.claim(JOB, "other")
    assert isinstance(claim, Claim)
    assert claim.attempt == 1, "it does not count as an attempt"


def test_a_cancelled_job_ends_within_a_batch(bench: Bench) -> None:
    bench.enter(make_spec(count=3000, shard_size=3000))

    def cancel() -> None:
        bench.ledger.cancel(JOB)

    bench.engine.before = cancel
    bench.run()
    assert bench.state[:2] == ("cancelled", 0)
    assert not any(entry.name.startswith("shards/") for entry in open_store(bench.folder).list())


# -- Redis away ------------------------------------------------------------------------------------


def assignment(settings: Settings, ledger: Any, passing: Time) -> Assignment:
    nothing: Any = None
    return Assignment(
        job=JOB, spec=make_spec(), destination="/x", worker_id="w", token=0, holder="w/1", lease=nothing,
        ledger=ledger, settings=settings, stop=threading.Event(), hold=nothing, count=nothing,
        is_busy=lambda: False, is_reproducible=lambda: True, about_generator=About(),
        clock=Clock(now=passing.now, sleep=passing.sleep),
    )  # fmt: skip


def work(index: int = 0, attempt: int = 1) -> Work:
    return Work(claim=Claim(shard=index, fence="1", attempt=attempt), shard=make_spec().plan[index])


class Away:
    """A ledger that does not answer for a while."""

    def __init__(self, time: Time, until: float) -> None:
        self.time, self.until, self.calls = time, until, 0

    def renew(self, *_: object, **__: object) -> Any:
        self.calls += 1
        if self.time.seconds < self.until:
            raise LedgerError("Redis is away")
        return SimpleNamespace(state="running", lost=set())


def test_a_short_outage_costs_nothing(settings: Settings) -> None:
    passing = Time()
    ledger = Away(passing, until=passing.seconds + settings.lease_s / 2)
    leases = Leases(assignment(settings, ledger, passing))
    mine = work()
    leases.add(mine)
    leases.patiently(leases.renew)
    leases.check_age()
    assert (mine.lost, leases.stopping) == (False, False)
    assert sum(passing.slept) == pytest.approx(settings.lease_s / 2)


def test_after_an_outage_as_long_as_a_lease_all_is_lost(settings: Settings) -> None:
    passing = Time()
    leases = Leases(assignment(settings, Away(passing, until=float("inf")), passing))
    mine, others = work(0), work(1)
    leases.add(mine)
    leases.add(others)
    with pytest.raises(LedgerError):
        leases.patiently(leases.renew)
    leases.check_age()
    assert (mine.lost, others.lost) == (True, True)


def test_suspects_and_others() -> None:
    leases = Leases(assignment(Settings(), None, Time()))
    plain, suspect = work(0), work(1, attempt=2)
    leases.add(plain)
    assert (leases.has_suspect(), leases.has_others(plain)) == (False, False)
    leases.add(suspect)
    assert (leases.has_suspect(), leases.has_others(suspect)) == (True, True)
    leases.forget(plain)
    leases.forget(plain)
    assert (leases.has_suspect(), leases.has_others(suspect)) == (True, False)
