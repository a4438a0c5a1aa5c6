"""Many workers on one job, and several jobs on a few workers; devices are imitated by sleeping."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from benchmarks.sleeping_worker import GENERATOR
from pipeline.common.settings import Settings, load_settings
from pipeline.datasets.destination import prepare
from pipeline.fleet.local import private_server
from pipeline.generators import find_generator
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger, QueueOptions
from pipeline.jobs.queueing import enqueue
from pipeline.jobs.request import JobRequest

_WORKERS, _SHARING = 16, 8
#: Workers in a process: more would wait for each other's interpreter.
_PER_PROCESS = 4
#: A shard takes a second of the device.
_SHARD, _SAMPLE_S = 512, 1 / 512
_SHARDS_EACH = 30
#: Of the jobs that share: a quarter of a second a shard, slices of two seconds instead of twenty.
_SMALL_SHARD, _SHORT_SLICE_S = 128, 2.0
_SHARE_S = 24.0
_PRIORITIES = (0, 3, 6, 9)


def run(effort: Effort) -> Result:
    """Efficiency of 16 workers; shares of 4 jobs on 8 workers."""
    efficiencies = [_efficiency(effort, number) for number in range(effort.rounds)]
    equal = [_shares(effort, (5, 5, 5, 5)) for _ in range(effort.rounds)]
    urgent = [_shares(effort, _PRIORITIES) for _ in range(effort.rounds)]
    figures = [
        Figure(case=f"{_WORKERS} workers, shards of 1 s: efficiency", values=efficiencies, reach=0.95),
        Figure(case="4 equal jobs, 8 workers: Jain's index", values=[_jain(shares) for shares in equal], reach=0.95),
        Figure(case="4 equal jobs, 8 workers: least share by largest", values=[_extremes(shares) for shares in equal]),
    ]
    for position, priority in enumerate(_PRIORITIES):
        values = [shares[position] for shares in urgent]
        figures.append(Figure(case=f"priorities 0, 3, 6, 9: share of priority {priority}", values=values))
    return Result(
        title="Many workers, several jobs",
        figures=figures,
        notes=[
            (
                "Efficiency: seconds of device that the shards need, by workers times seconds until the job was done, "
                "manifest and all."
            ),
            (
                "Shares: of the samples that were made within a while in which all four jobs had work, in slices of "
                f"{_SHORT_SLICE_S:g} s. Jain's index is 1 where all have the same, 0.25 where one has everything. The "
                "most urgent job comes first, always: others get what it leaves."
            ),
        ],
    )


def _jain(shares: Sequence[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1.0)


def _extremes(shares: Sequence[float]) -> float:
    return min(shares) / max(shares) if max(shares) else 0.0


def _efficiency(effort: Effort, seed: int) -> float:
    each = max(2, round(_SHARDS_EACH * effort.share))
    with _fleet(_WORKERS, slice_s=20.0) as (settings, place):
        job_shards = each * _WORKERS
        job = _submit(settings, place, job_shards, _SHARD, seed=seed, priority=5)
        ledger = Ledger(settings)
        while (state := ledger.job(job)).live:
            time.sleep(0.05)
        _raise_unless_done(state)
        assert state.running_at is not None
        assert state.ended_at is not None
        return each * _SHARD * _SAMPLE_S / (state.ended_at - state.running_at)


def _shares(effort: Effort, priorities: Sequence[int]) -> list[float]:
    """What part of all samples each job got within a while, from when work began."""
    seconds = max(4.0, _SHARE_S * effort.share)
    plenty = round(seconds / (_SMALL_SHARD * _SAMPLE_S)) * _SHARING * 2
    with _fleet(_SHARING, slice_s=_SHORT_SLICE_S) as (settings, place):
        # The least urgent is first in the queue: what comes first is not what comes first.
        jobs = {}
        for number, priority in reversed(list(enumerate(priorities))):
            jobs[number] = _submit(settings, place, plenty, _SMALL_SHARD, seed=number, priority=priority)
        ledger = Ledger(settings)
        time.sleep(2 * _SHORT_SLICE_S)  # Whoever was first had all workers for a slice.
        before = _made(ledger, jobs)
        time.sleep(seconds)
        made = [after - earlier for after, earlier in zip(_made(ledger, jobs), before, strict=True)]
        for job in jobs.values():
            ledger.cancel(job)
    return [each / max(1, sum(made)) for each in made]


def _made(ledger: Ledger, jobs: Mapping[int, str]) -> list[int]:
    return [ledger.job(jobs[number]).samples_made for number in sorted(jobs)]


def _submit(settings: Settings, place: Path, job_shards: int, size: int, *, seed: int, priority: int) -> str:
    request = JobRequest(count=job_shards * size, shard_size=size, seed=seed)
    spec, uploads = request.resolve(find_generator(GENERATOR))
    store = prepare(spec, place / f"job-{seed}", uploads)
    return enqueue(spec, store.url, Ledger(settings), QueueOptions(priority=priority)).id


@contextmanager
def _fleet(workers: int, slice_s: float) -> Iterator[tuple[Settings, Path]]:
    """So many workers that are up, and a folder that they may write to."""
    with private_server() as url, folder() as place, ExitStack() as stack:
        settings = load_settings(redis_url=url)
        for first in range(0, workers, _PER_PROCESS):
            names = [f"here-{number}" for number in range(first, min(first + _PER_PROCESS, workers))]
            stack.enter_context(_process(url, place, names, slice_s))
        ledger, deadline = Ledger(settings), time.monotonic() + 120
        while len(ledger.workers()) < workers:
            if time.monotonic() > deadline:
                raise RuntimeError("the workers did not start")
            time.sleep(0.1)
        yield settings, place


@contextmanager
def _process(url: str, place: Path, names: Sequence[str], slice_s: float) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.sleeping_worker", url, str(place), *names]
    command += ["--sample-s", str(_SAMPLE_S), "--slice-s", str(slice_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _raise_unless_done(job: Job) -> None:
    if job.state != "done":
        raise RuntimeError(f"{job.id} is {job.state}: {job.error or job.errors}")
