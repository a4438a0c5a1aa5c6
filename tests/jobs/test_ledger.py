"""The ledger against a real Valkey: claims, leases, fences, attempts, wake-ups, the life of a job."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from pipeline.common.errors import LedgerError, UnknownJobError
from pipeline.common.settings import Settings
from pipeline.datasets.stages import verdict
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from pipeline.jobs.worker_info import WorkerInfo, output_allowed
from tests.making import make_spec
from tests.servers import Valkey

JOB = "tiny-0123456789"


def enter(
    ledger: Ledger, shards: int = 4, *, done: Iterable[tuple[int, int]] = (), whole: bool = False, **options: Any
) -> None:
    """A job of so many shards of ten samples."""
    spec = make_spec(count=shards * 10, shard_size=10)
    new = NewJob(job_id=JOB, spec=spec, destination="/data/x", **options)
    assert ledger.enter(new, done=done, whole=whole)


def claim(ledger: Ledger, worker: str = "w") -> Claim:
    got = ledger.claim(JOB, worker)
    assert isinstance(got, Claim), got
    return got


def commit(ledger: Ledger, got: Claim, seconds: dict[str, float] | None = None) -> str:
    return ledger.commit(JOB, got, samples=10, size_bytes=1000, stage_seconds=seconds or {})


def let_lapse(raw: redis.Redis, ledger: Ledger, got: Claim) -> None:
    """As if the lease had not been renewed for longer than it lasts."""
    raw.zadd(f"{ledger.settings.key_prefix}:job:{JOB}:leases", {str(got.shard): 1})


def end(ledger: Ledger) -> str:
    """Makes all that is left."""
    while True:
        got = claim(ledger)
        if got.shard < 0:
            return ledger.finish(JOB, got)
        assert commit(ledger, got) == "done"


# -- the life of a job -----------------------------------------------------------------------------


def test_a_job_from_queued_to_done(ledger: Ledger) -> None:
    enter(ledger)
    job = ledger.job(JOB)
    assert (job.state, job.shards, job.shards_done, job.count, job.live) == ("queued", 4, 0, 40, True)
    assert (job.running_at, job.ended_at, job.rate, job.verdict, job.engine) == (None, None, None, None, None)
    assert ledger.live_jobs() == [JOB]
    for index in range(4):
        got = claim(ledger)
        assert (got.shard, got.attempt) == (index, 1)
        assert ledger.job(JOB).shards_leased == 1
        assert commit(ledger, got, {"noise": 0.25, "predict": 1.5, "encode": 1e-7, "write": 0.5}) == "done"
    final = claim(ledger)
    assert (final.shard, final.attempt) == (-1, 0)
    assert ledger.claim(JOB, "other") == "wait"
    assert ledger.finish(JOB, final) == "done"
    assert ledger.finish(JOB, final) == "done"
    job = ledger.job(JOB)
    assert (job.state, job.shards_done, job.samples_done, job.bytes_done, job.live) == ("done", 4, 40, 4000, False)
    assert job.stage_seconds["predict"] == pytest.approx(6)
    assert job.verdict == "device-bound"
    assert job.queued_at is not None
    assert job.running_at is not None
    assert job.ended_at is not None
    assert job.queued_at <= job.running_at <= job.ended_at <= time.time() + 5
    assert ledger.live_jobs() == []
    assert ledger.claim(JOB, "w") == "stop"


def test_spec_and_destination_come_back(ledger: Ledger) -> None:
    spec = make_spec(generator="/ü/猫.keras", classes=("|", "été", "a|b", "a=b"))
    ledger.enter(NewJob(job_id="j", spec=spec, destination="/data/ü |", queue=QueueOptions(priority=0)))
    assert ledger.spec("j") == (spec, "/data/ü |")


def test_entering_a_live_job_changes_nothing(ledger: Ledger) -> None:
    enter(ledger)
    got = claim(ledger)
    assert not ledger.enter(NewJob(job_id=JOB, spec=make_spec(), destination="/other", queue=QueueOptions(priority=0)))
    assert ledger.job(JOB).destination == "/data/x"
    assert commit(ledger, got) == "done"


def test_a_whole_dataset_is_done_as_it_is(ledger: Ledger) -> None:
    enter(ledger, done=[(index, 10) for index in range(4)], whole=True)
    job = ledger.job(JOB)
    assert (job.state, job.shards_done, job.samples_found) == ("done", 4, 40)
    assert ledger.live_jobs() == []
    assert ledger.claim(JOB, "w") == "stop"


def test_all_shards_found_but_no_manifest_needs_the_last_step_alone(ledger: Ledger) -> None:
    enter(ledger, done=[(index, 10) for index in range(4)])
    assert claim(ledger).shard == -1


def test_cancel(ledger: Ledger) -> None:
    enter(ledger)
    got = claim(ledger)
    assert ledger.cancel(JOB) == "cancelled"
    assert ledger.cancel(JOB) == "cancelled"
    assert ledger.claim(JOB, "w") == "stop"
    assert ledger.renew(JOB, {got.shard: (got.fence, 5)}).state == "cancelled"
    assert commit(ledger, got) == "stop"
    assert ledger.fail(JOB, got, "x", delay_s=0) == "stale"
    ledger.give_back(JOB, got)
    job = ledger.job(JOB)
    assert (job.state, job.shards_done, job.shards_leased, job.samples_in_flight) == ("cancelled", 0, 0, 0)
    assert job.ended_at is not None
    assert ledger.live_jobs() == []


def test_cancel_of_a_job_that_has_ended_tells_its_state(ledger: Ledger) -> None:
    enter(ledger)
    assert end(ledger) == "done"
    assert ledger.cancel(JOB) == "done"


def test_abandon_tells_why(ledger: Ledger) -> None:
    enter(ledger)
    ledger.abandon(JOB, "the disk | is full")
    ledger.abandon(JOB, "something later")
    job = ledger.job(JOB)
    assert (job.state, job.error) == ("failed", "the disk | is full")


def test_a_job_whose_store_fails_is_held_and_no_shard_pays_for_it(ledger: Ledger) -> None:
    enter(ledger)
    for _ in range(5):
        got = claim(ledger)
        assert (got.shard, got.attempt) == (0, 1)
        assert ledger.hold(JOB, "the server is away", patience_s=60, claim=got) == "held"
        assert ledger.hold(JOB, "late", patience_s=60, claim=got) == "stale"
    job = ledger.job(JOB)
    assert (job.state, job.error, job.shards_leased, dict(job.failed)) == ("running", "the server is away", 0, {})
    assert job.held_at is not None
    assert commit(ledger, claim(ledger)) == "done"
    job = ledger.job(JOB)
    assert (job.held_at, job.error) == (None, None)


def test_a_job_is_not_held_for_ever(ledger: Ledger) -> None:
    enter(ledger)
    assert ledger.hold(JOB, "away", patience_s=0.2) == "held"
    time.sleep(0.3)
    assert ledger.hold(JOB, "still away", patience_s=0.2, claim=claim(ledger)) == "failed"
    job = ledger.job(JOB)
    assert (job.state, job.error, job.shards_leased) == ("failed", "still away", 0)
    assert ledger.hold(JOB, "late", patience_s=60) == "stale"
    assert ledger.hold("nothing", "x", patience_s=0) == "stale"


def test_what_somebody_must_mend_fails_at_once(ledger: Ledger) -> None:
    enter(ledger, done=[(index, 10) for index in range(4)])
    assert ledger.hold(JOB, "the disk is full", patience_s=0, claim=claim(ledger)) == "failed"
    assert ledger.job(JOB).error == "the disk is full"


def test_unknown_jobs(ledger: Ledger) -> None:
    for call in (ledger.job, ledger.cancel, ledger.spec, ledger.find_job):
        with pytest.raises(UnknownJobError, match="'nothing' is unknown: see 'noisemill jobs'"):
            call("nothing")
    assert ledger.claim("nothing", "w") == "stop"
    assert ledger.missing_wakeups("nothing", workers=3, grace_s=5) == []
    assert not ledger.take_wakeup("nothing", 0, 1, "w/1")
    assert ledger.return_wakeup("nothing", 0, "w/1", again=True) is None
    assert ledger.renew("nothing", {0: ("1", 1)}, token=0, holder="w/1").state == "unknown"
    ledger.abandon("nothing", "x")
    assert ledger.jobs() == []


@pytest.mark.parametrize("ended", ["failed", "cancelled", "done"])
def test_a_job_that_has_ended_is_entered_anew(ledger: Ledger, ended: str) -> None:
    enter(ledger, shards=2)
    if ended == "done":
        end(ledger)
    elif ended == "cancelled":
        claim(ledger)
        ledger.cancel(JOB)
    else:
        claim(ledger)
        for attempt in range(3):
            got = claim(ledger)
            assert (got.shard, got.attempt) == (1, attempt + 1)
            ledger.fail(JOB, got, "boom", delay_s=0)
        ledger.abandon(JOB, "boom")
    enter(ledger, shards=2, done=[(0, 10)], engine="xla", batch=64)
    job = ledger.job(JOB)
    assert (job.state, job.shards_done, job.samples_done, job.samples_found) == ("queued", 1, 10, 10)
    assert (job.engine, job.batch, job.error, dict(job.failed), list(job.errors)) == ("xla", 64, None, {}, [])
    assert (job.running_at, job.ended_at, job.shards_leased, job.leases_lost) == (None, None, 0, 0)
    assert ledger.live_jobs() == [JOB]
    got = claim(ledger)
    assert (got.shard, got.attempt) == (1, 1)
    assert commit(ledger, got) == "done"
    assert end(ledger) == "done"


def test_of_two_clients_that_enter_a_job_at_once_one_counts(ledger: Ledger) -> None:
    """The slower one's shards, marked after work began, would be done and leased at the same time."""
    entered: list[bool] = []

    def found() -> Iterator[tuple[int, int]]:
        for index in range(2500):
            if index == 1500:  # The first thousand is marked: now the other client comes.
                large = NewJob(job_id=JOB, spec=make_spec(count=40_000, shard_size=10), destination="/x")
                entered.append(ledger.enter(large, done=((shard, 10) for shard in range(2000))))
            yield index, 10

    spec = make_spec(count=40_000, shard_size=10)
    entered.append(ledger.enter(NewJob(job_id=JOB, spec=spec, destination="/x"), done=found()))
    assert entered == [True, False]
    job = ledger.job(JOB)
    assert (job.state, job.shards_done) == ("queued", 2000)
    assert claim(ledger).shard == 2000


