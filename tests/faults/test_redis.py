"""Redis that is emptied, comes back empty, goes away or is full, under workers and clients that are real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.end_to_end.fleet import TINY, Fleet
from tests.faults.plugin import faulty
from tests.faults.same import assert_same, make_quietly, size
from tests.servers import Valkey

SHARDS = 40
PACE_S = 0.2

#: How a Redis loses all that it knew.
Loss = Callable[[Valkey], None]


@pytest.fixture
def forgetful_valkey() -> Iterator[Valkey]:
    """One on a port that comes back empty."""
    with Valkey(port=0) as server:
        yield server


def flush(server: Valkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def restart(server: Valkey) -> None:
    server.stop(kill=True)
    time.sleep(1)
    server.start()


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lose", [flush, restart])
def test_a_redis_that_lost_everything(
    fleet_on: Callable[[Valkey], Fleet], forgetful_valkey: Valkey, lose: Loss, figure: Callable[[str], None]
) -> None:
    fleet = fleet_on(forgetful_valkey)
    worker = fleet.start_worker(**faulty(pace_s=PACE_S))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    watching = fleet.start_watching(job)
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > 3)
    kept = {path: path.stat().st_mtime_ns for path in (fleet.folder / "out/receipts").iterdir()}
    lose(forgetful_valkey)
    start = time.monotonic()
    # The worker stays, says so in one line, and announces itself again; the client enters the job again.
    said = watching.communicate(timeout=600)[1]
    assert watching.returncode == 0, said
    assert said.count(f"Redis no longer had job {job}: it was added again from {fleet.folder}/out") == 1
    fleet.wait_until(lambda: "no longer listed in Redis" in worker.said(), timeout_s=30)
    assert worker.said().count("no longer listed in Redis") == 1
    figure(f"the job ended {time.monotonic() - start:.1f} s after Redis had lost it, {SHARDS * PACE_S:.0f} s of work")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same(fleet, make_quietly(fleet, SHARDS), fleet.folder / "out")
    assert "Traceback" not in worker.said()


@pytest.mark.faults
def test_a_redis_that_is_away_for_a_moment_costs_the_client_nothing_and_the_shards_no_attempt(
    fleet: Fleet, durable_valkey: Valkey, figure: Callable[[str], None]
) -> None:
    worker = fleet.start_worker(**faulty(pace_s=PACE_S))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    watching = fleet.start_watching(job)
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > 3)
    durable_valkey.stop(kill=True)
    time.sleep(1)
    durable_valkey.start()
    before, start = fleet.json("status", job)["shards_done"], time.monotonic()
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > before)
    figure(f"at work again {time.monotonic() - start:.1f} s after Valkey was back")
    said = watching.communicate(timeout=120)[1]
    assert watching.returncode == 0, said
    assert fleet.json("status", job)["failed"] == {}
    assert "Traceback" not in worker.said()


@pytest.mark.faults
def test_a_redis_that_stays_away_ends_the_client_after_a_lease(fleet: Fleet, durable_valkey: Valkey) -> None:
    fleet.start_worker(**faulty(pace_s=PACE_S))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    watching = fleet.start_watching(job)
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > 3)
    durable_valkey.stop(kill=True)
    said = watching.communicate(timeout=60)[1].splitlines()
    assert watching.returncode == 1
    assert "cannot be reached: start it" in said[-2]


@pytest.mark.faults
def test_a_full_redis_refuses_new_jobs_and_those_that_run_go_on_when_there_is_room(
    fleet: Fleet, durable_valkey: Valkey
) -> None:
    # Short slices: wake-ups are sent all the time, and cannot be while it is full.
    worker = fleet.start_worker(**faulty(pace_s=PACE_S))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > 3)
    with redis.Redis.from_url(durable_valkey.url, decode_responses=True) as client:
        client.config_set("maxmemory", "1")
        refused = fleet.run("submit", TINY, str(fleet.folder / "other"), *size(2))
        assert refused.returncode == 1
        assert "is full: raise its maxmemory" in refused.stderr
        assert [one["id"] for one in fleet.json("jobs")] == [job]
        time.sleep(6)
        state = fleet.json("status", job)
        assert (state["state"], state["failed"]) == ("running", {})
        assert worker.process.poll() is None, worker.said()
        client.config_set("maxmemory", "0")
    watched = fleet.watch(job)
    assert watched.returncode == 0, watched.stderr
    assert fleet.json("status", job)["shards_done"] == SHARDS
    assert_same(fleet, make_quietly(fleet, SHARDS), fleet.folder / "out")
    assert "Traceback" not in worker.said()
    again = fleet.submit(TINY, str(fleet.folder / "other"), *size(2))
    assert fleet.watch(again).returncode == 0


def test_generate_whose_private_valkey_dies_says_how_to_go_on(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "generate", TINY, "out", "--count", "3M", "--shard-size", "100"]
    process = subprocess.Popen(
        command, env=fleet.environment, cwd=fleet.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    fleet.wait_until(lambda: (fleet.folder / "out/receipts").exists())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    [server] = [pid for pid in children if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    subprocess.run(["kill", "-9", server], check=True)
    said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 1
    assert said[-2].startswith("noisemill: the private Valkey has ended or does not respond (")
    assert said[-1] == f"'noisemill resume {fleet.folder}/out' makes what is missing"
