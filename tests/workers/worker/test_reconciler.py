"""Lost wake-ups are sent again: against a real Valkey, down to the message in the queue's list."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.jobs.broker import PRIORITIES, SLICE_TASK, Wakeups, queue_name
from pipeline.jobs.ledger import Ledger, NewJob
from tests.jobs.test_ledger import worker_info
from tests.making import make_spec
from tests.servers import Valkey
from workers.worker.reconciler import Reconciler

SPEC = make_spec()
ME = worker_info(id="me", digest=SPEC.digest, output_roots=("/data",))


@pytest.fixture
def wakeups(settings: Settings, ledger: Ledger) -> Wakeups:
    return Wakeups(settings, ledger)


@pytest.fixture
def reconciler(ledger: Ledger, wakeups: Wakeups) -> Reconciler:
    return Reconciler(ledger, wakeups, "me", 0.1)


def enter(ledger: Ledger, job: str = "job-1", destination: str = "/data/x", **options: Any) -> None:
    assert ledger.enter(NewJob(job_id=job, spec=SPEC, destination=destination, **options))


def messages(raw: redis.Redis, ledger: Ledger, priority: int = 5) -> list[dict[str, Any]]:
    """What waits in the list of a priority: the arguments of the task, the latest sent first."""
    name = f"{ledger.settings.key_prefix}:celery:{queue_name(SPEC.digest)}"
    found = [json.loads(text) for text in raw.lrange(f"{name}\x06\x16{priority}" if priority else name, 0, -1)]
    assert all(message["headers"]["task"] == SLICE_TASK for message in found)
    assert all(message["content-type"] == "application/json" for message in found)
    return [json.loads(base64.b64decode(message["body"]))[1] for message in found]


def test_a_lost_wakeup_is_sent_again(
    ledger: Ledger, reconciler: Reconciler, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.broker._GRACE_EMPTY_QUEUE_S", 0.2)
    enter(ledger)
    ledger.announce(ME)
    assert reconciler.reconcile() == 1
    first = {"version": 1, "job": "job-1", "token": 0, "serial": 1}
    assert messages(raw, ledger) == [first]
    # It waits in the queue: nothing to mend, however long.
    time.sleep(0.25)
    assert reconciler.reconcile() == 0
    # The queue is emptied by somebody.
    for key in list(raw.scan_iter(f"{ledger.settings.key_prefix}:celery:*")):
        raw.delete(key)
    assert reconciler.reconcile() == 1
    assert messages(raw, ledger) == [{**first, "serial": 2}]


def test_a_worker_that_joins_late_gets_a_wakeup_of_its_own(
    ledger: Ledger, reconciler: Reconciler, raw: redis.Redis
) -> None:
    enter(ledger)
    ledger.announce(ME)
    assert reconciler.reconcile() == 1
    ledger.announce(replace(ME, id="other"))
    assert reconciler.reconcile() == 1
    assert reconciler.reconcile() == 0
    assert [message["token"] for message in messages(raw, ledger)] == [1, 0]


def test_of_a_killed_worker_the_token_comes_back_when_its_lease_lapses(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(replace(settings, lease_s=0.3))
    reconciler = Reconciler(ledger, Wakeups(settings, ledger), "me", 1)
    enter(ledger)
    ledger.announce(ME)
    assert reconciler.reconcile() == 1
    assert ledger.take_wakeup("job-1", 0, 1, "killed/1")
    assert reconciler.reconcile() == 0
    time.sleep(0.35)
    assert reconciler.reconcile() == 1


def test_in_an_interval_one_worker_of_a_generator_looks_for_all(settings: Settings, ledger: Ledger) -> None:
    def reconciler(name: str, interval_s: float = 60) -> Reconciler:
        return Reconciler(ledger, Wakeups(settings, ledger), name, interval_s)

    enter(ledger)
    assert reconciler("me").take_turn() == 0  # Not up: it has no turn to take from others.
    ledger.announce(ME)
    ledger.announce(replace(ME, id="second"))
    ledger.announce(replace(ME, id="stranger", digest="sha256:other"))
    assert reconciler("stranger").take_turn() == 0
    assert reconciler("second").take_turn() == 2
    ledger.announce(replace(ME, id="third"))
    assert reconciler("me").take_turn() == reconciler("third").take_turn() == 0
    assert reconciler("me").reconcile() == 1


def test_a_lone_worker_has_every_turn(settings: Settings, ledger: Ledger) -> None:
    enter(ledger)
    ledger.announce(ME)
    lone = Reconciler(ledger, Wakeups(settings, ledger), "me", 0.2)
    assert lone.take_turn() == 1
    ledger.announce(replace(ME, id="late"))
    time.sleep(0.8 * 0.2)  # The shortest pause between two rounds.
    assert lone.take_turn() == 1


@pytest.mark.parametrize("case", ["not up", "other generator", "other folder", "cancelled"])
def test_no_wakeup_that_nobody_here_could_use(ledger: Ledger, reconciler: Reconciler, case: str) -> None:
    enter(ledger)
    if case == "other generator":
        ledger.announce(replace(ME, digest="sha256:other"))
    elif case == "other folder":
        ledger.announce(replace(ME, output_roots=("/elsewhere",)))
    elif case == "cancelled":
        ledger.announce(ME)
        ledger.cancel("job-1")
    assert reconciler.reconcile() == 0


def test_workers_that_may_not_write_there_do_not_count(ledger: Ledger, reconciler: Reconciler) -> None:
    enter(ledger)
    ledger.announce(ME)
    ledger.announce(replace(ME, id="elsewhere", output_roots=()))
    assert reconciler.reconcile() == 1
    assert reconciler.reconcile() == 0


def test_a_job_that_redis_lost_in_part_does_not_keep_others_waiting(
    ledger: Ledger, reconciler: Reconciler, raw: redis.Redis
) -> None:
    for job in ("job-1", "job-2", "job-3"):
        enter(ledger, job)
    raw.delete(f"{ledger.settings.key_prefix}:job:job-1")
    ledger.announce(ME)
    assert reconciler.reconcile() == 2


@pytest.mark.parametrize("priority", range(PRIORITIES))
def test_every_priority_has_its_list_and_counts_as_busy(
    ledger: Ledger, wakeups: Wakeups, raw: redis.Redis, priority: int
) -> None:
    wakeups.send("job-1", SPEC.digest, priority, 0, 7)
    assert messages(raw, ledger, priority) == [{"version": 1, "job": "job-1", "token": 0, "serial": 7}]
    assert ledger.queue_length(wakeups._queue_keys(SPEC.digest)) == 1


def test_its_thread_reconciles_at_once_and_goes_on(
    ledger: Ledger, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.broker._GRACE_EMPTY_QUEUE_S", 0.01)
    sent = threading.Semaphore(0)
    original = reconciler._wakeups.send

    def send(*arguments: Any) -> None:
        original(*arguments)
        sent.release()

    monkeypatch.setattr(reconciler._wakeups, "send", send)
    enter(ledger, "job-1")
    ledger.announce(ME)
    reconciler.start()
    try:
        assert sent.acquire(timeout=5)
        enter(ledger, "job-2")
        assert sent.acquire(timeout=5)
    finally:
        reconciler.stop()
    assert not reconciler._thread.is_alive()


def test_it_outlives_the_server(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    with Valkey(port=0, appendonly="yes") as server:
        settings = Settings(redis_url=server.url, key_prefix="outlives")
        ledger = Ledger(settings)
        enter(ledger)
        ledger.announce(ME)
        reconciler = Reconciler(ledger, Wakeups(settings, ledger), "me", 0.1)
        server.stop()
        reconciler.start()
        try:
            deadline = time.monotonic() + 20
            while "cannot be reached" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)
            assert caplog.text.count("cannot be reached") == 1
            server.start()
            ledger.announce(ME)
            while not ledger.queue_length(reconciler._wakeups._queue_keys(SPEC.digest)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            reconciler.stop()
        assert ledger.missing_wakeups("job-1", workers=1, grace_s=60) == []
