"""The worker's process is killed at each point between two steps that belong together, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY, Fleet
from tests.faults.plugin import faulty
from tests.faults.same import assert_same, make_quietly, size
from tests.servers import Valkey

SHARDS = 12
_WRITE = "pipeline.stores.local:LocalStore.write"

POINTS = {
    "shard placed, no receipt": {"at": _WRITE, "when": "before", "argument": "receipts/"},
    "receipt written, ledger not told": {"at": _WRITE, "when": "after", "argument": "receipts/"},
    "ledger told, worker not answered": {"at": "pipeline.jobs.ledger:Ledger.commit", "when": "after"},
    "all shards done, no manifest": {"at": _WRITE, "when": "before", "argument": "manifest.json"},
    "manifest written, job not ended": {"at": _WRITE, "when": "after", "argument": "manifest.json"},
}

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def start_doomed_worker(fleet: Fleet, point: str) -> Path:
    """A worker whose process dies at this point, once; answers the folder in which it says so."""
    flags = fleet.folder / "flags"
    flags.mkdir()
    fleet.start_worker(**faulty(die={**POINTS[point], "flags": str(flags)}))
    return flags


@pytest.mark.parametrize("point", POINTS)
def test_the_next_process_goes_on(fleet: Fleet, point: str) -> None:
    quiet = make_quietly(fleet, SHARDS)
    flags = start_doomed_worker(fleet, point)
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    watched = fleet.watch(job)
    assert watched.returncode == 0, watched.stderr
    assert [path.name for path in flags.iterdir()] == ["died-0"]
    assert_same(fleet, quiet, fleet.folder / "out")
    state = fleet.json("status", job)
    assert (state["shards_done"], state["samples_done"], state["failed"]) == (SHARDS, SHARDS * 100, {})
    attempts = [receipt.attempt for receipt in Dataset(fleet.folder / "out").receipts().values()]
    if point.startswith("shard"):
        assert max(attempts) == 2
    elif not point.startswith("ledger"):
        # What had its receipt was not made again, though the ledger had not heard of it.
        assert attempts.count(1) >= 1
        assert Dataset(fleet.folder / "out").receipts()[0].attempt == 1


@pytest.mark.parametrize("point", POINTS)
def test_resume_needs_neither_that_worker_nor_redis(fleet: Fleet, durable_valkey: Valkey, point: str) -> None:
    quiet = make_quietly(fleet, SHARDS)
    flags = start_doomed_worker(fleet, point)
    fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    fleet.wait_until(lambda: any(flags.iterdir()))
    fleet.workers[0].kill()
    with redis.Redis.from_url(durable_valkey.url) as client:
        client.flushall()
    receipts = fleet.folder / "out/receipts"
    before = {path: path.stat().st_mtime_ns for path in receipts.iterdir()} if receipts.exists() else {}
    resumed = fleet.run("resume", "out", NOISEMILL_REDIS_URL="")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(fleet, quiet, fleet.folder / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before