def test_a_client_that_died_while_it_entered_a_job_is_no_obstacle(ledger: Ledger, raw: redis.Redis) -> None:
    def found() -> Iterator[tuple[int, int]]:
        yield from ((index, 10) for index in range(1000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enter(ledger, shards=2000, done=found())
    assert ledger.job(JOB).state == "preparing"
    assert ledger.claim(JOB, "w") == "stop"
    key = f"{ledger.settings.key_prefix}:job:{JOB}"
    assert 0 < raw.ttl(key) <= 3600
    assert 0 < raw.ttl(f"{key}:done") <= 3600
    enter(ledger, shards=2000)
    assert ledger.job(JOB).shards_done == 0
    assert raw.ttl(key) == -1
    assert claim(ledger).shard == 0


def test_nothing_of_a_live_job_expires_and_everything_of_an_ended_one_does(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger, done=[(0, 10)])
    got, other = claim(ledger), claim(ledger)
    ledger.fail(JOB, got, "x", delay_s=60)
    ledger.renew(JOB, {other.shard: (other.fence, 3)})
    ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    keys = list(raw.scan_iter(f"{ledger.settings.key_prefix}:job:*"))
    assert len(keys) == 9
    assert {raw.ttl(key) for key in keys} == {-1}
    ledger.cancel(JOB)
    for key in raw.scan_iter(f"{ledger.settings.key_prefix}:job:*"):
        assert raw.ttl(key) > 29 * 24 * 3600


# -- claims and leases -----------------------------------------------------------------------------


def test_two_workers_never_hold_the_same_shard(ledger: Ledger) -> None:
    enter(ledger, shards=200)
    taken: list[Claim] = []

    def work(name: str) -> None:
        while isinstance(got := ledger.claim(JOB, name), Claim) and got.shard >= 0:
            taken.append(got)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got.shard for got in taken) == list(range(200))
    assert len({got.fence for got in taken}) == 200


def test_renewal_keeps_a_lease_and_tells_progress(settings: Settings) -> None:
    ledger = Ledger(replace(settings, lease_s=0.4))
    enter(ledger, shards=1)
    got = claim(ledger)
    for samples in range(1, 5):
        time.sleep(0.15)
        renewal = ledger.renew(JOB, {got.shard: (got.fence, samples)})
        assert (renewal.state, renewal.lost) == ("running", set())
        assert ledger.claim(JOB, "other") == "wait"
        assert ledger.job(JOB).samples_in_flight == samples
    assert ledger.job(JOB).samples_made == 4
    assert commit(ledger, got) == "done"
    assert ledger.job(JOB).samples_made == 10


def test_a_lease_that_is_not_renewed_goes_to_another(settings: Settings) -> None:
    ledger = Ledger(replace(settings, lease_s=0.2))
    enter(ledger, shards=1)
    old = claim(ledger, "lost-worker")
    ledger.renew(JOB, {old.shard: (old.fence, 3)})
    time.sleep(0.25)
    new = claim(ledger, "w2")
    assert (new.shard, new.attempt) == (old.shard, 2)
    assert int(new.fence) > int(old.fence)
    job = ledger.job(JOB)
    assert (job.leases_lost, job.samples_in_flight) == (1, 0)
    assert list(job.errors) == ["the worker lost-worker was lost while it made this shard"]
    # What the old holder says changes nothing.
    assert ledger.renew(JOB, {old.shard: (old.fence, 9)}).lost == {old.shard}
    assert ledger.job(JOB).samples_in_flight == 0
    assert commit(ledger, old) == "stale"
    assert ledger.fail(JOB, old, "x", delay_s=0) == "stale"
    ledger.give_back(JOB, old)
    assert ledger.job(JOB).shards_leased == 1
    assert commit(ledger, new) == "done"
    assert list(ledger.job(JOB).errors) == []
    # After that, the old holder learns that it is done.
    assert commit(ledger, old) == "already"
    assert commit(ledger, new) == "already"
    assert ledger.job(JOB).shards_done == 1
    assert ledger.job(JOB).samples_done == 10


def test_a_late_commit_counts_while_nobody_else_has_the_shard(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger, shards=1)
    got = claim(ledger)
    let_lapse(raw, ledger, got)
    assert commit(ledger, got) == "done"
    assert claim(ledger).shard == -1


def test_a_shard_is_given_up_after_three_attempts(ledger: Ledger) -> None:
    enter(ledger, shards=2)
    for attempt in (1, 2, 3):
        got = claim(ledger)
        assert (got.shard, got.attempt) == (0, attempt)
        answer = ledger.fail(JOB, got, f"boom {attempt} " + "x" * 5000, delay_s=0)
        assert answer == ("failed" if attempt == 3 else "retry")
    job = ledger.job(JOB)
    assert job.failed[0].startswith("boom 3 ")
    assert len(job.failed[0]) == 2000
    assert list(job.errors) == []
    got = claim(ledger)
    assert got.shard == 1
    assert commit(ledger, got) == "done"
    assert ledger.finish(JOB, claim(ledger)) == "failed"
    job = ledger.job(JOB)
    assert (job.state, set(job.failed), job.shards_done) == ("failed", {0}, 1)
    assert job.as_json()["failed"].keys() == {"0"}


def test_a_lost_worker_is_seldom_its_shards_fault(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger, shards=1)
    for attempt in range(1, 6):
        got = claim(ledger, "weak")
        # Who claims it looks whether the attempt before got as far as a receipt.
        assert got.attempt == attempt
        let_lapse(raw, ledger, got)
    assert claim(ledger).shard == -1
    assert ledger.job(JOB).failed == {0: "the worker weak was lost while it made this shard"}


def test_losses_and_failures_are_counted_apart(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger, shards=1)
    for number in range(2):
        let_lapse(raw, ledger, claim(ledger, "weak"))
        assert ledger.fail(JOB, claim(ledger), "boom", delay_s=0) == "retry"
        assert ledger.job(JOB).failed == {}, number
    got = claim(ledger)
    assert got.attempt == 5
    assert ledger.fail(JOB, got, "boom", delay_s=0) == "failed"


def test_a_crash_of_the_process_is_an_attempt(ledger: Ledger) -> None:
    enter(ledger, shards=1)
    for _ in range(3):
        assert ledger.job(JOB).failed == {}
        claim(ledger, "w")
        ledger.release_worker("w")
    message = "the process of worker w died while it made this shard: a crash, or out of memory"
    assert ledger.job(JOB).failed == {0: message}


def test_a_shard_is_tried_by_others_before_who_failed_it_tries_again(ledger: Ledger) -> None:
    enter(ledger, shards=1)
    for worker, (token, serial) in zip("abc", ledger.missing_wakeups(JOB, workers=3, grace_s=5), strict=False):
        assert ledger.take_wakeup(JOB, token, serial, f"{worker}/1")
    ledger.fail(JOB, claim(ledger, "a"), "boom", delay_s=0)
    # One shard, one wake-up: a is alone at work, and tries again itself.
    assert claim(ledger, "a").attempt == 2


def one_left_of_two(settings: Settings, lease_s: float) -> Ledger:
    """Workers a and b are at work on two shards: a has failed the first, made the second, and waits."""
    ledger = Ledger(replace(settings, lease_s=lease_s))
    enter(ledger, shards=2)
    for worker, (token, serial) in zip("ab", ledger.missing_wakeups(JOB, workers=2, grace_s=5), strict=True):
        assert ledger.take_wakeup(JOB, token, serial, f"{worker}/1")
    ledger.fail(JOB, claim(ledger, "a"), "boom", delay_s=0)
    assert commit(ledger, claim(ledger, "a")) == "done"
    assert ledger.claim(JOB, "a") == "wait"
    return ledger


def test_who_failed_a_shard_leaves_it_to_others_that_are_at_work(settings: Settings) -> None:
    ledger = one_left_of_two(settings, lease_s=0.4)
    second = claim(ledger, "b")
    assert (second.shard, second.attempt) == (0, 2)
    ledger.fail(JOB, second, "boom", delay_s=0)
    # Both have failed it: either may have the last try.
    third = claim(ledger, "a")
    ledger.give_back(JOB, third)
    ledger.fail(JOB, claim(ledger, "a"), "boom", delay_s=0)
    assert ledger.job(JOB).failed == {0: "boom"}


def test_nobody_waits_for_others_that_have_gone(settings: Settings) -> None:
    ledger = one_left_of_two(settings, lease_s=0.3)
    time.sleep(0.35)
    assert claim(ledger, "a").shard == 0


def test_a_full_redis_refuses_jobs_whole_and_lets_those_that_run_go_on() -> None:
    with Valkey() as server, redis.Redis.from_url(server.url, decode_responses=True) as raw:
        ledger = Ledger(Settings(redis_url=server.url, key_prefix="full"))
        enter(ledger, shards=4)
        got = claim(ledger)
        raw.config_set("maxmemory", "1")
        before = sorted(raw.scan_iter("*"))
        with pytest.raises(LedgerError, match="is full: raise its maxmemory"):
            ledger.enter(NewJob(job_id="other", spec=make_spec(), destination="/y"), done=[(0, 10)])
        assert sorted(raw.scan_iter("*")) == before
        assert ledger.renew(JOB, {got.shard: (got.fence, 5)}).lost == set()
        assert commit(ledger, got) == "done"
        ledger.give_back(JOB, claim(ledger))
        ledger.fail(JOB, claim(ledger), "boom", delay_s=0)
        assert end(ledger) == "done"
        with pytest.raises(LedgerError, match="is full"):  # Nor is one that has ended forgotten for its successor.
            ledger.enter(NewJob(job_id=JOB, spec=make_spec(), destination="/x"))
        assert ledger.job(JOB).state == "done"
        raw.config_set("maxmemory", "0")
        assert ledger.enter(NewJob(job_id="other", spec=make_spec(), destination="/y"), done=[(0, 10)])


def test_the_commit_that_fills_a_pack_of_receipts_says_so(ledger: Ledger) -> None:
    """1,024 shards in a row, whoever made them; here all but four were there before."""
    made = [(index, 10) for index in range(2048) if index not in (3, 1023, 1024, 2047)]
    enter(ledger, shards=2100, done=made)
    assert [commit(ledger, claim(ledger)) for _ in range(5)] == ["done", "filled", "done", "filled", "done"]


def test_a_failed_attempt_waits_its_delay(ledger: Ledger) -> None:
    enter(ledger, shards=1)
    assert ledger.fail(JOB, claim(ledger), "x", delay_s=0.3) == "retry"
    assert ledger.claim(JOB, "w") == "wait"
    time.sleep(0.35)
    assert claim(ledger).attempt == 2


def test_what_is_given_back_was_no_attempt(ledger: Ledger) -> None:
    enter(ledger, shards=1)
    for _ in range(5):
        got = claim(ledger)
        assert got.attempt == 1
        ledger.give_back(JOB, got)
        ledger.give_back(JOB, got)
    assert ledger.job(JOB).shards_leased == 0
    assert end(ledger) == "done"


def test_the_last_step_is_one_workers_until_its_lease_lapses(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger, shards=1)
    commit(ledger, claim(ledger))
    first = claim(ledger, "a")
    assert ledger.claim(JOB, "b") == "wait"
    let_lapse(raw, ledger, first)
    second = claim(ledger, "b")
    assert ledger.finish(JOB, first) == "stale"
    assert ledger.renew(JOB, {-1: (first.fence, 0)}).lost == {-1}
    assert ledger.renew(JOB, {-1: (second.fence, 0)}).lost == set()
    ledger.give_back(JOB, second)
    third = claim(ledger, "c")
    assert third.shard == -1
    assert ledger.finish(JOB, third) == "done"


def test_release_worker_puts_back_what_it_alone_held(ledger: Ledger) -> None:
    enter(ledger, shards=4)
    mine, others = claim(ledger, "w-1"), claim(ledger, "w-11")
    [(token, serial)] = ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    assert ledger.take_wakeup(JOB, token, serial, "w-1/7")
    ledger.release_worker("w-1")
    assert ledger.renew(JOB, {mine.shard: (mine.fence, 0), others.shard: (others.fence, 0)}).lost == {mine.shard}
    again = claim(ledger, "w-1")
    assert (again.shard, again.attempt) == (mine.shard, 2)
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=5) == [(0, serial + 1)]


