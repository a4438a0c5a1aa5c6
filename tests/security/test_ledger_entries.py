"""Who can write to Redis can put anything into the ledger: commands and workers refuse it in one line, and go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from pipeline.common.errors import LedgerError
from pipeline.common.settings import Settings
from pipeline.generators import find_generator
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger import Ledger, NewJob
from pipeline.jobs.request import JobRequest
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from tests.end_to_end.fleet import TINY, Fleet, Worker
from tests.jobs.test_ledger import worker_info
from tests.making import make_spec
from workers.worker.reconciler import Reconciler

HUGE = "9" * 400

#: Fields of a job's hash that cannot be.
FIELDS: list[tuple[str, str | None]] = [
    ("id", None), ("id", "another"), ("id", "x\n"),
    ("state", None), ("state", "sleeping"), ("state", "\x1b[2J"),
    ("destination", None), ("destination", "/data/\x1b]0;x\x07"), ("destination", "x" * 5000),
    ("generator", None), ("digest", "a\nb"), ("engine", "\x00"), ("schedule", "x\r"),
    ("priority", "10"), ("priority", "-1"), ("priority", "first"), ("priority", ""),
    ("count", None), ("count", "-5"), ("count", "1.5"), ("count", "nan"), ("count", HUGE), ("count", "0x10"),
    ("count", "\u0661"),
    ("shards", "many"), ("shards", HUGE), ("shards_done", "-1"), ("shards_done", "NaN"), ("samples_done", "1e3"),
    ("samples_found", "x"), ("bytes_done", HUGE), ("leases_lost", ""), ("batch", "auto"),
    ("queued_at", "yesterday"), ("running_at", HUGE), ("held_at", "-1"),
    ("seconds_predict", "inf"), ("seconds_write", "nan"), ("seconds_noise", "-1"), ("seconds_encode", "x"),
]  # fmt: skip


def key(ledger: Ledger, job: str = "job-1") -> str:
    return f"{ledger.settings.key_prefix}:job:{job}"


def enter(ledger: Ledger, job: str = "job-1", spec: JobSpec | None = None, destination: str = "/data/x") -> None:
    assert ledger.enter(NewJob(job_id=job, spec=spec or make_spec(), destination=destination))


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=lambda value: str(value)[:20])
def test_a_job_with_a_bad_field(ledger: Ledger, raw: redis.Redis, field: str, value: str | None):
    enter(ledger, "job-2")
    enter(ledger)
    if value is None:
        raw.hdel(key(ledger), field)
    else:
        raw.hset(key(ledger), field, value)
    with pytest.raises(DamagedEntryError) as caught:
        ledger.job("job-1")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    damaged, sound = ledger.jobs()
    assert (damaged.id, damaged.state, damaged.live) == ("job-1", "damaged", False)
    assert sound.id == "job-2"
    assert json.loads(json.dumps(damaged.as_json()))["error"] == str(caught.value)


def complaint(operation: Callable[[], object]) -> str:
    try:
        operation()
    except LedgerError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["string", "list", "set"])
@pytest.mark.parametrize(
    "suffix", ["", ":done", ":leases", ":holders", ":retry", ":attempts", ":errors", ":failed", ":progress", ":wakeups"]
)
def test_a_key_of_another_type(ledger: Ledger, raw: redis.Redis, suffix: str, kind: str):
    """Every operation of the ledger answers, or says what is wrong; a resume puts it right."""
    enter(ledger)
    raw.delete(key(ledger) + suffix)
    write: dict[str, Any] = {"string": raw.set, "list": raw.lpush, "set": raw.sadd}
    write[kind](key(ledger) + suffix, "x")
    operations = [
        lambda: ledger.job("job-1"), lambda: ledger.spec("job-1"), lambda: ledger.settle("job-1", "xla", 64),
        lambda: ledger.claim("job-1", "me"), lambda: ledger.take_wakeup("job-1", 0, 1, "me"),
        lambda: ledger.missing_wakeups("job-1", workers=1, grace_s=5), lambda: ledger.release_worker("me"),
        lambda: ledger.return_wakeup("job-1", 0, "me", again=True), lambda: ledger.cancel("job-1"),
    ]  # fmt: skip
    for operation in operations:
        assert len(complaint(operation).splitlines()) <= 2
    ledger.jobs()
    if suffix:  # A live job is not entered again.
        raw.hset(key(ledger), "state", "failed")
    enter(ledger)
    assert ledger.job("job-1").state == "queued"


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "null", "{}", "[" * 10_000, '{"id": 7}', "9" * 5000, '{"id": "x", "output_roots": 3}'],
    ids=lambda text: text[:12],
)
def test_an_announcement_that_is_none(ledger: Ledger, raw: redis.Redis, text: str):
    ledger.announce(worker_info())
    raw.set(f"{ledger.settings.key_prefix}:worker:liar", text)
    raw.zadd(f"{ledger.settings.key_prefix}:workers", {"liar": 0})
    assert ledger.workers() == [worker_info()]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "a\nb"), ("host", None), ("batch", "64"), ("rate", 1e400), ("rate", "fast"), ("started_at", -1),
        ("pid", "1"),
        ("output_roots", ["\x1b"]), ("output_roots", [3]), ("sample_shape", ["4"]), ("classes", 3), ("samples", None),
        ("job", 3), ("messages_refused", []),
    ],
)  # fmt: skip
def test_an_announcement_with_a_bad_field(ledger: Ledger, raw: redis.Redis, field: str, value: Any):
    text = json.dumps({**worker_info(id="liar").as_json(), field: value})
    raw.set(f"{ledger.settings.key_prefix}:worker:liar", text)
    raw.zadd(f"{ledger.settings.key_prefix}:workers", {"liar": 0})
    assert ledger.workers() == []


def test_a_newer_workers_announcement_is_understood(ledger: Ledger, raw: redis.Redis):
    text = json.dumps({**worker_info().as_json(), "colour": "blue"})
    raw.set(f"{ledger.settings.key_prefix}:worker:host-1", text)
    raw.zadd(f"{ledger.settings.key_prefix}:workers", {"host-1": 0})
    assert ledger.workers() == [worker_info()]


def test_the_reconciler_passes_over_what_is_damaged(
    settings: Settings, ledger: Ledger, raw: redis.Redis, caplog: pytest.LogCaptureFixture
):
    """The first in order is damaged, the second of another type, the third gets its wake-up; each is told once."""
    for job in ("job-1", "job-2", "job-3"):
        enter(ledger, job)
    raw.hset(key(ledger), "count", "x")
    raw.delete(key(ledger, "job-2"))
    raw.set(key(ledger, "job-2"), "x")
    ledger.announce(worker_info(id="me", digest=make_spec().digest))
    reconciler = Reconciler(ledger, Wakeups(settings, ledger), "me", 0.1)
    assert reconciler.reconcile() == 1
    assert reconciler.reconcile() == 0
    assert [record.getMessage().count("is damaged") for record in caplog.records] == [1, 1]


# -- a real worker ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(fleet: Fleet) -> Ledger:
    """The ledger of the fleet."""
    variables = fleet.environment
    return Ledger(Settings(redis_url=variables["NOISEMILL_REDIS_URL"], key_prefix=variables["NOISEMILL_KEY_PREFIX"]))


def tiny(**changes: Any) -> JobSpec:
    spec, _ = JobRequest(count=100, shard_size=50).resolve(find_generator(TINY))
    return replace(spec, **changes)


def place(fleet: Fleet, destination: str, spec: JobSpec | None = None) -> Path:
    """Writes job.json there, as a client would; answers the folder."""
    store = open_store(destination)
    store.write("job.json", (spec or tiny()).to_json().encode())
    return Path(store.url)


def offer(own: Ledger, job: str, destination: str, spec: JobSpec | None = None, text: str | None = None) -> None:
    """Enters a job past all checks of a client, and wakes the worker."""
    enter(own, job, spec or tiny(), destination)
    if text is not None:
        with redis.Redis.from_url(own.settings.redis_url) as client:
            client.hset(key(own, job), "spec", text)
    wake(own, job)


def wake(own: Ledger, job: str) -> None:
    """Sends the job's wake-up, unless the worker's reconciler was faster."""
    for token, serial in own.missing_wakeups(job, workers=1, grace_s=5):
        Wakeups(own.settings, own).send(job, tiny().digest, 5, token, serial)


def lines(worker: Worker, job: str) -> list[str]:
    return [line for line in worker.said().splitlines() if job in line]


SPECS: dict[str, Any] = {
    "unknown-field": {"surprise": 1},
    "type": {"count": "100"},
    "count": {"count": 10**18},
    "huge": {"count": 10**400},
    "shard": {"count": 10**12, "shard_size": 10**12, "format": "png", "dtype": "uint8"},
    "batch": {"batch": 2**20, "sample_shape": [2**12, 2**12, 1]},
    "latent": {"latent_shape": [2**30]},
    "sample": {"sample_shape": [64, 64, 3]},
    "classes": {"classes": ["a"] * 4},
    "labels": {"labels": "class:99"},
    "file": {"labels": "file:../../etc/passwd"},
    "noise": {"noise": "truncated:1e-300"},
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_that_cannot_be(fleet: Fleet, worker: Worker, own: Ledger, name: str):
    """It fails at once, with the reason; nothing is written; one line in the log."""
    job, child = f"spec-{name}", worker.child
    text = json.dumps({**json.loads(tiny().to_json()), **SPECS[name]})
    offer(own, job, str(fleet.folder / "inside" / job), text=text)
    fleet.wait_until(lambda: own.job(job).state == "failed", told=worker.said)
    assert own.job(job).error
    assert len(lines(worker, job)) == 1
    assert not (fleet.folder / "inside" / job).exists()
    assert worker.child == child


def _relative(folder: Path) -> str:
    return "inside/relative"


def _upwards(folder: Path) -> str:
    return f"{folder}/inside/../outside/up"


def _scheme(folder: Path) -> str:
    return f"file://{folder}/inside/x"


@pytest.mark.parametrize("destination", [_relative, _upwards, _scheme])
def test_a_destination_that_no_client_would_write(fleet: Fleet, worker: Worker, own: Ledger, destination: Any):
    job = f"place{destination.__name__.replace('_', '-')}"
    offer(own, job, destination(fleet.folder))
    fleet.wait_until(lambda: own.job(job).state == "failed", told=worker.said)
    assert "no destination that noisemill writes" in str(own.job(job).error)
    assert len(lines(worker, job)) == 1
    assert os.listdir(fleet.folder / "outside") == []


def _outside(folder: Path) -> str:
    return str(folder / "outside" / "x")


def _link_itself(folder: Path) -> str:
    (folder / "inside" / "link").symlink_to(folder / "outside")
    return str(folder / "inside" / "link")


def _link_above(folder: Path) -> str:
    (folder / "inside" / "parent").symlink_to(folder / "outside")
    return str(folder / "inside" / "parent" / "x")


@pytest.mark.parametrize("destination", [_outside, _link_itself, _link_above])
def test_a_destination_outside_the_output_root(fleet: Fleet, worker: Worker, own: Ledger, destination: Any):
    """Another worker may do it, so it stays queued; this one says so once, and goes on with others."""
    job = f"root{destination.__name__.replace('_', '-')}"
    offer(own, job, destination(fleet.folder))
    fleet.wait_until(lambda: len(lines(worker, job)) > 0, told=worker.said)
    assert fleet.watch(fleet.submit(TINY, f"inside/after-{job}", "-n", "200")).returncode == 0
    assert own.job(job).state == "queued"
    assert len(lines(worker, job)) == 1
    assert "is below no --output-root of this worker" in lines(worker, job)[0]
    assert os.listdir(fleet.folder / "outside") == []
    own.cancel(job)


def test_a_link_that_is_made_while_the_job_waits(fleet: Fleet, worker: Worker, own: Ledger):
    """The destination was a folder when the job was sent."""
    folder = place(fleet, str(fleet.folder / "inside" / "later"))
    shutil.move(folder, fleet.folder / "outside" / "later")
    folder.symlink_to(fleet.folder / "outside" / "later")
    offer(own, "link-later", str(folder))
    fleet.wait_until(lambda: len(lines(worker, "link-later")) > 0, told=worker.said)
    assert "by a link it is" in lines(worker, "link-later")[0]
    own.cancel("link-later")
    assert os.listdir(fleet.folder / "outside" / "later") == ["job.json"]
    shutil.rmtree(fleet.folder / "outside" / "later")


def test_a_link_inside_the_destination(fleet: Fleet, worker: Worker, own: Ledger):
    """The folder of shards leads elsewhere: nothing is written there, and the job fails with the reason."""
    folder = place(fleet, str(fleet.folder / "inside" / "shards-elsewhere"))
    (folder / "shards").symlink_to(fleet.folder / "outside")
    offer(own, "link-inside", str(folder))
    fleet.wait_until(lambda: own.job("link-inside").state == "failed", told=worker.said)
    assert "leads out of the destination" in str(own.job("link-inside").error)
    assert os.listdir(fleet.folder / "outside") == []


@pytest.mark.parametrize("change", ["link", "other", "fifo"])
def test_the_users_labels_are_replaced_after_the_job_was_sent(fleet: Fleet, worker: Worker, own: Ledger, change: str):
    """By a link to a file that is no one's business, by other labels, by what would never end."""
    labels = fleet.folder / "labels.npy"
    np.save(labels, (np.arange(100) % 4).astype(np.int32))
    spec, uploads = JobRequest(labels=str(labels), shard_size=50).resolve(find_generator(TINY))
    folder = place(fleet, str(fleet.folder / "inside" / f"labels-{change}"), spec)
    uploads[0].write(open_store(folder))
    mine = folder / "labels.npy"
    mine.unlink()
    if change == "link":
        mine.symlink_to(labels)
    elif change == "fifo":
        os.mkfifo(mine)
    else:
        np.save(mine, (np.arange(100) % 3).astype(np.int32))
    offer(own, f"labels-{change}", str(folder), spec)
    fleet.wait_until(lambda: own.job(f"labels-{change}").state == "failed", told=worker.said)
    assert "labels.npy" in str(own.job(f"labels-{change}").error)
    assert not (folder / "shards").exists()


