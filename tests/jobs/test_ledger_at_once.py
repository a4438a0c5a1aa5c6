"""Many clients and workers at the same ledger at the same time, each with connections of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.jobs.ledger import Claim, Ledger, NewJob
from pipeline.jobs.queueing import enqueue
from tests.making import make_dataset, make_spec

JOB = "tiny-0123456789"
AT_ONCE = 6


def all_at_once(*calls: Callable[[], object]) -> list[object]:
    """Begins all calls at the same moment; answers what they answered. Raises what one of them raised."""
    gate = threading.Barrier(len(calls))
    answers: list[object] = [None] * len(calls)

    def run(number: int) -> None:
        gate.wait()
        try:
            answers[number] = calls[number]()
        except BaseException as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def drain(settings: Settings, job: str, worker: str, counts: Counter[int]) -> None:
    """Makes what there is to be made, as a worker would."""
    ledger = Ledger(settings)
    while isinstance(claim := ledger.claim(job, worker), Claim) and claim.shard >= 0:
        answer = ledger.commit(job, claim, samples=10, size_bytes=1, stage_seconds={})
        if answer in ("done", "filled"):
            counts[claim.shard] += 1


@pytest.mark.parametrize("shards", [3, 2500])
def test_of_many_that_enter_a_job_one_does_and_all_find_it_whole(settings: Settings, shards: int) -> None:
    """With more shards found than go into one call, so that the entries of several mingle."""
    spec = make_spec(count=shards * 10, shard_size=10)
    found = [(index, 10) for index in range(shards) if index % 3]
    entered = all_at_once(*[
        lambda: Ledger(settings).enter(NewJob(job_id=JOB, spec=spec, destination="/x"), done=found)
        for _ in range(AT_ONCE)
    ])  # fmt: skip
    assert entered.count(True) == 1
    job = Ledger(settings).job(JOB)
    assert (job.state, job.shards_done, job.samples_found) == ("queued", len(found), 10 * len(found))
    counts: Counter[int] = Counter()
    all_at_once(*[lambda number=number: drain(settings, JOB, f"w{number}", counts) for number in range(AT_ONCE)])
    assert counts == Counter(range(0, shards, 3))
    assert Ledger(settings).job(JOB).shards_done == shards


def test_many_submits_and_resumes_of_one_destination_are_one_job(settings: Settings, tmp_path: Path) -> None:
    spec = make_spec()
    shards = len(Dataset(make_dataset(tmp_path / "out", spec)).plan)
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/receipts/00000001.json").unlink()
    handles = all_at_once(*[
        lambda: enqueue(spec, str(tmp_path / "out"), Ledger(settings)) for _ in range(AT_ONCE)
    ])  # fmt: skip
    assert len({handle.id for handle in handles}) == 1  # type: ignore[attr-defined]
    job = Ledger(settings).jobs()
    assert [(one.state, one.shards_done) for one in job] == [("queued", shards - 1)]
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as raw:
        queues = [key for key in raw.scan_iter(f"{settings.key_prefix}:celery:noisemill.*") if raw.type(key) == "list"]
        assert sum(raw.llen(key) for key in queues) == 1  # One wake-up, however many asked for it.
    assert len(Dataset(tmp_path / "out").finished()) == shards - 1


def test_cancel_in_the_middle_of_commits_leaves_exact_counts(settings: Settings) -> None:
    ledger = Ledger(settings)
    for number in range(15):
        job = f"{JOB}-{number}"
        spec = make_spec(count=3000, shard_size=10)
        ledger.enter(NewJob(job_id=job, spec=spec, destination="/x"))
        counts: Counter[int] = Counter()

        def cancel(job: str = job, pause_s: float = 0.002 * number) -> None:
            threading.Event().wait(pause_s)
            Ledger(settings).cancel(job)

        workers = [
            lambda job=job, name=f"w{one}", counts=counts: drain(settings, job, name, counts) for one in range(3)
        ]
        all_at_once(cancel, *workers)
        state = ledger.job(job)
        assert state.state == "cancelled"
        assert (state.shards_done, state.samples_done, state.shards_leased) == (len(counts), 10 * len(counts), 0)
        assert set(counts.values()) <= {1}


def test_workers_of_before_a_resume_change_nothing_after_it(settings: Settings) -> None:
    """Cancelled and resumed again and again under workers that never pause."""
    spec = make_spec(count=6000, shard_size=10)
    ledger = Ledger(settings)
    ledger.enter(NewJob(job_id=JOB, spec=spec, destination="/x"))
    over = threading.Event()
    #: What would lie at the destination: shards that somebody was told are done.
    written: set[int] = set()

    def work(name: str) -> None:
        own = Ledger(settings)
        while not over.is_set():
            claim = own.claim(JOB, name)
            if isinstance(claim, Claim) and claim.shard >= 0:
                written.add(claim.shard)  # The receipt is there before the ledger hears of it.
                own.commit(JOB, claim, samples=10, size_bytes=1, stage_seconds={})
            elif isinstance(claim, Claim):
                own.give_back(JOB, claim)
                over.set()

    def disturb() -> None:
        own = Ledger(settings)
        for _ in range(12):
            threading.Event().wait(0.02)
            if own.cancel(JOB) == "cancelled":
                again = NewJob(job_id=JOB, spec=spec, destination="/x")
                own.enter(again, done=[(one, 10) for one in list(written)])

    all_at_once(disturb, *[lambda name=f"w{number}": work(name) for number in range(3)])
    all_at_once(lambda: work("last"))
    job = ledger.job(JOB)
    assert written == set(range(600))
    assert (job.shards_done, job.samples_done, dict(job.failed)) == (600, 6000, {})
