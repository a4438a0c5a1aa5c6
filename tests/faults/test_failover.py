"""A primary that dies with writes that its replica has not got: the sentinels put the replica in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.faults.plugin import faulty
from tests.faults.same import assert_same, make_quietly, size
from tests.servers import Replicated

SHARDS = 300
PACE_S = 0.2


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    with Replicated() as servers:
        yield servers


@pytest.fixture
def fleet(replicated: Replicated, tmp_path: Path, cache: Path) -> Iterator[Fleet]:
    """A fleet behind sentinels, without workers."""
    fleet = Fleet(tmp_path, environment(replicated.url, "failover", cache))
    yield fleet
    fleet.stop()


def shards_done(replicated: Replicated, job: str) -> int:
    """By the primary, at once: a command takes a second."""
    with replicated.client(replicated.primary) as primary:
        return int(primary.hget(f"failover:job:{job}", "shards_done") or 0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_jobs_survive_their_primary(fleet: Fleet, replicated: Replicated, figure: Callable[[str], None]) -> None:
    """One job whose last shards the replica has not got, and one that it has not got at all."""
    workers = [fleet.start_worker(ready=False, **faulty(pace_s=PACE_S)) for _ in range(2)]
    fleet.wait_until(lambda: all(fleet.is_up(worker) for worker in workers))
    known = fleet.submit(TINY, str(fleet.folder / "known"), *size(SHARDS))
    watching = [fleet.start_watching(known)]
    fleet.wait_until(lambda: shards_done(replicated, known) > 5)
    replicated.part()
    lost = fleet.submit(TINY, str(fleet.folder / "lost"), *size(SHARDS))
    watching.append(fleet.start_watching(lost))
    parted = shards_done(replicated, known)
    fleet.wait_until(lambda: shards_done(replicated, known) > parted + 5)
    assert shards_done(replicated, known) < SHARDS
    left = 2 * SHARDS - shards_done(replicated, known) - shards_done(replicated, lost)
    start = time.monotonic()
    replicated.fail_over()
    said = [each.communicate(timeout=600)[1] for each in watching]
    ended_s = time.monotonic() - start
    assert [each.returncode for each in watching] == [0, 0], said
    assert ["Redis no longer had job" in each for each in said] == [False, True]
    figure(f"both jobs ended {ended_s:.1f} s after the primary had died, with {left} shards left")
    quiet = make_quietly(fleet, SHARDS)
    for job, name in ((known, "known"), (lost, "lost")):
        assert fleet.json("status", job)["failed"] == {}
        assert_same(fleet, quiet, fleet.folder / name)
    for worker in workers:
        assert worker.process.poll() is None, worker.said()
        assert "Traceback" not in worker.said()
        assert not any(secret in worker.said() for secret in (Replicated.PASSWORD, "geheim", "wache"))