def test_engine_and_batch_that_nobody_settled(fleet: Fleet, worker: Worker, own: Ledger):
    for number, changes in enumerate([{"batch": str(10**9)}, {"batch": "x"}, {"engine": "evil"}, {"engine": "\x00"}]):
        job = f"settled-{number}"
        place(fleet, str(fleet.folder / "inside" / job))
        enter(own, job, tiny(), str(fleet.folder / "inside" / job))
        with redis.Redis.from_url(own.settings.redis_url) as client:
            client.hset(key(own, job), mapping={"engine": "xla", **changes})
        wake(own, job)
        fleet.wait_until(partial(lines, worker, job), told=worker.said)


@pytest.mark.parametrize("shard", ["2", "-7", "999999999999", "x"])
def test_a_shard_that_is_not_in_the_plan(fleet: Fleet, worker: Worker, own: Ledger, shard: str):
    """It is put where shards wait to be tried again."""
    job = f"shard-{shard}"
    place(fleet, str(fleet.folder / "inside" / job))
    enter(own, job, tiny(), str(fleet.folder / "inside" / job))
    with redis.Redis.from_url(own.settings.redis_url) as client:
        client.zadd(key(own, job) + ":retry", {shard: 0})
    wake(own, job)
    fleet.wait_until(lambda: own.job(job).state != "queued" and not own.job(job).live, told=worker.said)
    assert own.job(job).state == "failed"
    assert "damaged" in str(own.job(job).error)


def test_after_all_of_it_the_worker_works(fleet: Fleet, worker: Worker):
    """Nothing above has ended the worker."""
    assert worker.process.poll() is None
    done = fleet.watch(fleet.submit(TINY, "inside/last", "-n", "1k"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in worker.said()
    assert fleet.run("verify", "inside/last").returncode == 0
