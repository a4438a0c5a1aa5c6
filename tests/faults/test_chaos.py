"""Chaos: workers, their children, their connections and Valkey are killed, stopped and cut at random under a job.

`NOISEMILL_CHAOS_EVENTS` (default 25) and `NOISEMILL_CHAOS_SEED` choose how long and which.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger
from tests.end_to_end.fleet import TINY, Fleet, Worker, environment
from tests.faults.cable import Cable
from tests.faults.plugin import faulty
from tests.faults.same import SHARD, assert_same, make_quietly, size
from tests.servers import Valkey

EVENTS = int(os.environ.get("NOISEMILL_CHAOS_EVENTS", "25"))
SEED = int(os.environ.get("NOISEMILL_CHAOS_SEED", "1"))
WORKERS = 3
#: Shards for each event, and how long a device takes for one, seconds: so that the job outlasts the events.
SHARDS_PER_EVENT = 40
PACE_S = 0.4

#: What is wrong with the clocks of the workers, one after the other, seconds.
CLOCKS = (0, 3600, -3600)


class Chaos:
    """What happens to a fleet, from a seed. Its workers reach Valkey by a cable, the test itself does not."""

    def __init__(self, fleet: Fleet, valkey: Valkey, cable: Cable, workers: int, seed: int) -> None:
        self.fleet, self.valkey, self.cable, self.workers = fleet, valkey, cable, workers
        self.random = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self._started = 0

    def start_worker(self) -> None:
        """One more, whose clock is wrong."""
        clock = CLOCKS[self._started % len(CLOCKS)]
        self._started += 1
        self.fleet.start_worker(ready=False, **faulty(clock=clock, pace_s=PACE_S))

    def replace_the_dead(self) -> None:
        """As `up` and systemd do. Who found no Redis at its start, or died thrice while it loaded, has left."""
        left = sum(worker.process.poll() is None for worker in self.fleet.workers)
        for _ in range(self.workers - left):
            self.happened["workers that left and were replaced"] += 1
            self.start_worker()

    def one(self) -> None:
        """One event."""
        self.replace_the_dead()
        event = self.random.choice([
            self.kill_child, self.kill_worker, self.sleep_past_lease, self.restart_valkey, self.cut_connections,
            self.dead_connections,
        ])  # fmt: skip
        self.happened[event.__name__] += 1
        event()

    def kill_child(self) -> None:
        try:
            os.kill(self._any().child, signal.SIGKILL)
        except (StopIteration, ProcessLookupError):
            return  # It is between two children.

    def kill_worker(self) -> None:
        self._any().kill()
        self.start_worker()

    def sleep_past_lease(self) -> None:
        worker = self._any()
        try:
            pids = [worker.child, worker.process.pid]
        except StopIteration:
            pids = [worker.process.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(float(self.fleet.environment["NOISEMILL_LEASE_S"]) * 1.5)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)

    def restart_valkey(self) -> None:
        self.valkey.stop(kill=True)
        time.sleep(self.random.uniform(0, 2))
        self.valkey.start()

    def cut_connections(self) -> None:
        self.cable.cut()

    def dead_connections(self) -> None:
        self.cable.go_dead()
        time.sleep(self.random.uniform(0.5, 5))
        if self.random.random() < 0.5:
            self.cable.cut()
        self.cable.recover()

    def _any(self) -> Worker:
        return self.random.choice([worker for worker in self.fleet.workers if worker.process.poll() is None])


def survive(folder: Path, valkey: Valkey, cache: Path, *, workers: int, events: int, seed: int) -> str:
    """Makes a dataset in quiet and one in chaos; asserts that they are the same. Answers what happened."""
    shards = events * SHARDS_PER_EVENT
    prefix = f"chaos-{uuid.uuid4().hex[:6]}"
    quiet = Fleet(folder, environment(valkey.url, prefix, cache))
    assert valkey.port
    with Cable(valkey.port) as cable:
        fleet = Fleet(folder, environment(f"redis://127.0.0.1:{cable.port}/0", prefix, cache))
        chaos = Chaos(fleet, valkey, cable, workers, seed)
        try:
            make_quietly(quiet, shards)
            for _ in range(workers):
                chaos.start_worker()
            ledger = Ledger(Settings(redis_url=valkey.url, key_prefix=prefix))
            quiet.wait_until(lambda: len(ledger.workers()) == workers, timeout_s=120)
            job = quiet.submit(TINY, str(folder / "chaos"), *size(shards))
            start = time.monotonic()
            for number in range(events):
                time.sleep(chaos.random.uniform(0.2, 2))
                assert _state(ledger, job).live, f"the job ended after {number} of {events} events"
                chaos.one()
            chaos.replace_the_dead()
            disturbed_s = time.monotonic() - start
            made = _state(ledger, job).shards_done
            watched = quiet.run("watch", job, timeout_s=1200)
            assert watched.returncode == 0, watched.stderr
            state = _state(ledger, job)
            assert (state.state, state.shards_done, state.samples_done) == ("done", shards, shards * SHARD)
            assert (state.shards_leased, state.samples_in_flight, dict(state.failed)) == (0, 0, {})
            _assert_nothing_is_left(valkey, prefix)
        finally:
            cable.recover()
            fleet.stop()
    assert_same(quiet, folder / "quiet", folder / "chaos")
    return (
        f"{events} events in {disturbed_s:.0f} s ({_told(chaos.happened)}); {made:,} of {shards:,} shards meanwhile, "
        f"{state.leases_lost} leases lost; the same bytes"
    )


def _state(ledger: Ledger, job: str) -> Job:
    """The job; again where Valkey is just coming back."""
    for _ in range(20):
        try:
            return ledger.job(job)
        except Exception:
            time.sleep(0.5)
    return ledger.job(job)


def _told(happened: Counter[str]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(happened.items()))


def _assert_nothing_is_left(valkey: Valkey, prefix: str) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        left = [key for key in client.scan_iter(f"{prefix}:job:*")
                if key.endswith((":leases", ":holders", ":progress", ":wakeups", ":retry", ":attempts"))]  # fmt: skip
    assert left == []


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_job_survives_chaos(
    tmp_path: Path, durable_valkey: Valkey, cache: Path, figure: Callable[[str], None]
) -> None:
    figure(survive(tmp_path, durable_valkey, cache, workers=WORKERS, events=EVENTS, seed=SEED))


@pytest.mark.timeout(600)
def test_a_job_survives_a_few_faults(
    tmp_path: Path, durable_valkey: Valkey, cache: Path, figure: Callable[[str], None]
) -> None:
    figure(survive(tmp_path, durable_valkey, cache, workers=2, events=4, seed=3))
