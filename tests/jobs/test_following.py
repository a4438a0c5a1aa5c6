"""Following a job: what a client does when Redis loses it, by itself or in a failover."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from pipeline.common.errors import JobFailedError, LedgerError, UnknownJobError
from pipeline.common.settings import Settings
from pipeline.jobs.broker import Wakeups, queue_name
from pipeline.jobs.following import Follower
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Claim, Ledger, QueueOptions
from pipeline.jobs.queueing import JobHandle, enqueue
from pipeline.spec import plan as shards
from pipeline.spec.selection import Selection, parse_selection
from pipeline.stores import open_store
from pipeline.stores.lease import Lease
from tests.making import make_spec, run_mill
from tests.servers import Replicated

#: As long as anything may take on a busy machine, seconds.
_LONGEST_S = 600


def begin(folder: Path) -> None:
    """A job of four shards of which two are made."""
    store = open_store(folder)
    store.write(shards.JOB, make_spec().to_json().encode())
    run_mill(make_spec(), store, [0, 1])


def queue(
    ledger: Ledger, folder: Path, options: QueueOptions | None = None, only: Selection | None = None
) -> JobHandle:
    return enqueue(make_spec(), open_store(folder).url, ledger, options, only=only)


def lose_all(ledger: Ledger, raw: redis.Redis) -> None:
    for key in raw.scan_iter(f"{ledger.settings.key_prefix}:*"):
        raw.delete(key)


def test_a_lost_job_is_added_again_as_it_was_ordered(ledger: Ledger, raw: redis.Redis, tmp_path: Path) -> None:
    begin(tmp_path)
    hook = "http://127.0.0.1:1/hook"
    handle = queue(ledger, tmp_path, QueueOptions(priority=2, parallel=3, schedule="nightly", webhook=hook))
    said: list[str] = []
    follower = Follower(ledger, handle.id, enters_again=True, notice=said.append)
    before = follower.poll()
    assert before is not None
    lose_all(ledger, raw)
    assert follower.poll() is None
    after = follower.poll()
    assert after is not None
    assert (after.state, after.shards_done, after.priority, after.schedule) == ("queued", 2, 2, "nightly")
    assert raw.hmget(f"{ledger.settings.key_prefix}:job:{handle.id}", "parallel", "webhook") == ["3", hook]
    assert said == [f"Redis no longer had job {handle.id}: it was added again from {tmp_path}"]


def test_a_lost_selection_is_added_again_as_one(ledger: Ledger, raw: redis.Redis, tmp_path: Path) -> None:
    begin(tmp_path)
    handle = queue(ledger, tmp_path, only=parse_selection("1,3", make_spec().plan))
    follower = Follower(ledger, handle.id, enters_again=True)
    follower.poll()
    lose_all(ledger, raw)
    follower.poll()
    job = follower.poll()
    assert job is not None
    assert (job.selection, job.shards, job.shards_done) == ("1,3", 2, 1)


def test_a_job_that_was_removed_is_not_added_again(ledger: Ledger, tmp_path: Path) -> None:
    begin(tmp_path)
    handle = queue(ledger, tmp_path)
    follower = Follower(ledger, handle.id, enters_again=True)
    follower.poll()
    ledger.cancel(handle.id)
    assert ledger.delete(handle.id) == "forgotten"
    with pytest.raises(JobFailedError, match="Redis no longer has job"):
        follower.poll()
    with pytest.raises(UnknownJobError):
        ledger.job(handle.id)
    queue(ledger, tmp_path)  # Who wants it after all may have it, and it may be lost again.
    assert not ledger.was_deleted(handle.id)


def test_while_another_maker_is_there_it_waits_and_then_says_why(
    settings: Settings, raw: redis.Redis, tmp_path: Path
) -> None:
    ledger = Ledger(replace(settings, lease_s=0.5))
    begin(tmp_path)
    handle = queue(ledger, tmp_path)
    follower = Follower(ledger, handle.id, enters_again=True)
    follower.poll()
    lose_all(ledger, raw)
    other = Lease(open_store(tmp_path), what="another's work", ttl_s=1.5, holder="other")
    with other.held(), pytest.raises(JobFailedError, match=r"cannot be added again here \(.*another's work"):
        poll_to_the_end(follower, other)


def poll_to_the_end(follower: Follower, other: Lease) -> None:
    deadline = time.monotonic() + _LONGEST_S
    while time.monotonic() < deadline:
        other.renew()
        follower.poll()


def test_a_job_whose_destination_is_not_here_is_not_added_again(
    ledger: Ledger, raw: redis.Redis, tmp_path: Path
) -> None:
    begin(tmp_path)
    handle = queue(ledger, tmp_path)
    follower = Follower(ledger, handle.id, enters_again=True)
    follower.poll()
    lose_all(ledger, raw)
    (tmp_path / shards.JOB).unlink()
    with pytest.raises(JobFailedError, match="cannot be added again here"):
        follower.poll()


# -- sentinels ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    with Replicated() as servers:
        yield servers


def test_what_is_wrong_with_sentinels_is_said_in_two_lines(replicated: Replicated) -> None:
    for change, words in (
        (("/main/", "/other/"), "knows a server that takes writes"),
        (("sentinel_password=wache", "sentinel_password=x"), "add ?sentinel_password=PASSWORD"),
        (("?sentinel_password=wache", ""), "add ?sentinel_password=PASSWORD"),
        (("geheim", "falsch"), "password"),
    ):
        with pytest.raises(LedgerError, match=r"(?s)^.{1,900}$") as caught:
            Ledger(Settings(redis_url=replicated.url.replace(*change))).ping()
        text = str(caught.value)
        assert words in text
        assert len(text.splitlines()) <= 2
        assert "geheim" not in text


# The last one: it leaves the sentinels with one server.
def test_sentinels_tell_the_ledger_and_celery_where_writes_go_also_after_a_failover(
    replicated: Replicated, tmp_path: Path
) -> None:
    settings = Settings(redis_url=replicated.url, key_prefix="ha")
    ledger = Ledger(settings)
    assert ledger.ping().startswith("valkey ")
    for name in ("kept", "lost"):
        (tmp_path / name).mkdir()
        begin(tmp_path / name)
    kept = queue(ledger, tmp_path / "kept")
    with replicated.client(replicated.primary) as primary:
        assert primary.llen(f"ha:celery:{queue_name(make_spec().digest)}\x06\x165") == 1
        assert primary.wait(1, 60_000) == 1
    replicated.part()
    claim = ledger.claim(kept.id, "w")
    lost = queue(ledger, tmp_path / "lost")
    followers = [Follower(ledger, handle.id, enters_again=True) for handle in (kept, lost)]
    assert all(follower.poll() for follower in followers)
    replicated.fail_over()
    states: list[Job | None] = [None, None]
    deadline = time.monotonic() + _LONGEST_S
    while not all(states):
        assert time.monotonic() < deadline
        states = [follower.poll() for follower in followers]
        time.sleep(0.1)
    # The claim is lost too: another worker may have the shard, with a later fence.
    again = ledger.claim(kept.id, "other")
    assert isinstance(claim, Claim)
    assert isinstance(again, Claim)
    assert (again.shard, int(again.fence) > int(claim.fence)) == (claim.shard, True)
    assert ledger.commit(kept.id, claim, samples=1, size_bytes=1, stage_seconds={}) == "stale"
    wakeups = Wakeups(settings, ledger)
    wakeups.send(kept.id, make_spec().digest, 0, 7, 1)
    with replicated.client(replicated.replica) as primary:
        assert primary.llen(f"ha:celery:{queue_name(make_spec().digest)}") == 1