def test_settling_is_the_first_slices_matter(ledger: Ledger) -> None:
    enter(ledger)
    assert ledger.settle(JOB, "xla", 128) == ("xla", 128)
    assert ledger.settle(JOB, "tf", 512) == ("xla", 128)
    assert (ledger.job(JOB).engine, ledger.job(JOB).batch) == ("xla", 128)


def test_a_batch_that_the_user_chose_stays(ledger: Ledger) -> None:
    spec = make_spec(batch=64)
    ledger.enter(NewJob(job_id=JOB, spec=spec, destination="/x"))
    assert ledger.settle(JOB, "tf", 512) == ("tf", 64)


# -- resuming --------------------------------------------------------------------------------------


def test_resume_finds_the_few_missing_among_many(ledger: Ledger, raw: redis.Redis) -> None:
    missing = {0, 54_321, 99_999}
    enter(ledger, shards=100_000, done=((index, 10) for index in range(100_000) if index not in missing))
    job = ledger.job(JOB)
    assert (job.shards_done, job.samples_found, job.samples_done) == (99_997, 999_970, 999_970)
    raw.config_resetstat()
    assert {claim(ledger).shard for _ in range(3)} == missing
    # It does not look at every shard: that would be 100,000 calls.
    stats: Any = raw.info("commandstats")
    assert stats["cmdstat_getbit"]["calls"] < 100
    assert ledger.claim(JOB, "w") == "wait"


