"""Jobs through a real queue: submitted by the command line, made by worker processes."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from shlex import quote

import numpy as np
import pytest
import redis

from pipeline.datasets.dataset import Dataset
from pipeline.spec.latents import latents
from tests.end_to_end.fleet import TINY, Fleet
from tests.end_to_end.ways import WAYS, check_same, made
from tests.faults.plugin import faulty
from tests.servers import S3Server, Valkey


def test_a_job_is_made_whole(fleet: Fleet) -> None:
    dataset = made(fleet, TINY, "whole", "--count", "1000", "--shard-size", "300", "--seed", "5")
    sample = np.load(fleet.folder / "whole/shards/00000000.npy", mmap_mode="r")
    assert sample.shape == (300, 8, 8, 1)
    assert sample.dtype == np.float32
    assert [len(part) for part, _ in dataset.shards()] == [300, 300, 300, 100]
    assert np.array_equal(np.load(fleet.folder / "whole/shards/00000003.labels.npy"), np.arange(900, 1000) % 4)
    assert np.array_equal(dataset.latents(990, 10), latents(5, 990, 10, 8))
    for name in ("README.md", "preview.png", "manifest.json", "shards.jsonl", "job.json"):
        assert (fleet.folder / "whole" / name).stat().st_size > 0
    checked = fleet.run("verify", "whole", "--recompute", "50")
    assert checked.returncode == 0, checked.stderr
    assert "50 of 50 recomputed samples are identical" in checked.stdout
    state = fleet.json("status", next(job["id"] for job in fleet.json("jobs") if job["destination"].endswith("/whole")))
    assert (state["state"], state["shards_done"], state["samples_done"]) == ("done", 4, 1000)
    assert state["verdict"] in ("device-bound", "encode-bound", "store-bound", "noise-bound")


@pytest.mark.parametrize(("name", "arguments"), WAYS)
def test_the_same_samples_whatever_the_way(
    fleet: Fleet, s3: S3Server, reference: Dataset, name: str, arguments: list[str]
) -> None:
    destination = s3.destination() if name.startswith("s3") else f"same-{name}"
    dataset = made(fleet, TINY, destination, "--count", "600", "--seed", "11", *arguments)
    check_same(dataset, reference)
    assert fleet.run("verify", dataset.url).returncode == 0


@pytest.fixture(scope="module")
def reference(fleet: Fleet) -> Dataset:
    return made(fleet, TINY, "same-reference", "--count", "600", "--seed", "11")


def test_two_workers_share_a_job(fleet: Fleet) -> None:
    dataset = made(fleet, TINY, "shared", "--count", "60k", "--shard-size", "100")
    makers = {receipt.worker for receipt in dataset.receipts().values()}
    assert len(makers) == 2


def test_jobs_share_workers_by_slices_and_a_small_one_does_not_wait_for_a_large_one(fleet: Fleet) -> None:
    large = fleet.submit(TINY, str(fleet.folder / "large"), "--count", "400k", "--shard-size", "100")
    small = fleet.submit(TINY, str(fleet.folder / "small"), "--count", "1000")
    assert fleet.watch(small).returncode == 0
    assert fleet.json("status", large)["state"] == "running"
    done = fleet.run("cancel", large)
    assert done.returncode == 0


def test_cancel_keeps_finished_shards_and_resume_makes_the_rest(fleet: Fleet) -> None:
    job = fleet.submit(TINY, str(fleet.folder / "cancelled"), "--count", "60k", "--shard-size", "100")
    fleet.wait_until(lambda: fleet.json("status", job)["shards_done"] > 3)
    assert fleet.run("cancel", job).returncode == 0
    state = fleet.json("status", job)
    assert state["state"] == "cancelled"
    fleet.wait_until(lambda: all(worker["job"] is None for worker in fleet.json("workers")), timeout_s=600)
    dataset = Dataset(str(fleet.folder / "cancelled"))
    kept = len(dataset.finished())
    assert state["shards_done"] <= kept < 600
    assert not dataset.whole
    assert fleet.watch(job).returncode == 1
    assert fleet.run("verify", "cancelled").returncode == 1
    again = fleet.run("resume", "cancelled")
    assert again.stdout.strip() == job
    assert fleet.watch(job).returncode == 0
    assert fleet.json("status", job)["samples_done"] == 60_000
    assert fleet.run("verify", "cancelled").returncode == 0


def test_priorities_hold(lone_fleet: Fleet) -> None:
    ids = {
        priority: lone_fleet.submit(
            TINY, str(lone_fleet.folder / f"p{priority}"), "--count", "4k", "--priority", str(priority)
        )
        for priority in (9, 5, 0)
    }
    lone_fleet.start_worker()
    assert lone_fleet.watch(*ids.values()).returncode == 0
    ended = {priority: lone_fleet.json("status", job)["ended_at"] for priority, job in ids.items()}
    assert ended[0] < ended[5] < ended[9]


def test_a_job_begins_while_the_one_before_is_finished(lone_fleet: Fleet) -> None:
    names = [f"row-{number}" for number in range(5)]
    jobs = [lone_fleet.submit(TINY, str(lone_fleet.folder / name), "--count", "1000") for name in names]
    pause = {"at": "pipeline.stores.local:LocalStore.write", "argument": "manifest.json", "seconds": 1}
    lone_fleet.start_worker(**faulty(pause=pause))
    assert lone_fleet.watch(*jobs).returncode == 0
    states = sorted((lone_fleet.json("status", job) for job in jobs), key=lambda state: float(state["running_at"]))
    for earlier, later in pairwise(states):
        assert later["running_at"] < earlier["ended_at"] < later["ended_at"]
    # But a second one waits for it.
    for earlier, later in zip(states, states[2:], strict=False):
        assert later["running_at"] >= earlier["ended_at"]
    for name in names:
        verified = lone_fleet.run("verify", name)
        assert verified.returncode == 0, verified.stderr


def test_submit_without_a_worker_is_queued_with_the_command_that_starts_one(lone_fleet: Fleet) -> None:
    done = lone_fleet.run("submit", TINY, "out", "--count", "10")
    assert done.returncode == 0
    assert f"noisemill worker {quote(TINY)} --output-root {lone_fleet.folder}" in done.stderr
    assert lone_fleet.json("status", done.stdout.strip())["state"] == "queued"
    lone_fleet.start_worker()
    assert lone_fleet.watch(done.stdout.strip()).returncode == 0


def test_resume_with_an_empty_redis_makes_only_what_is_missing(fleet: Fleet, valkey_of_its_own: Fleet) -> None:
    other = valkey_of_its_own
    dataset = made(fleet, TINY, "moved", "--count", "1000", "--shard-size", "100")
    for name in ("manifest.json", "receipts/00000003.json", "shards/00000007.npy"):
        (fleet.folder / "moved" / name).unlink()
    (fleet.folder / "moved/receipts/00000005.json").write_text("{")
    before = {path: path.stat().st_mtime_ns for path in (fleet.folder / "moved/shards").iterdir()}
    resumed = other.run("resume", dataset.url)
    assert resumed.returncode == 0, resumed.stderr
    other.start_worker(TINY, "--output-root", str(fleet.folder))
    assert other.watch(resumed.stdout.strip()).returncode == 0
    assert fleet.run("verify", "moved", "--recompute", "20").returncode == 0
    made_again = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    names = {f"{shard:08d}{suffix}" for shard in (3, 5, 7) for suffix in (".npy", ".labels.npy")}
    assert made_again == names - {"00000007.npy"}  # Which was not there before.


@pytest.fixture
def valkey_of_its_own(lone_fleet: Fleet) -> Fleet:
    """Another key prefix is as good as another server: nothing of the first fleet is in it."""
    return lone_fleet


def test_workers_tell_what_they_hold(fleet: Fleet) -> None:
    one = fleet.json("workers")[0]
    assert one["generator"] == "tiny"
    assert one["sample_shape"] == [8, 8, 1]
    assert one["classes"] == ["circle", "square", "star", "cross"]
    assert one["device"] == "cpu"
    assert one["batch"] in (64, 128, 256, 512)
    assert one["rate"] > 0


def test_a_destination_outside_the_output_roots_is_never_written(fleet: Fleet, tmp_path: Path) -> None:
    destination = tmp_path / "elsewhere"
    done = fleet.run("submit", TINY, str(destination), "--count", "10")
    assert "may write to" in done.stderr
    assert fleet.run("cancel", done.stdout.strip()).returncode == 0
    assert sorted(path.name for path in destination.iterdir()) == ["job.json"]


def test_python_is_as_short(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    import noisemill

    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    handle = noisemill.submit(TINY, fleet.folder / "python", count=1000)
    assert handle.wait(timeout_s=600).state == "done"
    assert handle.status().samples_done == 1000
    sample, label = noisemill.Dataset(fleet.folder / "python")[-1]
    assert sample.shape == (8, 8, 1)
    assert label == 999 % 4


def test_messages_carry_nothing_but_the_wakeup(lone_fleet: Fleet, valkey: Valkey) -> None:
    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "big"), "--count", "1G", "--shard-size", "1000")
    client = redis.Redis.from_url(valkey.url, decode_responses=True)
    prefix = lone_fleet.environment["NOISEMILL_KEY_PREFIX"]
    queues = [key for key in client.scan_iter(f"{prefix}:celery:noisemill.*") if client.type(key) == "list"]
    messages = [json.loads(text) for key in queues for text in client.lrange(key, 0, -1)]
    assert len(messages) == 1
    assert messages[0]["content-type"] == "application/json"
    assert sum(client.memory_usage(key) or 0 for key in client.scan_iter(f"{prefix}:*")) < 100_000
    assert lone_fleet.run("cancel", job).returncode == 0
    client.close()


def test_two_versions_under_one_name_do_not_mix(lone_fleet: Fleet) -> None:
    own = lone_fleet.folder / "own.keras"
    own.write_bytes(Path(TINY).read_bytes())
    sidecar = Path(TINY).with_suffix(".toml").read_text()
    own.with_suffix(".toml").write_text(sidecar)
    lone_fleet.start_worker(str(own))
    own.with_suffix(".toml").write_text(sidecar.replace("circle", "ring"))
    done = lone_fleet.run("submit", str(own), "newer", "--count", "10")
    assert "no worker holds 'own'" in done.stderr
    own.with_suffix(".toml").write_text(sidecar)
    older = lone_fleet.submit(str(own), "older", "--count", "10")
    assert lone_fleet.watch(older).returncode == 0
    assert lone_fleet.json("status", done.stdout.strip())["state"] == "queued"
    assert not (lone_fleet.folder / "newer/shards").exists()


def test_a_worker_leaves_no_temporary_file(lone_fleet: Fleet) -> None:
    temporary = lone_fleet.folder / "temporary"
    temporary.mkdir()
    worker = lone_fleet.start_worker(TMPDIR=str(temporary))
    assert lone_fleet.watch(lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), "--count", "100")).returncode == 0
    assert worker.stop() == 0
    assert os.listdir(temporary) == []
