"""Fleets whose parts differ: in version, in generator, in what they may write, in what time they think it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.generators import find_generator
from pipeline.jobs.broker import MESSAGE_VERSION, SLICE_TASK, celery_app, queue_name
from pipeline.jobs.ledger import Ledger, NewJob
from pipeline.spec.job_spec import SPEC_VERSION
from tests.end_to_end.fleet import TINY, Fleet, Worker

DIGEST = find_generator(TINY).digest


def settings_of(fleet: Fleet) -> Settings:
    return Settings(
        redis_url=fleet.environment["NOISEMILL_REDIS_URL"], key_prefix=fleet.environment["NOISEMILL_KEY_PREFIX"]
    )


# -- versions --------------------------------------------------------------------------------------


def test_a_worker_among_newer_ones(lone_fleet: Fleet) -> None:
    """Newer messages, jobs and workers: what a worker cannot make it leaves, and says so; the rest goes on."""
    settings = settings_of(lone_fleet)
    ledger, prefix = Ledger(settings), settings.key_prefix
    server = redis.Redis.from_url(settings.redis_url, decode_responses=True)

    # A newer client's wake-up, with fields of its own, is all that is in the queue.
    first = lone_fleet.submit(TINY, "first", "--count", "100")
    for key in server.scan_iter(f"{prefix}:celery:{queue_name(DIGEST)}*"):
        server.delete(key)
    celery_app(settings).send_task(
        SLICE_TASK,
        kwargs={"version": MESSAGE_VERSION + 1, "job": first, "ticket": {"since": "the future"}},
        queue=queue_name(DIGEST),
        retry=False,
    )
    worker = lone_fleet.start_worker()
    refusal = f"refused a message: a newer noisemill sent it (version {MESSAGE_VERSION + 1}): upgrade this worker"
    lone_fleet.wait_until(lambda: refusal in worker.said(), told=worker.said)
    # The job is one that this worker can read: the reconciler wakes it up in its own words.
    assert lone_fleet.watch(first).returncode == 0
    assert lone_fleet.json("status", first)["error"] is None

    # A newer client's job, with a field that this version does not know.
    spec, _ = ledger.spec(first)
    destination = lone_fleet.folder / "second"
    second = spec.job_id(str(destination))
    newer = json.loads(spec.to_json()) | {"version": SPEC_VERSION + 1, "style": "cubist"}
    destination.mkdir()
    (destination / "job.json").write_text(spec.to_json())
    ledger.enter(NewJob(job_id=second, spec=spec, destination=str(destination)))
    server.hset(f"{prefix}:job:{second}", "spec", json.dumps(newer))

    def told() -> str:
        return lone_fleet.json("status", second)["error"] or ""

    lone_fleet.wait_until(lambda: "was written by a newer noisemill" in told(), told=told)
    shown = lone_fleet.run("status", second)
    assert shown.returncode == 0
    assert f"(version {SPEC_VERSION + 1}, known is {SPEC_VERSION}): upgrade" in shown.stdout
    assert worker.id in shown.stdout
    assert lone_fleet.json("status", second)["state"] == "queued"
    assert [path.name for path in destination.iterdir()] == ["job.json"]
    # Who can read it makes it: this one does, once it stands there in words that it knows.
    server.hset(f"{prefix}:job:{second}", "spec", spec.to_json())
    assert lone_fleet.watch(second).returncode == 0

    # A newer worker tells more of itself than this version asks.
    announced = json.loads(str(server.get(f"{prefix}:worker:{worker.id}")))
    server.set(f"{prefix}:worker:future-1", json.dumps(announced | {"id": "future-1", "mood": "good"}))
    server.zadd(f"{prefix}:workers", {"future-1": 1})
    assert {one["id"] for one in lone_fleet.json("workers")} == {"future-1", worker.id}
    server.close()


# -- generators ------------------------------------------------------------------------------------


@pytest.mark.compat
def test_a_rolling_update_of_a_generator(lone_fleet: Fleet) -> None:
    own = lone_fleet.folder / "own.keras"
    shutil.copy(TINY, own)
    sidecar = Path(TINY).with_suffix(".toml").read_text()
    own.with_suffix(".toml").write_text(sidecar)
    old = lone_fleet.start_worker(str(own))
    before = lone_fleet.submit(str(own), "before", "--count", "30k", "--shard-size", "100")
    lone_fleet.wait_until(lambda: lone_fleet.json("status", before)["state"] == "running")
    # The update: the file changes, a second worker comes up beside the first, both work.
    own.with_suffix(".toml").write_text(sidecar.replace("circle", "ring"))
    new = lone_fleet.start_worker(str(own))
    after = lone_fleet.submit(str(own), "after", "--count", "1000", "--shard-size", "100")
    assert lone_fleet.watch(after, before).returncode == 0
    makers = {name: {r.worker for r in Dataset(str(lone_fleet.folder / name)).receipts().values()} for name in
              ("before", "after")}  # fmt: skip
    assert makers == {"before": {old.id}, "after": {new.id}}
    # The old one is drained by SIGTERM, and says so by its exit code.
    assert old.stop() == 0
    assert [one["id"] for one in lone_fleet.json("workers")] == [new.id]


# -- destinations ----------------------------------------------------------------------------------


def test_a_worker_that_sees_the_destination_elsewhere_refuses_it(lone_fleet: Fleet, tmp_path: Path) -> None:
    """As on another machine where the folder of that name is another one: what counts is its own --output-root."""
    elsewhere = tmp_path / "other-machine"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pipeline.cli", "worker", TINY, "--output-root", str(elsewhere)]
    log = lone_fleet.folder / "stranger.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=lone_fleet.environment, cwd=elsewhere, stdout=output, stderr=output)
    stranger = Worker(process, log)
    lone_fleet.workers.append(stranger)
    lone_fleet.wait_until(lambda: lone_fleet.is_up(stranger), told=stranger.said)
    done = lone_fleet.run("submit", TINY, "out", "--count", "100")
    assert "no worker that is up may write to" in done.stderr
    job = done.stdout.strip()
    destination = lone_fleet.folder / "out"

    def told() -> str:
        return lone_fleet.json("status", job)["error"] or ""

    lone_fleet.wait_until(lambda: f"{destination} is below no --output-root of this worker" in told(), told=told)
    assert sorted(path.name for path in destination.iterdir()) == ["job.json"]
    assert list(elsewhere.iterdir()) == []
    lone_fleet.start_worker()
    assert lone_fleet.watch(job).returncode == 0
    assert {receipt.worker for receipt in Dataset(str(destination)).receipts().values()} == {lone_fleet.workers[-1].id}


#: What a machine may have at a place where others have the shared folder.
OTHER_VIEWS = {
    "read-only": 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"',
    "not mounted": 'mount -t tmpfs none "$0"',
}


def _start_apart(fleet: Fleet, view: str, root: Path) -> Worker:
    """A worker with mounts of its own; waits till it is up."""
    number = len(fleet.workers)
    log = fleet.folder / f"apart-{number}.log"
    command = ["unshare", "--mount", "sh", "-c", f'{OTHER_VIEWS[view]} && exec "$@"', str(root)]
    command += [sys.executable, "-m", "pipeline.cli", "worker", TINY, "--output-root", str(root)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=fleet.environment, stdout=output, stderr=output)
    worker = Worker(process, log)
    fleet.workers.append(worker)
    fleet.wait_until(lambda: fleet.is_up(worker), timeout_s=600, told=worker.said)
    return worker


@pytest.mark.faults
@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounts of its own take root",
)
@pytest.mark.parametrize("view", OTHER_VIEWS)
def test_what_one_worker_cannot_write_is_left_to_another(lone_fleet: Fleet, tmp_path: Path, view: str) -> None:
    """As on a machine whose mount is read-only or missing; where nobody can, the job fails with the cause."""
    fleet, root = lone_fleet, tmp_path / "shared"
    root.mkdir()
    apart = _start_apart(fleet, view, root)
    able = fleet.start_worker(roots=[root])
    job = fleet.submit(TINY, str(root / "out"), "--count", "4k", "--shard-size", "20", "--parallel", "2")

    def unreachable() -> list[str]:
        return [place for worker in fleet.json("workers") for place in worker["unreachable"]]

    fleet.wait_until(lambda: "cannot make it" in (fleet.json("status", job)["error"] or "") or unreachable(),
                     told=apart.said)  # fmt: skip
    assert fleet.watch(job).returncode == 0, apart.said()
    assert fleet.run("verify", str(root / "out")).returncode == 0
    makers = {receipt.worker for receipt in Dataset(str(root / "out")).receipts().values()}
    assert makers == {able.id}

    # Nobody else is left: the job ends, and says why.
    assert able.stop() == 0
    fleet.wait_until(lambda: len(fleet.json("workers")) == 1)
    lonely = fleet.submit(TINY, str(root / "lonely"), "--count", "100")
    assert fleet.watch(lonely).returncode == 1
    cause = {"read-only": "the file system is read-only", "not mounted": "holds no dataset"}[view]
    assert cause in fleet.json("status", lonely)["error"]
    # Nothing stands between it and another try, once that is mended.
    fleet.wait_until(lambda: str(root / "lonely") not in unreachable())


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.compat
@pytest.mark.timeout(400)
@pytest.mark.parametrize("skew", ["+3d", "-3d"])
def test_no_worker_s_clock_matters(lone_fleet: Fleet, skew: str) -> None:
    """One worker's clock is days off, by libfaketime; leases and times are the server's alone."""
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        pytest.skip("no libfaketime (Debian package faketime)")
    command = [sys.executable, "-m", "pipeline.cli", "worker", TINY]
    log = lone_fleet.folder / "skewed.log"
    # Its monotonic clock stays: that is what a clock set wrong looks like. By the library itself, since the program
    # `faketime` would stand between the worker and its SIGTERM.
    skewed_clock = {"LD_PRELOAD": str(library), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    # That library (0.9.10) makes Python's `time.sleep` fail, which sleeps until a time instead of for a time.
    (lone_fleet.folder / "site").mkdir()
    (lone_fleet.folder / "site/sitecustomize.py").write_text(
        "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"
    )
    path = os.pathsep.join([f"{lone_fleet.folder}/site", lone_fleet.environment.get("PYTHONPATH", "")])
    environment = {**lone_fleet.environment, **skewed_clock, "PYTHONPATH": path.rstrip(os.pathsep)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--output-root", str(lone_fleet.folder)],
            env=environment, cwd=lone_fleet.folder, stdout=output, stderr=output,
        )  # fmt: skip
    skewed = Worker(process, log)
    lone_fleet.workers.append(skewed)
    lone_fleet.wait_until(lambda: len(lone_fleet.json("workers")) == 1, told=skewed.said)
    right = lone_fleet.start_worker()
    assert all(0 <= one["up_s"] < 3600 for one in lone_fleet.json("workers"))
    started = {one["started_at"] for one in lone_fleet.json("workers")}
    assert abs(max(started) - min(started)) > 2 * 86_400  # So the clock is really off.

    job = lone_fleet.submit(TINY, "out", "--count", "20k", "--shard-size", "100")
    lone_fleet.wait_until(lambda: lone_fleet.json("status", job)["shards_done"] > 20)
    right.kill()  # Its leases expire by the server's clock, and the one whose clock is off takes over.
    done = lone_fleet.watch(job)
    assert done.returncode == 0, done.stderr
    state = lone_fleet.json("status", job)
    assert "the lease went to another" not in skewed.said()
    assert 0 < state["ended_at"] - state["running_at"] < 120
    makers = [receipt.worker for receipt in Dataset(str(lone_fleet.folder / "out")).receipts().values()]
    assert len(set(makers)) == 2
    assert lone_fleet.run("verify", "out").returncode == 0
    assert skewed.stop() == 0
