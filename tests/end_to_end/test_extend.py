"""Datasets that grow, with real workers: while their job is still going, on disk and in S3, killed in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.stores import open_store
from tests.end_to_end.fleet import TINY, Fleet
from tests.servers import S3Server


def data(destination: str) -> dict[str, bytes]:
    """Bytes of all samples and labels."""
    store = open_store(destination)
    return {entry.name: store.read(entry.name) for entry in store.list("shards/")}


def shards_done(fleet: Fleet, job: str) -> int:
    return int(fleet.json("status", job)["shards_done"])


def extend(fleet: Fleet, destination: str, count: str) -> str:
    done = fleet.run("extend", destination, "--count", count)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def assert_made(fleet: Fleet, job: str, destination: str, like: str) -> None:
    """The job is done, the dataset sound, and the same bytes as another."""
    watched = fleet.watch(job)
    assert watched.returncode == 0, watched.stderr
    checked = fleet.run("verify", destination, "--recompute", "20")
    assert checked.returncode == 0, checked.stderr
    assert data(destination) == data(like)


@pytest.fixture(scope="module")
def at_once(fleet: Fleet) -> str:
    """What extensions must come to, made in one go."""
    destination = str(fleet.folder / "at-once")
    job = fleet.submit(TINY, destination, "--count", "80_050", "--shard-size", "100")
    assert fleet.watch(job).returncode == 0
    return destination


def test_a_job_that_is_going_is_extended(fleet: Fleet, at_once: str) -> None:
    destination = str(fleet.folder / "going")
    old = fleet.submit(TINY, destination, "--count", "60_030", "--shard-size", "100", "--workers", "1")
    fleet.wait_until(lambda: shards_done(fleet, old) > 20)
    new = extend(fleet, destination, "80_050")
    assert new != old
    found = fleet.json("status", new)["samples_found"]
    assert found > 2000
    assert_made(fleet, new, destination, at_once)
    assert fleet.json("status", old)["state"] == "cancelled"
    assert fleet.json("status", new)["samples_found"] == found
    refused = fleet.run("resume", old)
    assert refused.returncode == 1
    assert "is another job's now" in refused.stderr
    assert Dataset(destination).whole
    assert extend(fleet, destination, "80_050") == new
    assert fleet.json("status", new)["state"] == "done"


@pytest.mark.slow
def test_in_s3(fleet: Fleet, s3: S3Server) -> None:
    grown, once = s3.destination(), s3.destination()
    jobs = [fleet.submit(TINY, grown, "-n", "330", "--shard-size", "100")]
    jobs.append(fleet.submit(TINY, once, "-n", "770", "--shard-size", "100"))
    assert fleet.watch(*jobs).returncode == 0
    before = {entry.name: entry for entry in open_store(grown).list("receipts/")}
    job = extend(fleet, grown, "770")
    assert fleet.json("status", job)["samples_found"] == 300
    assert len(before) == 4
    assert_made(fleet, job, grown, once)


@pytest.mark.faults
def test_here_and_now_killed_and_resumed(fleet: Fleet, at_once: str, tmp_path: Path) -> None:
    """Without Redis; the batch is that of the dataset, which its receipts name."""
    destination = str(fleet.folder / "here")
    job = fleet.submit(TINY, destination, "--count", "2_050", "--shard-size", "100")
    assert fleet.watch(job).returncode == 0
    environment = {name: value for name, value in fleet.environment.items() if name != "NOISEMILL_REDIS_URL"}
    command = [sys.executable, "-m", "pipeline.cli", "extend", destination, "--count", "80_050"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    receipts = Path(destination) / "receipts"
    fleet.wait_until(lambda: len(list(receipts.iterdir())) > 40, told=(tmp_path / "log").read_text)
    process.send_signal(signal.SIGKILL)
    process.wait()
    dataset = Dataset(destination)
    assert (len(dataset), dataset.whole) == (80_050, False)
    kept = set(dataset.finished())
    assert len(kept) >= 20
    _wait_for_quiet(receipts)
    done = subprocess.run(
        [*command[:3], "resume", destination],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert data(destination) == data(at_once)
    assert fleet.run("verify", destination).returncode == 0


def _wait_for_quiet(folder: Path) -> None:
    """Until the killed command's worker, which the kernel ends too, has written its last."""
    count = -1
    while (now := len(list(folder.iterdir()))) != count:
        count = now
        time.sleep(1)
