"""Stopping and starting again: signals to `worker` and `up`, and what `up` does about workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.fleet import TINY, Fleet, Worker
from tests.faults.plugin import faulty
from tests.faults.same import size

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_a_second_sigterm_leaves_at_once(fleet: Fleet) -> None:
    worker = fleet.start_worker(**faulty(pace_s=300))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(2))
    fleet.wait_until(lambda: fleet.json("status", job)["state"] == "running")
    child = worker.child
    worker.process.terminate()
    time.sleep(2)
    assert worker.process.poll() is None  # The batch is still being predicted.
    worker.process.terminate()
    assert worker.process.wait(10) == 1
    fleet.wait_until(lambda: not Path(f"/proc/{child}").exists(), timeout_s=10)
    # Another makes what it held once the lease is over.
    fleet.start_worker()
    assert fleet.watch(job).returncode == 0


def start_up(fleet: Fleet, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
    """`up` with one worker, and its log."""
    log = fleet.folder / "up.log"
    command = [sys.executable, "-m", "pipeline.cli", "up", TINY, "--workers", "1", "--output-root", str(fleet.folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**fleet.environment, **environment}, cwd=fleet.folder, stdout=output, stderr=output
        )
    # For the fleet to end it, whatever happens here.
    fleet.workers.append(Worker(process, log))
    return process, log


def workers_of(up: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()]


def is_listed(fleet: Fleet, pid: int) -> bool:
    return any(worker["pid"] == pid for worker in fleet.json("workers"))


def test_up_starts_a_dead_worker_again_and_ends_with_it(fleet: Fleet) -> None:
    up, log = start_up(fleet)
    fleet.wait_until(lambda: bool(workers_of(up)))
    [first] = workers_of(up)
    fleet.wait_until(lambda: is_listed(fleet, first), told=lambda: log.read_text())
    os.kill(first, signal.SIGKILL)
    fleet.wait_until(lambda: workers_of(up) not in ([], [first]))
    [second] = workers_of(up)
    fleet.wait_until(lambda: is_listed(fleet, second), told=lambda: log.read_text())
    assert "ended with -9, again in 1 s" in log.read_text()
    up.terminate()
    assert up.wait(30) == 0
    assert not Path(f"/proc/{second}").exists()
    assert not is_listed(fleet, second)


def test_up_is_in_no_hurry_with_a_worker_that_always_dies(fleet: Fleet) -> None:
    flags = fleet.folder / "flags"
    flags.mkdir()
    die = {"at": "workers.worker.reconciler:Reconciler.start", "when": "before", "times": 99, "flags": str(flags)}
    up, log = start_up(fleet, **faulty(die=die))
    fleet.wait_until(lambda: "again in 4 s" in log.read_text(), told=lambda: log.read_text())
    pauses = [line.rpartition("again in ")[2] for line in log.read_text().splitlines() if "again in" in line]
    assert pauses == ["1 s", "2 s", "4 s"]
    assert len(list(flags.iterdir())) == 3
    up.terminate()
    assert up.wait(30) == 0


def test_a_second_sigterm_to_up_leaves_at_once(fleet: Fleet) -> None:
    up, log = start_up(fleet, **faulty(pace_s=300))
    fleet.wait_until(lambda: bool(fleet.json("workers")), told=lambda: log.read_text())
    [worker] = workers_of(up)
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(2))
    fleet.wait_until(lambda: fleet.json("status", job)["state"] == "running")
    up.terminate()
    time.sleep(2)
    assert up.poll() is None
    up.terminate()
    assert up.wait(10) == 0
    assert not Path(f"/proc/{worker}").exists()