@pytest.mark.parametrize("shards", [1, 7, 8, 9, 15, 16, 17, 64])
def test_whatever_a_resume_found_the_others_are_claimed_once(ledger: Ledger, shards: int) -> None:
    for present in (set(), set(range(shards)), set(range(0, shards, 2)), set(range(1, shards)), set(range(shards - 1)),
                    set(range(8)) & set(range(shards)), set(range(shards // 2, shards))):  # fmt: skip
        enter(ledger, shards=shards, done=[(index, 10) for index in present])
        claimed = []
        while (got := claim(ledger)).shard >= 0:
            claimed.append(got.shard)
            assert commit(ledger, got) == "done"
        assert claimed == sorted(set(range(shards)) - present)
        assert ledger.finish(JOB, got) == "done"


def test_shards_that_are_told_twice_count_once(ledger: Ledger) -> None:
    enter(ledger, done=[(0, 10), (0, 10), (2, 10)])
    assert ledger.job(JOB).samples_found == 20


# -- wake-ups --------------------------------------------------------------------------------------


def test_as_many_wakeups_as_workers_at_least_one_at_most_the_shards_left(ledger: Ledger) -> None:
    enter(ledger, shards=4, done=[(0, 10)])
    assert ledger.missing_wakeups(JOB, workers=2, grace_s=5) == [(0, 1), (1, 1)]
    assert ledger.missing_wakeups(JOB, workers=2, grace_s=5) == []
    assert ledger.missing_wakeups(JOB, workers=9, grace_s=5) == [(2, 1)]


def test_one_wakeup_even_without_workers_or_shards(ledger: Ledger) -> None:
    enter(ledger, done=[(index, 10) for index in range(4)])
    assert ledger.missing_wakeups(JOB, workers=0, grace_s=5) == [(0, 1)]


def test_parallel_bounds_the_wakeups(ledger: Ledger) -> None:
    enter(ledger, queue=QueueOptions(parallel=2))
    assert len(ledger.missing_wakeups(JOB, workers=9, grace_s=5)) == 2


def test_a_wakeup_that_nobody_took_is_lost_after_its_grace(ledger: Ledger) -> None:
    enter(ledger)
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=0.15) == [(0, 1)]
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=0.15) == []
    time.sleep(0.2)
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=0.15) == [(0, 2)]
    # The first was late rather than lost: it is taken, and its duplicate is worth nothing.
    assert ledger.take_wakeup(JOB, 0, 1, "a/1")
    assert not ledger.take_wakeup(JOB, 0, 2, "b/1")
    assert ledger.return_wakeup(JOB, 0, "a/1", again=False) is None
    assert not ledger.take_wakeup(JOB, 0, 2, "b/1")


