"""What happens to a job that is being finished while its worker makes the next one already."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.spec.latents import latents
from tests.end_to_end.fleet import TINY, Fleet, Worker
from tests.faults.plugin import faulty
from tests.faults.same import size

SHARDS = 12

#: Shards that take minutes, of a format that fills no disk.
ENDLESS = ["--count", "400M", "--shard-size", "10M", "--format", "null"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def start_dawdler(fleet: Fleet, seconds: float, at: str = "pipeline.stores.local:LocalStore.write") -> Worker:
    """A worker that takes its time before it writes a manifest, or whatever `at` names."""
    argument = "manifest.json" if "Store" in at else ""
    return fleet.start_worker(**faulty(pause={"at": at, "argument": argument, "seconds": seconds}))


def submit_both(fleet: Fleet, *second: str) -> tuple[str, str]:
    """Two jobs, into `first` and `second`."""
    first = fleet.submit(TINY, str(fleet.folder / "first"), *size(SHARDS))
    return first, fleet.submit(TINY, str(fleet.folder / "second"), *(second or size(SHARDS)))


def wait_for_both(fleet: Fleet, second: str) -> None:
    """Until the first is being finished and the second has begun."""
    fleet.wait_until((fleet.folder / "first/shards.jsonl").exists)
    fleet.wait_until(lambda: fleet.json("status", second)["state"] != "queued")
    assert not (fleet.folder / "first/manifest.json").exists()


def assert_done(fleet: Fleet, *names: str) -> None:
    for name in names:
        verified = fleet.run("verify", name)
        assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("which", ["child", "worker"])
def test_killed(fleet: Fleet, which: str) -> None:
    worker = start_dawdler(fleet, 10)
    first, second = submit_both(fleet)
    wait_for_both(fleet, second)
    if which == "child":
        os.kill(worker.child, signal.SIGKILL)
    else:
        worker.kill()
        fleet.start_worker()
    watched = fleet.watch(first, second)
    assert watched.returncode == 0, watched.stderr
    assert_done(fleet, "first", "second")
    # Its shards had been made.
    assert {receipt.attempt for receipt in Dataset(fleet.folder / "first").receipts().values()} == {1}


def test_a_warm_stop_waits_for_it(fleet: Fleet) -> None:
    worker = start_dawdler(fleet, 10)
    first, second = submit_both(fleet, *ENDLESS)
    wait_for_both(fleet, second)
    assert worker.stop() == 0
    assert fleet.json("status", first)["state"] == "done"
    assert_done(fleet, "first")
    state = fleet.json("status", second)
    assert (state["state"], state["shards_leased"]) == ("running", 0)
    assert fleet.json("workers") == []


def test_a_warm_stop_waits_where_nothing_else_is_made(fleet: Fleet) -> None:
    worker = start_dawdler(fleet, 10)
    first = fleet.submit(TINY, str(fleet.folder / "first"), *size(SHARDS))
    fleet.wait_until((fleet.folder / "first/shards.jsonl").exists)
    assert worker.stop() == 0
    assert fleet.json("status", first)["state"] == "done"
    assert_done(fleet, "first")


def test_a_second_sigterm_does_not_wait(fleet: Fleet) -> None:
    worker = start_dawdler(fleet, 120)
    first = fleet.submit(TINY, str(fleet.folder / "first"), *size(SHARDS))
    fleet.wait_until((fleet.folder / "first/shards.jsonl").exists)
    child = worker.child
    worker.process.terminate()
    time.sleep(2)
    assert worker.process.poll() is None
    worker.process.terminate()
    assert worker.process.wait(10) == 1
    fleet.wait_until(lambda: not Path(f"/proc/{child}").exists(), timeout_s=10)
    fleet.start_worker()
    assert fleet.watch(first).returncode == 0
    assert_done(fleet, "first")


def test_a_store_that_fails_then_fails_this_job_alone(fleet: Fleet) -> None:
    first, second = submit_both(fleet)
    (fleet.folder / "first/manifest.json/in the way").mkdir(parents=True)
    start_dawdler(fleet, 2)
    watched = fleet.watch(first)
    assert watched.returncode == 1
    state = fleet.json("status", first)
    assert state["state"] == "failed"
    assert "first/manifest.json: a folder lies where a file should be" in state["error"]
    assert (state["shards_done"], state["failed"]) == (SHARDS, {})
    assert fleet.watch(second).returncode == 0
    assert_done(fleet, "second")


def test_cancelled(fleet: Fleet) -> None:
    start_dawdler(fleet, 10)
    first, second = submit_both(fleet)
    wait_for_both(fleet, second)
    assert fleet.run("cancel", first).returncode == 0
    assert fleet.watch(second).returncode == 0
    fleet.wait_until(lambda: fleet.json("workers")[0]["job"] is None)
    assert fleet.json("status", first)["state"] == "cancelled"
    assert_done(fleet, "second")
    assert fleet.run("resume", "first").returncode == 0
    fleet.watch(first)
    assert fleet.json("status", first)["state"] == "done"


def test_extended(fleet: Fleet) -> None:
    start_dawdler(fleet, 10, at="pipeline.datasets.finishing:contact_sheet")
    old = fleet.submit(TINY, str(fleet.folder / "first"), *size(SHARDS))
    fleet.wait_until(lambda: fleet.json("status", old)["shards_done"] == SHARDS)
    grown = fleet.run("extend", "first", "--count", "2000")
    assert grown.returncode == 0, grown.stderr
    new = grown.stdout.strip()
    watched = fleet.watch(new)
    assert watched.returncode == 0, watched.stderr
    assert fleet.json("status", old)["state"] == "cancelled"
    assert_done(fleet, "first")
    assert len(Dataset(fleet.folder / "first")) == 2000


def test_a_shard_to_be_made_again_is_left_to_the_next_slice(fleet: Fleet) -> None:
    # By the time that the second shard is in place, the first is due again.
    pause = {"at": "pipeline.stores.local:LocalStore.write", "argument": "receipts/", "seconds": 1.5}
    ill = {"value": float(latents(9, 50, 1, 8)[0, 0]), "how": "nan"}
    worker = fleet.start_worker(**faulty(pause=pause, latent=ill))
    job = fleet.submit(TINY, str(fleet.folder / "first"), *size(2))
    assert fleet.watch(job).returncode == 1
    state = fleet.json("status", job)
    assert (state["state"], state["shards_done"], list(state["failed"])) == ("failed", 1, ["0"])
    # Claimed and given back, it was neither an attempt nor a lease that somebody lost.
    assert state["leases_lost"] == 0
    assert [worker.said().count(f"shard 0 attempt {attempt} failed") for attempt in range(1, 5)] == [1, 1, 1, 0]
