"""What doctor finds, and what it says to do: each case made with a real Redis, a real S3, a real folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from benchmarks.sleeping_worker import worker_info
from pipeline.common.settings import Settings
from pipeline.fleet import doctor as checkup
from pipeline.fleet.doctor import Finding, run_checks
from pipeline.jobs.ledger import Ledger, NewJob
from pipeline.schedules.book import ScheduleBook
from tests.cli.conftest import TINY
from tests.cli.running import Run
from tests.making import make_spec
from tests.servers import S3Server

JOB = "tiny-0123456789"


@pytest.fixture
def ledger(redis: Settings) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def find(redis: Settings) -> Callable[..., Finding]:
    """One finding."""

    def look(check: str, destination: str | None = None) -> Finding:
        return next(finding for finding in run_checks(redis, destination) if finding.check == check)

    return look


def enter(ledger: Ledger, destination: str = "/data/x") -> None:
    assert ledger.enter(NewJob(job_id=JOB, spec=make_spec(), destination=destination))


def test_workers_are_counted_by_generator_and_device(ledger: Ledger, find: Callable[..., Finding]) -> None:
    for name, device in (("a-1", "cpu"), ("a-2", "gpu:0"), ("a-3", "cpu")):
        ledger.announce(replace(worker_info(name, "/data"), device=device))
    found = find("workers")
    assert (found.says, found.state) == ("3 up, article-28 on cpu (2), article-28 on gpu:0", "ok")


def test_workers_of_another_version_and_another_digest(ledger: Ledger, find: Callable[..., Finding]) -> None:
    ledger.announce(worker_info("a-1", "/data"))
    ledger.announce(replace(worker_info("a-2", "/data"), version="0.0.9", digest="sha256:" + "0" * 64))
    found = find("workers")
    assert found.state == "warning"
    versions, digests = found.warnings
    assert "worker a-2 is noisemill 0.0.9, this is" in versions
    assert "article-28 is held in 2 versions (sha256:000000000000... by 1" in digests


def test_a_job_without_a_worker(ledger: Ledger, find: Callable[..., Finding]) -> None:
    enter(ledger)
    ledger.announce(worker_info("a-1", "/data"))
    found = find("jobs")
    assert (found.says, found.state) == ("1 live, 0 running", "warning")
    assert "waits for a worker that holds tiny and may write to /data/x" in found.warnings[0]
    assert "'noisemill worker tiny --output-root /data'" in found.warnings[0]
    # One that may write elsewhere only is none.
    ledger.announce(replace(worker_info("a-2", "/other"), digest=make_spec().digest))
    assert find("jobs").state == "warning"
    ledger.announce(replace(worker_info("a-3", "/data"), digest=make_spec().digest))
    assert find("jobs").state == "ok"


def test_a_job_that_is_held_and_one_that_failed(ledger: Ledger, find: Callable[..., Finding]) -> None:
    enter(ledger)
    ledger.hold(JOB, "s3://x: the server is overloaded", patience_s=60)
    assert find("jobs").warnings == (f"job {JOB} is held: s3://x: the server is overloaded",)
    ledger.abandon(JOB, "no")
    assert find("jobs").warnings == (f"job {JOB} has failed: 'noisemill status {JOB}' says why",)


def test_many_jobs_are_not_told_one_by_one(ledger: Ledger, find: Callable[..., Finding]) -> None:
    for number in range(8):
        ledger.enter(NewJob(job_id=f"tiny-{number}", spec=make_spec(), destination=f"/data/{number}"))
    warnings = find("jobs").warnings
    assert len(warnings) == 6
    assert warnings[-1] == "and 3 more of this kind"


def test_a_schedule_that_is_late(run: Run, redis: Settings, find: Callable[..., Finding], tmp_path: Path) -> None:
    book = ScheduleBook(redis)
    book.announce("host-1")
    assert run("schedule", "add", "nightly", TINY, "out/{run}", "-n", "100", "--every", "1m").code == 0
    assert find("schedules").state == "ok"
    late = replace(book.schedules()[0], since=time.time() - 3600, added_at=time.time() - 3600)
    Redis.from_url(redis.redis_url).hset(f"{redis.key_prefix}:schedules", "nightly", late.to_json())
    [warning] = find("schedules").warnings
    assert warning.startswith("schedule nightly was due at 20")
    book.pause("nightly")
    assert find("schedules").says == "1, carried out by host-1; 1 paused"
    assert find("schedules").state == "ok"


def test_clocks_that_differ(find: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch, plain_s3: S3Server) -> None:
    # This machine's clock is imitated: another server's cannot be set.
    for name, value in plain_s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkup, "time", SimpleNamespace(time=lambda: time.time() - 120))
    expected = "clock is 120 s ahead of this machine's: let both follow an NTP server"
    assert any(warning == f"Redis's {expected}" for warning in find("redis").warnings)
    [warning] = find("storage", plain_s3.destination()).warnings
    assert warning.startswith("S3's clock is 1")
    assert warning.endswith("s ahead of this machine's: let both follow an NTP server")


def test_storage_in_s3(run: Run, redis: Settings, monkeypatch: pytest.MonkeyPatch, plain_s3: S3Server) -> None:
    for name, value in plain_s3.environment.items():
        monkeypatch.setenv(name, value)
    place = plain_s3.destination()
    prefix = place.removeprefix(f"s3://{plain_s3.bucket}/")
    outcome = run("doctor", place)
    assert outcome.code == 0
    assert f"ok      storage:    {place} can be written, read, listed and deleted from" in outcome.out
    assert plain_s3.client.list_objects_v2(Bucket=plain_s3.bucket, Prefix=prefix).get("Contents", []) == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    outcome = run("doctor", place)
    assert outcome.code == 1
    assert "problem storage:" in outcome.out
    assert "check AWS_SECRET_ACCESS_KEY" in outcome.out


def test_a_disk_that_is_nearly_full(
    find: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A full disk would need root; what the kernel says of one is imitated.
    real = os.statvfs(tmp_path)
    told: dict[str, Any] = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
    full = SimpleNamespace(**{**told, "f_frsize": 4096, "f_bavail": 1000, "f_files": 10**6, "f_favail": 7})
    monkeypatch.setattr("pipeline.fleet.doctor.os.statvfs", lambda path: full)
    found = find("storage", str(tmp_path))
    assert found.state == "warning"
    assert found.warnings[0].startswith("only 4.1 MB of")
    assert found.warnings[1].startswith("only 7 more files fit")


def test_a_redis_that_is_away_is_waited_for_once(run: Run) -> None:
    began = time.monotonic()
    outcome = run("doctor", "--redis", "redis://127.0.0.1:1/0")
    assert outcome.code == 1
    assert outcome.out.count("cannot be reached") == 1
    assert outcome.out.count("unknown while Redis does not work") == 3
    assert time.monotonic() - began < 60