def test_a_held_wakeup_is_not_missing_and_is_sent_again_under_a_new_serial(ledger: Ledger) -> None:
    enter(ledger)
    ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    assert ledger.take_wakeup(JOB, 0, 1, "a/1")
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=0) == []
    assert ledger.return_wakeup(JOB, 0, "b/1", again=True) is None
    assert ledger.return_wakeup(JOB, 0, "a/1", again=True) == 2
    assert ledger.return_wakeup(JOB, 0, "a/1", again=True) is None
    assert not ledger.take_wakeup(JOB, 0, 1, "b/2")
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=5) == []
    assert ledger.take_wakeup(JOB, 0, 2, "b/2")


def test_a_wakeup_put_down_for_good_is_missing_again(ledger: Ledger) -> None:
    enter(ledger)
    ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    assert ledger.take_wakeup(JOB, 0, 1, "a/1")
    assert ledger.return_wakeup(JOB, 0, "a/1", again=False) is None
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=5) == [(0, 2)]


def test_renewal_keeps_a_wakeups_lease_and_a_lapsed_one_is_missing(settings: Settings) -> None:
    ledger = Ledger(replace(settings, lease_s=0.3))
    enter(ledger)
    ledger.missing_wakeups(JOB, workers=1, grace_s=60)
    assert ledger.take_wakeup(JOB, 0, 1, "a/1")
    for _ in range(3):
        time.sleep(0.15)
        ledger.renew(JOB, {}, token=0, holder="a/1")
        ledger.renew(JOB, {}, token=0, holder="somebody/else")
        assert ledger.missing_wakeups(JOB, workers=1, grace_s=60) == []
    time.sleep(0.35)
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=60) == [(0, 2)]
    assert ledger.take_wakeup(JOB, 0, 2, "b/1")
    ledger.renew(JOB, {}, token=0, holder="a/1")
    assert ledger.return_wakeup(JOB, 0, "a/1", again=True) is None


