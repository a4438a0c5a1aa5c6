"""`noisemill top`: one look as text and JSON, the screen at 80x24, and a run in a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli.top import _view
from pipeline.common.settings import Settings
from pipeline.fleet.overview import FleetMonitor, FleetState, WorkerRates
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from pipeline.jobs.worker_info import WorkerInfo
from tests.cli.running import Run
from tests.making import make_spec

SPEC = make_spec(count=1000, shard_size=100)


def worker(number: int, **changes: object) -> WorkerInfo:
    plain = WorkerInfo(
        id=f"a-host-of-a-long-name-{number}-{1000 + number}", host="host", pid=1, generator="tiny", digest=SPEC.digest,
        latent_shape=(8,), sample_shape=(8, 8, 1), classes=None, device="gpu:0", engine="xla", batch=256, rate=1.0,
        output_roots=("/data",), started_at=0.0, version="1", samples=100, up_s=10.0,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def fleet(redis: Settings) -> Ledger:
    """A job that runs, one of a schedule that waits, one that nobody may write, one that has ended; a worker."""
    ledger = Ledger(redis)
    places = {"ended": "/data/e", "waits": "/data/w", "stuck": "/elsewhere/s", "runs": "/data/r"}
    for name, place in places.items():
        schedule = "nightly" if name == "waits" else None
        ledger.enter(NewJob(job_id=name, spec=SPEC, destination=place, queue=QueueOptions(schedule=schedule)))
    ledger.cancel("ended")
    claim = ledger.claim("runs", "w")
    assert isinstance(claim, Claim)
    ledger.commit("runs", claim, samples=250, size_bytes=1, stage_seconds={})
    ledger.announce(worker(1, job="runs"))
    return ledger


def screen(state: FleetState, *, width: int = 80, height: int = 24, trouble: str = "") -> list[str]:
    rates = WorkerRates()
    rates.take(state)
    file = io.StringIO()
    Console(file=file, width=width, height=height, color_system=None).print(_view(state, rates, height, trouble))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    return lines


def test_one_look_as_text(fleet: Ledger, run: Run) -> None:
    outcome = run("top")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("3 live jobs, 1 of 1 workers busy, 0 wake-ups waiting")
    rows = [line.split() for line in lines[3:7]]
    assert [row[0] for row in rows] == ["runs", "waits", "stuck", "ended"] or [row[0] for row in rows] == [
        "runs", "stuck", "waits", "ended",
    ]  # fmt: skip
    told = {row[0]: row for row in rows}
    assert told["runs"][1:4] == ["running", "5", "25%"]
    assert (told["waits"][1], told["waits"][-1]) == ("queued", "nightly")
    assert told["stuck"][1:3] == ["no", "worker"]
    assert told["ended"][1] == "cancelled"
    assert lines[-1].split() == ["a-host-of-a-long-name-1-1001", "gpu:0", "tiny", "256", "-", "runs"]


def test_one_look_as_json(fleet: Ledger, run: Run) -> None:
    document = json.loads(run("top", "--json").out)
    assert {job["id"] for job in document["jobs"]} == {"runs", "waits", "stuck", "ended"}
    assert [one["job"] for one in document["workers"]] == ["runs"]
    assert document["queues"] == {SPEC.digest: 0}
    assert document["rate"] > 0


def test_nothing_there(redis: Settings, run: Run) -> None:
    outcome = run("top")
    assert outcome.code == 0
    assert "no jobs" in outcome.out
    assert "no workers are up" in outcome.out
    lines = screen(FleetMonitor(redis).read())
    assert "no jobs" in lines
    assert "no workers are up" in lines


def test_a_hundred_of_each_fit_a_small_terminal(fleet: Ledger, redis: Settings) -> None:
    state = FleetMonitor(redis).read()
    jobs = [replace(state.jobs[0], id=f"fashion-{number:010x}") for number in range(100)]
    crowd = replace(
        state, jobs=jobs, workers=[worker(number, job="x" if number == 77 else None) for number in range(100)]
    )
    lines = screen(crowd, trouble="Redis cannot be reached")
    assert lines[1] == "Redis cannot be reached"
    assert any(line.endswith("more jobs") for line in lines)
    assert lines[-1].endswith("more workers")
    # Who works comes before who waits.
    first = next(position for position, line in enumerate(lines) if line.startswith("WORKER")) + 1
    assert lines[first].startswith("a-host-of-a-long-name")
    assert lines[first].endswith(" x")
    # What one half does not need, the other has.
    few = screen(replace(crowd, workers=crowd.workers[:2]))
    assert sum("fashion-" in line for line in few) > sum("fashion-" in line for line in lines)
    assert screen(crowd, width=40, height=8)


def test_a_worker_s_rate_is_what_it_made_of_late(redis: Settings) -> None:
    rates = WorkerRates()
    empty = FleetState(jobs=[], workers=[], queues={})
    for up_s, samples in ((10.0, 100), (15.0, 1100), (15.0, 1100), (20.0, 2100)):
        rates.take(replace(empty, workers=[worker(1, up_s=up_s, samples=samples)]))
    assert rates.of(worker(1)) == 200
    rates.take(replace(empty, workers=[worker(1, up_s=1.0, samples=0)]))
    assert rates.of(worker(1)) is None


@pytest.mark.parametrize("interval", ["0", "x", "nan", "-1", "1e9"])
def test_an_interval_that_is_none(redis: Settings, run: Run, interval: str) -> None:
    outcome = run("top", "--interval", interval)
    assert outcome.code == 2
    assert "is not a number of seconds from 0.2 to 3600" in outcome.err


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_in_a_terminal(fleet: Ledger, redis: Settings, tmp_path: Path, key: bytes) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "top", "--interval", "0.2"],
        env=environment, stdin=follower, stdout=follower, stderr=follower,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(follower)
    said = b""
    deadline = time.monotonic() + 60
    while b"nightly" not in said and time.monotonic() < deadline:
        said += os.read(leader, 65536)
    os.write(leader, key)
    while True:
        try:
            said += os.read(leader, 65536)
        except OSError:  # The other end is closed.
            break
    assert process.wait(600) == 0
    os.close(leader)
    assert b"\x1b[?1049h" in said
    assert said.rindex(b"\x1b[?1049l") > said.rindex(b"nightly")  # The screen is as it was before.
    assert b"Traceback" not in said
