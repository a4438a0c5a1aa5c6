"""Chaos: workers, their children and Valkey are killed, stopped and restarted at random while a job runs.

`NOISEMILL_CHAOS_EVENTS` (default 25) and `NOISEMILL_CHAOS_SEED` choose how long and which.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from tests.end_to_end.fleet import TINY, Fleet, Worker, environment
from tests.servers import Valkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

EVENTS = int(os.environ.get("NOISEMILL_CHAOS_EVENTS", "25"))
SEED = int(os.environ.get("NOISEMILL_CHAOS_SEED", "1"))
WORKERS = 3
SHARDS = 4000


@pytest.fixture
def durable_valkey() -> Iterator[Valkey]:
    """One that comes back with what it knew."""
    with Valkey(port=0, appendonly="yes", appendfsync="always") as server:
        yield server


class Chaos:
    """What happens to a fleet, from a seed."""

    def __init__(self, fleet: Fleet, valkey: Valkey) -> None:
        self.fleet, self.valkey = fleet, valkey
        self.random = random.Random(SEED)
        self.happened: Counter[str] = Counter()

    def one(self) -> None:
        """One event."""
        event = self.random.choice([self.kill_child, self.kill_worker, self.sleep_past_lease, self.restart_valkey])
        self.happened[event.__name__] += 1
        event()

    def kill_child(self) -> None:
        try:
            os.kill(self._any().child, signal.SIGKILL)
        except (StopIteration, ProcessLookupError):
            return  # It is between two children.

    def kill_worker(self) -> None:
        self._any().kill()
        self.fleet.start_worker(ready=False)

    def sleep_past_lease(self) -> None:
        worker = self._any()
        try:
            pids = [worker.child, worker.process.pid]
        except StopIteration:
            return
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(float(self.fleet.environment["NOISEMILL_LEASE_S"]) * 1.5)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)

    def restart_valkey(self) -> None:
        self.valkey.stop(kill=True)
        time.sleep(self.random.uniform(0, 2))
        self.valkey.start()

    def _any(self) -> Worker:
        return self.random.choice([worker for worker in self.fleet.workers if worker.process.poll() is None])


def test_a_job_survives_chaos(tmp_path: Path, durable_valkey: Valkey) -> None:
    fleet = Fleet(tmp_path, environment(durable_valkey.url, f"chaos-{uuid.uuid4().hex[:6]}", tmp_path / "cache"))
    chaos = Chaos(fleet, durable_valkey)
    size = ["--count", str(SHARDS * 100), "--shard-size", "100", "--seed", "9"]
    try:
        quiet = fleet.run("generate", TINY, "quiet", *size, timeout_s=600)
        assert quiet.returncode == 0, quiet.stderr
        for _ in range(WORKERS):
            fleet.start_worker()
        job = fleet.submit(TINY, str(tmp_path / "chaos"), *size)
        start = time.monotonic()
        for _ in range(EVENTS):
            time.sleep(chaos.random.uniform(0.2, 3))
            chaos.one()
            if fleet.json("status", job)["state"] != "running":
                break
        watched = fleet.run("watch", job, timeout_s=900)
        assert watched.returncode == 0, watched.stderr
        state = fleet.json("status", job)
        elapsed = time.monotonic() - start
        print(f"\n{sum(chaos.happened.values())} events in {elapsed:.0f} s: {dict(chaos.happened)}; "
              f"{state['leases_lost']} leases lost")  # fmt: skip
        assert state["state"] == "done"
        assert (state["shards_done"], state["samples_done"]) == (SHARDS, SHARDS * 100)
        first, second = Dataset(tmp_path / "quiet"), Dataset(tmp_path / "chaos")
        assert _hashes(first) == _hashes(second)
        assert len(second.receipts()) == SHARDS
        assert fleet.run("verify", "chaos").returncode == 0
    finally:
        fleet.stop()


def _hashes(dataset: Dataset) -> dict[int, list[str]]:
    return {index: [file.sha256 for file in receipt.files] for index, receipt in dataset.receipts().items()}