@pytest.mark.parametrize(("token", "serial"), [(0, 0), (7, 1)])
def test_wakeups_that_were_never_sent(ledger: Ledger, token: int, serial: int) -> None:
    enter(ledger)
    ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    assert not ledger.take_wakeup(JOB, token, serial, "a/1")


def test_an_ended_job_needs_no_wakeups(ledger: Ledger) -> None:
    enter(ledger)
    ledger.missing_wakeups(JOB, workers=1, grace_s=5)
    ledger.cancel(JOB)
    assert not ledger.take_wakeup(JOB, 0, 1, "a/1")
    assert ledger.missing_wakeups(JOB, workers=1, grace_s=0) == []
    assert ledger.return_wakeup(JOB, 0, "a/1", again=True) is None


def test_queue_length(ledger: Ledger, raw: redis.Redis) -> None:
    prefix = ledger.settings.key_prefix
    raw.rpush(f"{prefix}:a", "1", "2")
    raw.rpush(f"{prefix}:b", "3")
    assert ledger.queue_length([f"{prefix}:a", f"{prefix}:b", f"{prefix}:none"]) == 3


# -- workers and jobs listed -----------------------------------------------------------------------


def worker_info(**changes: Any) -> WorkerInfo:
    plain: dict[str, Any] = {
        "id": "host-1", "host": "host", "pid": 1, "generator": "tiny", "digest": "sha256:a", "latent_shape": (8,),
        "sample_shape": (4, 4, 1), "classes": ("a", "b"), "device": "cpu", "engine": "xla", "batch": 64, "rate": 10.5,
        "output_roots": ("/data",), "started_at": 1000.0, "version": "0.1.0",
    }  # fmt: skip
    return WorkerInfo(**{**plain, **changes})


