"""Workers that die, with real processes and real signals. The deep suite is in tests/faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import redis

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY, Fleet
from tests.servers import Valkey

JOB = ["--count", "60k", "--shard-size", "100"]


def shards_done(fleet: Fleet, job: str) -> int:
    return int(fleet.json("status", job)["shards_done"])


def assert_whole(fleet: Fleet, job: str, name: str) -> None:
    """The job is done, every shard has one receipt, the counters agree, the bytes are right."""
    done = fleet.watch(job)
    assert done.returncode == 0, done.stderr
    state = fleet.json("status", job)
    dataset = Dataset(str(fleet.folder / name))
    assert (state["shards_done"], state["samples_done"]) == (len(dataset.plan), len(dataset))
    assert len(dataset.receipts()) == len(dataset.plan)
    checked = fleet.run("verify", name, "--recompute", "20")
    assert checked.returncode == 0, checked.stderr
    assert not [path for path in (fleet.folder / name).iterdir() if path.name.startswith(".noisemill-")]


def test_one_worker_of_two_is_killed(lone_fleet: Fleet) -> None:
    first = lone_fleet.start_worker()
    lone_fleet.start_worker()
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), *JOB)
    lone_fleet.wait_until(lambda: shards_done(lone_fleet, job) > 20)
    first.kill()
    assert_whole(lone_fleet, job, "out")


def test_a_lone_worker_is_killed_and_another_goes_on(lone_fleet: Fleet) -> None:
    worker = lone_fleet.start_worker()
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), *JOB)
    lone_fleet.wait_until(lambda: shards_done(lone_fleet, job) > 20)
    worker.kill()
    before = shards_done(lone_fleet, job)
    assert lone_fleet.json("status", job)["state"] == "running"
    lone_fleet.start_worker()
    lone_fleet.wait_until(lambda: shards_done(lone_fleet, job) > before)
    assert_whole(lone_fleet, job, "out")


def test_the_child_is_killed_and_its_parent_starts_another(lone_fleet: Fleet) -> None:
    worker = lone_fleet.start_worker()
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), *JOB)
    lone_fleet.wait_until(lambda: shards_done(lone_fleet, job) > 20)
    os.kill(worker.child, signal.SIGKILL)
    assert_whole(lone_fleet, job, "out")
    assert worker.process.poll() is None


def test_a_worker_that_slept_past_its_lease_does_no_harm(lone_fleet: Fleet) -> None:
    sleeper = lone_fleet.start_worker()
    lone_fleet.start_worker()
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), *JOB)
    lone_fleet.wait_until(lambda: shards_done(lone_fleet, job) > 20)
    child = sleeper.child
    for pid in (child, sleeper.process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in (sleeper.process.pid, child):
        os.kill(pid, signal.SIGCONT)
    assert_whole(lone_fleet, job, "out")


def test_wakeups_that_are_lost_are_sent_again(lone_fleet: Fleet, valkey: Valkey) -> None:
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), "--count", "1000")
    prefix = lone_fleet.environment["NOISEMILL_KEY_PREFIX"]
    with redis.Redis.from_url(valkey.url) as client:
        queues = [key for key in client.scan_iter(f"{prefix}:celery:noisemill.*") if client.type(key) == b"list"]
        assert client.delete(*queues) == 1
    lone_fleet.start_worker()
    assert_whole(lone_fleet, job, "out")


def test_sigterm_ends_a_worker_within_a_batch_and_gives_its_lease_back(lone_fleet: Fleet, valkey: Valkey) -> None:
    worker = lone_fleet.start_worker()
    # Shards that take minutes, of a format that fills no disk: the signal comes in the middle of one.
    size = ["--count", "400M", "--shard-size", "10M", "--format", "null"]
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), *size)
    lone_fleet.wait_until(lambda: lone_fleet.json("status", job)["samples_in_flight"] > 0)
    assert worker.stop(timeout_s=600) == 0
    state = lone_fleet.json("status", job)
    assert state["shards_leased"] == 0
    assert lone_fleet.json("workers") == []
    # What was given back was no attempt.
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        attempts = client.hvals(f"{lone_fleet.environment['NOISEMILL_KEY_PREFIX']}:job:{job}:attempts")
    assert set(attempts) == {"0"}
    lone_fleet.run("cancel", job)


def test_sigterm_ends_a_worker_that_still_loads(lone_fleet: Fleet) -> None:
    worker = lone_fleet.start_worker(ready=False)
    lone_fleet.wait_until(lambda: "TensorFlow takes some seconds to start" in worker.said())
    assert worker.stop() in (0, -signal.SIGTERM)  # It may be too early for a handler.
    assert "exited with" not in worker.said(), "no other child took its place"


def test_workers_of_one_host_and_process_id_are_two(lone_fleet: Fleet) -> None:
    """As in containers that share the host's name, where each worker is process 1. What one held is not the other's."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make namespaces of process ids")
    command = [*alone, sys.executable, "-m", "pipeline.cli", "worker", TINY, "--output-root", str(lone_fleet.folder)]
    with (lone_fleet.folder / "twins.log").open("wb") as output:
        twins = [
            subprocess.Popen(command, env=lone_fleet.environment, cwd=lone_fleet.folder, stdout=output, stderr=output)
            for _ in range(2)
        ]
    try:
        lone_fleet.wait_until(lambda: len(lone_fleet.json("workers")) == 2)
        first, second = lone_fleet.json("workers")
    finally:
        for twin in twins:
            twin.kill()
            twin.wait()
    assert (first["host"], first["pid"]) == (second["host"], second["pid"])
    assert first["id"] != second["id"]
