"""What a user waits for beside the forward pass, and what a worker costs that has nothing to do."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.common.settings import Settings, load_settings
from pipeline.datasets.destination import prepare
from pipeline.fleet.launch import WorkerConfig
from pipeline.fleet.local import private_server
from pipeline.generators import find_generator
from pipeline.jobs.following import wait_for
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.queueing import enqueue
from pipeline.jobs.request import JobRequest
from tests.servers import RcloneS3, S3Server

GENERATOR = "fashion"
_GENERATE_SAMPLES = 10_000
_JOB_SAMPLES = 4_000
#: Samples of a job that takes nearly no time itself.
_SHORT = 100
#: What such commands are called, by the key of their seconds.
_SHORT_COMMANDS = {
    "generate": f"`generate` of {_SHORT}",
    "s3": f"`generate` of {_SHORT} to S3",
    "sample": "`sample`",
    "verify": "`verify --recompute 5`",
}
_IDLE_S = 15.0
_START_S = 120.0


def run(effort: Effort) -> Result:
    """Seconds of `--help`, of `generate` beside its forward pass, between two jobs; what an idle worker takes."""
    helps = [_command("--help")[0] for _ in range(2 * effort.rounds + 1)][1:]
    _import_tensorflow()  # Into the system's cache of files.
    with (
        folder() as place,
        RcloneS3() as server,
        mock.patch.dict(os.environ, NOISEMILL_CACHE_DIR=str(place / "cache")),
    ):
        generated = [_generate(place / str(number), effort) for number in range(effort.rounds + 1)]
        again = _command("generate", GENERATOR, str(place / "0"), "--count", str(generated[0]["samples"]))[0]
        short = [_short(place / f"short-{number}", server) for number in range(2 * effort.rounds + 1)][1:]
    idle, idle_gaps = _warm_worker(effort)
    later = generated[1:]
    figures = [
        _seconds("`noisemill --help`", helps, reach=0.25),
        _seconds("`generate`, first time: to the first batch, with calibration", [generated[0]["until_first"]]),
        _seconds("`generate`: to the first batch", [each["until_first"] for each in later]),
        _seconds("`generate`: beside the forward pass, in all", [each["beside"] for each in later]),
        _seconds("`generate`, all there already", [again]),
        _seconds("`import tensorflow`, before each of the following", [each["import"] for each in short]),
        _seconds(f"`generate` of {_SHORT}, in all", [each["generate"] for each in short]),
        *(
            _seconds(f"{name}, more than the import", [each[key] - each["import"] for each in short], reach=1.5)
            for key, name in _SHORT_COMMANDS.items()
        ),
        _seconds("device idle between two queued jobs, on a warm worker", idle_gaps, reach=0.05),
        Figure(case="idle worker: share of a core", unit="%", values=idle, reach=1.0, smaller_is_better=True),
    ]
    return Result(
        title="What else takes time",
        figures=figures,
        notes=[
            f"`generate {GENERATOR} OUT --count {generated[0]['samples']}`; most of it is TensorFlow's start.",
            "Between two jobs: from one's first claim to the next one's, less the seconds of the forward pass.",
            "In it the next wake-up is taken; the job before is finished beside the next one's first batches.",
        ],
        details={"generate": generated, "short": short},
    )


def _seconds(case: str, values: list[float], reach: float | None = None) -> Figure:
    return Figure(case=case, unit="s", values=values, reach=reach, smaller_is_better=reach is not None)


def _command(*arguments: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stdout


def _generate(destination: Path, effort: Effort) -> dict[str, Any]:
    samples = effort.samples(_GENERATE_SAMPLES)
    began = time.time()
    seconds, out = _command("generate", GENERATOR, str(destination), "--count", str(samples), "--json")
    job = json.loads(out)["job"]
    predict = job["stage_seconds"]["predict"]
    return {
        "samples": samples,
        "seconds": seconds,
        "until_first": job["running_at"] - began,
        "predict": predict,
        "beside": seconds - predict,
    }


def _short(destination: Path, server: S3Server) -> dict[str, float]:
    """Seconds of TensorFlow's import alone, and of short commands right after it."""
    alone = _import_tensorflow()
    count = ("--count", str(_SHORT))
    with mock.patch.dict(os.environ, server.environment):
        return {
            "import": alone,
            "generate": _command("generate", GENERATOR, str(destination), *count)[0],
            "s3": _command("generate", GENERATOR, server.destination(), *count)[0],
            "sample": _command("sample", GENERATOR, "--output", f"{destination}.png")[0],
            "verify": _command("verify", str(destination), "--recompute", "5")[0],
        }


def _import_tensorflow() -> float:
    """Seconds of the import, in a process of its own."""
    start = time.perf_counter()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def _warm_worker(effort: Effort) -> tuple[list[float], list[float]]:
    """Percent of a core that an idle worker uses; of jobs that wait for it in the queue, for each but the last:

    how long the device stood idle until the next one's turn, seconds.
    """
    with folder() as place, private_server() as url:
        settings = replace(load_settings(redis_url=url), cache_dir=place / "cache")
        ledger = Ledger(settings)
        with _worker(settings, place) as pid:
            _wait_for_worker(ledger)
            idle_s = max(1.0, _IDLE_S * effort.share)
            before = _processor_seconds(pid)
            time.sleep(idle_s)
            idle = 100 * (_processor_seconds(pid) - before) / idle_s
            jobs = _jobs(ledger, place, effort)
    pairs = list(itertools.pairwise(sorted(jobs, key=lambda job: job.running_at or 0.0)))
    device_idle = [
        (later.running_at or 0.0) - (earlier.running_at or 0.0) - earlier.stage_seconds["predict"]
        for earlier, later in pairs
    ]
    return [idle], device_idle


@contextmanager
def _worker(settings: Settings, place: Path) -> Iterator[int]:
    """A worker as `noisemill worker` runs it; gives its process id."""
    config = WorkerConfig(generator=GENERATOR, redis_url=settings.redis_url, output_roots=(str(place),), embedded=True)
    environment = config.environment({**os.environ, "NOISEMILL_CACHE_DIR": str(settings.cache_dir)})
    with (place / "worker.log").open("wb") as log:
        process = subprocess.Popen(config.command(), env=environment, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def _wait_for_worker(ledger: Ledger) -> None:
    deadline = time.monotonic() + _START_S
    while not ledger.workers():
        if time.monotonic() > deadline:
            raise RuntimeError("the worker did not start")
        time.sleep(0.2)
    time.sleep(2)  # What it does once after its start is over.


def _jobs(ledger: Ledger, place: Path, effort: Effort) -> list[Job]:
    """This number of jobs, all queued at once; returns when they are done."""
    generator = find_generator(GENERATOR)
    handles = []
    for number in range(effort.rounds + 1):
        spec, uploads = JobRequest(count=effort.samples(_JOB_SAMPLES), seed=number).resolve(generator)
        store = prepare(spec, place / f"job-{number}", uploads)
        handles.append(enqueue(spec, store.url, ledger))
    return [wait_for(ledger, handle.id, timeout_s=600) for handle in handles]


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and all that it started."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended meanwhile.
            continue
        number = int(path.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(ticks.get(member, 0) for member in family) / os.sysconf("SC_CLK_TCK")