def test_a_destination_that_failed_a_worker_is_not_its_to_write(ledger: Ledger) -> None:
    ledger.announce(worker_info(unreachable=("/data/x",)))
    [found] = ledger.workers()
    assert (found.may_write("/data/x"), found.may_write("/data/y")) == (False, True)


def test_workers_announce_themselves_and_leave(ledger: Ledger) -> None:
    first, second = worker_info(), worker_info(id="host-2", digest="sha256:b", classes=None, started_at=999.0)
    ledger.announce(first)
    ledger.announce(second)
    assert not ledger.announce(replace(first, job=JOB, samples=5))
    assert ledger.workers() == [second, replace(first, job=JOB, samples=5)]
    assert ledger.workers("sha256:a") == [replace(first, job=JOB, samples=5)]
    assert ledger.workers("sha256:c") == []
    ledger.withdraw("host-1")
    ledger.withdraw("host-1")
    assert ledger.workers() == [second]
    assert ledger.announce(first)


def test_a_silent_worker_is_gone_after_its_time(ledger: Ledger, raw: redis.Redis) -> None:
    ledger.announce(worker_info())
    key = f"{ledger.settings.key_prefix}:worker:host-1"
    assert 15 < raw.ttl(key) <= 20
    raw.delete(key)
    assert ledger.workers() == []
    assert raw.zcard(f"{ledger.settings.key_prefix}:workers") == 0


def test_jobs_are_listed_the_latest_first_and_found_by_their_beginning(ledger: Ledger, raw: redis.Redis) -> None:
    for name in ("tiny-aaa", "tiny-aab", "other-1"):
        ledger.enter(NewJob(job_id=name, spec=make_spec(), destination="/x"))
        time.sleep(0.002)
    assert [job.id for job in ledger.jobs()] == ["other-1", "tiny-aab", "tiny-aaa"]
    assert ledger.find_job("tiny-aab") == "tiny-aab"
    assert ledger.find_job("tiny-aaa") == "tiny-aaa"
    assert ledger.find_job("o") == "other-1"
    with pytest.raises(UnknownJobError, match="could be any of tiny-aab, tiny-aaa"):
        ledger.find_job("tiny")
    for text in ("", "x", "iny-aaa"):
        with pytest.raises(UnknownJobError, match="is unknown"):
            ledger.find_job(text)
    raw.delete(f"{ledger.settings.key_prefix}:job:other-1")
    assert [job.id for job in ledger.jobs()] == ["tiny-aab", "tiny-aaa"]
    with pytest.raises(UnknownJobError):
        ledger.find_job("other-1")


def test_an_id_that_begins_another_is_found(ledger: Ledger) -> None:
    for name in ("tiny-a", "tiny-ab"):
        ledger.enter(NewJob(job_id=name, spec=make_spec(), destination="/x"))
    assert ledger.find_job("tiny-a") == "tiny-a"


def test_prefixes_keep_ledgers_apart(ledger: Ledger, settings: Settings) -> None:
    enter(ledger)
    other = Ledger(replace(settings, key_prefix=settings.key_prefix + "-other"))
    assert other.jobs() == []
    assert other.live_jobs() == []


def test_the_ledger_survives_a_server_that_forgot_its_script(ledger: Ledger, raw: redis.Redis) -> None:
    enter(ledger)
    raw.script_flush()
    assert claim(ledger).shard == 0


@pytest.mark.parametrize(("destination", "roots", "allowed"), [
    ("/data/x", ("/data",), True), ("/data", ("/data",), True), ("/data/x", ("/data/",), True), ("/x", ("/",), True),
    ("/database", ("/data",), False), ("/data", ("/data/x",), False), ("/data", (), False),
    ("/data", ("s3://bucket",), False), ("s3://bucket/x", (), True), ("s3://bucket/x", ("/data",), True),
    ("s3://bucket/x", ("s3://bucket",), True), ("s3://buckets/x", ("s3://bucket",), False),
    ("s3://bucket/xy", ("s3://bucket/x",), False),
    ("s3://bucket/x", ("/data", "s3://bucket/x"), True),
    ("/data/../etc", ("/data",), False), ("/data/./x", ("/data",), False), ("/data//x", ("/data",), False),
    ("/data/x/", ("/data",), False), ("//data/x", ("/",), False), ("data/x", ("/",), False), ("", ("/",), False),
    ("/data/x\n", ("/data",), False), ("s3://bucket/../x", (), False), ("s3://bucket/x/", (), False),
    ("s3://", (), False),
    ("s3:/bucket/x", (), False), ("S3://bucket/x", ("/",), False), ("file:///data/x", ("/",), False),
])  # fmt: skip
def test_output_roots(destination: str, roots: tuple[str, ...], allowed: bool) -> None:
    assert output_allowed(destination, roots) is allowed
    assert worker_info(output_roots=roots).may_write(destination) is allowed


@pytest.mark.parametrize(("seconds", "word"), [
    ({}, None), ({"predict": 0.0}, None), ({"noise": 1.0, "predict": 2.0}, "device-bound"),
    ({"write": 3.0, "predict": 2.0}, "store-bound"), ({"encode": 3.0, "predict": 2.0}, "encode-bound"),
    ({"noise": 3.0, "other": 9.0}, "noise-bound"),
])  # fmt: skip
def test_verdict(seconds: dict[str, float], word: str | None) -> None:
    assert verdict(seconds) == word


# -- who asked for a job, and who hears of its end --------------------------------------------------------


def test_a_job_that_is_entered_again_keeps_its_schedule_and_its_webhook(
    ledger: Ledger, raw: redis.Redis, settings: Settings
) -> None:
    enter(ledger, queue=QueueOptions(schedule="nightly", webhook="https://example.org/done"))
    assert ledger.cancel(JOB) == "cancelled"
    enter(ledger)
    assert ledger.job(JOB).schedule == "nightly"
    assert raw.hget(f"{settings.key_prefix}:job:{JOB}", "webhook") == "https://example.org/done"


def test_each_end_of_a_job_with_a_webhook_is_noted_once(ledger: Ledger, raw: redis.Redis, settings: Settings) -> None:
    notes = f"{settings.key_prefix}:webhooks"
    enter(ledger, shards=1, queue=QueueOptions(webhook="https://example.org/done"))
    assert not raw.exists(notes)
    ledger.cancel(JOB)
    ledger.cancel(JOB)
    assert [json.loads(text)["state"] for text in raw.hvals(notes)] == ["cancelled"]
    time.sleep(0.002)
    enter(ledger, shards=1)
    commit(ledger, claim(ledger))
    last = claim(ledger)
    assert (ledger.finish(JOB, last), ledger.finish(JOB, last)) == ("done", "done")
    assert sorted(json.loads(text)["state"] for text in raw.hvals(notes)) == ["cancelled", "done"]
    assert raw.zcard(f"{notes}:due") == 2


def test_a_job_without_a_webhook_leaves_no_note(ledger: Ledger, raw: redis.Redis, settings: Settings) -> None:
    enter(ledger)
    ledger.cancel(JOB)
    assert not raw.exists(f"{settings.key_prefix}:webhooks")


def test_a_complaint_is_told_until_somebody_makes_a_shard(ledger: Ledger) -> None:
    enter(ledger)
    ledger.record_error(JOB, "nobody here can read it")
    assert ledger.job(JOB).error == "nobody here can read it"
    got = claim(ledger)
    ledger.record_error(JOB, "nor here")  # While others make it, that is nobody's concern.
    assert ledger.job(JOB).error == "nobody here can read it"
    commit(ledger, got)
    assert ledger.job(JOB).error is None
