"""Hundreds of simulated workers on a job of a million shards: what the ledger can take, and what it costs.

`python -m benchmarks scale`, some three minutes; not among those that run by default. A simulated worker is a thread
that says to a real Valkey, by the real `Ledger`, what a worker says: wake-up taken, leases renewed twice a second and
twice a shard, claims, commits, announcements, and the reconciler's round. It makes nothing and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from benchmarks.sleeping_worker import GENERATOR, worker_info
from pipeline.common.settings import Settings, load_settings
from pipeline.fleet.local import private_server
from pipeline.generators import find_generator
from pipeline.jobs.broker import Wakeup, Wakeups, queue_name, read_wakeup
from pipeline.jobs.connection import connect
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from pipeline.jobs.request import JobRequest
from workers.worker.reconciler import Reconciler

_WORKERS, _PROCESSES = 200, 4
#: Fleets whose efficiency is compared, as parts of so many workers.
_FLEETS, _LARGEST = (1 / 8, 1 / 4, 1 / 2, 1.0), 800
_SHARDS = 10**6
#: Measured seconds. Before, all get going: until each has made so many shards on average, or for so many seconds.
_COUNT_S, _START_SHARDS, _START_S = 25.0, 3, 60.0
_PULSE_S, _ANNOUNCE_S = 0.5, 5.0
#: Shorter than in production, so that the loss of workers shows within the measured part.
_LEASE_S = 6.0
_DYING = 0.2
#: Between rounds of a reconciler that has but its first, seconds.
_NEVER_S = 10_000.0
_JOB = "scale"
#: Of a job that is seen through to its end while workers die.
_SMALL_JOB = 6_000
_PRIORITY = 5
_STAGES = {"noise": 0.1, "predict": 0.7, "encode": 0.1, "write": 0.2}


@dataclass
class _Load:
    """What a stretch of time cost the server."""

    shards: float
    calls: float
    #: Of one core of the server.
    busy: float
    memory_mb: float
    kilobytes_in: float
    kilobytes_out: float


def run(effort: Effort) -> Result:
    """Shards and calls per second, the server's time and memory; the loss of a fifth of the workers."""
    workers = max(8, round(_WORKERS * min(1.0, effort.share or 0.04)))
    seconds = max(2.0, _COUNT_S * effort.share)
    paced = {shard_s: _loaded(workers, shard_s, seconds) for shard_s in (10.0, 1.0)}
    alone = _loaded(workers, 1.0, seconds, reconcile_s=_NEVER_S)
    flat_out = _loaded(workers, 0.0, seconds)
    largest = max(8, round(_LARGEST * min(1.0, effort.share or 0.01)))
    fleets = {round(largest * part): _loaded(round(largest * part), 1.0, seconds) for part in _FLEETS}
    died = _deaths(workers, max(200, round(_SMALL_JOB * effort.share)))
    per_shard = flat_out.busy / flat_out.shards
    limit = 1 / per_shard
    figures = []
    for shard_s, load in paced.items():
        name = f"{workers} workers, shards of {shard_s:g} s"
        figures += [
            Figure(case=f"{name}: shards per second", unit="/s", values=[load.shards]),
            Figure(case=f"{name}: ledger calls per second", unit="/s", values=[load.calls]),
            Figure(case=f"{name}: Valkey's share of a core", unit="%", values=[100 * load.busy]),
            Figure(case=f"{name}: Valkey's memory", unit="MB", values=[load.memory_mb]),
            Figure(case=f"{name}: a million shards (extrapolated)", unit="h", values=[_SHARDS / load.shards / 3600]),
        ]
    figures += [
        Figure(
            case=f"{workers} reconcilers' share of a core of Valkey (shards of 1 s, with and without)",
            unit="%",
            values=[100 * (paced[1.0].busy - alone.busy)],
        ),
        Figure(case=f"{workers} workers, shards of no time: shards per second", unit="/s", values=[flat_out.shards]),
        Figure(case="the same: ledger calls per second", unit="/s", values=[flat_out.calls]),
        Figure(case="the same: Valkey's share of a core", unit="%", values=[100 * flat_out.busy]),
        Figure(case="the same: a million shards (extrapolated)", unit="min", values=[_SHARDS / flat_out.shards / 60]),
        Figure(case="Valkey's time for a shard", unit="us", values=[per_shard * 1e6]),
        Figure(case="one core of Valkey: shards per second (extrapolated)", unit="/s", values=[limit]),
        *_compared(fleets),
        *died,
    ]
    return Result(
        title="Two hundred workers, a million shards",
        figures=figures,
        notes=[
            (
                f"{workers} threads in {_PROCESSES} processes on the same cores as Valkey. Extrapolated figures take "
                f"the measured {seconds:g} s for all of it."
            ),
        ],
        details={
            "loads": {str(key): vars(load) for key, load in {**paced, 0.0: flat_out}.items()},
            "without reconcilers": vars(alone),
            "fleets": {str(size): vars(load) for size, load in fleets.items()},
        },
    )


def _compared(fleets: dict[int, _Load]) -> list[Figure]:
    """What fleets of several sizes make of shards of 1 s, and what a worker of each costs the server."""
    figures = []
    for workers, load in fleets.items():
        name = f"a fleet of {workers}, shards of 1 s"
        figures += [
            Figure(case=f"{name}: efficiency", unit="%", values=[100 * load.shards / workers]),
            Figure(case=f"{name}: Valkey's share of a core", unit="%", values=[100 * load.busy]),
            Figure(case=f"{name}: Valkey's share for a worker", unit="%", values=[100 * load.busy / workers]),
        ]
    return figures


def _loaded(workers: int, shard_s: float, seconds: float, reconcile_s: float | None = None) -> _Load:
    """What so many workers ask of the server while they make shards of so many seconds."""
    with ExitStack() as stack:
        settings, root = stack.enter_context(_server())
        settings = replace(settings, reconcile_s=reconcile_s or settings.reconcile_s)
        stack.enter_context(_simulated(settings, root, workers, shard_s))
        raw = connect(settings.redis_url)
        _enter(settings, root, _SHARDS, workers)
        ledger = Ledger(settings)
        _await_start(ledger, workers * _START_SHARDS)
        before, began = _counters(raw), time.perf_counter()
        done = ledger.job(_JOB).shards_done
        time.sleep(seconds)
        after, elapsed = _counters(raw), time.perf_counter() - began
        made = ledger.job(_JOB).shards_done - done
        rate = {name: (after[name] - before[name]) / elapsed for name in before}
        return _Load(
            shards=max(1, made) / elapsed,
            calls=rate["calls"],
            busy=rate["cpu"],
            memory_mb=raw.info("memory")["used_memory"] / 1e6,
            kilobytes_in=rate["in"] / 1000,
            kilobytes_out=rate["out"] / 1000,
        )


def _await_start(ledger: Ledger, enough: int) -> None:
    """Returns once so many shards are made, or after `_START_S`."""
    until = time.monotonic() + _START_S
    while ledger.job(_JOB).shards_done < enough and time.monotonic() < until:
        time.sleep(0.5)


def _deaths(workers: int, job_shards: int) -> list[Figure]:
    """A job to its end, with a fifth of its workers killed under way, against the same without."""
    seconds, lost, gap = {}, 0, 0.0
    for dying in (0.0, _DYING):
        with _server() as (settings, root), ExitStack() as stack:
            doomed = round(workers * dying)
            stack.enter_context(_simulated(settings, root, workers - doomed, 1.0))
            victims = stack.enter_context(_simulated(settings, root, doomed, 1.0, prefix="doomed"))
            _enter(settings, root, job_shards, workers)
            ledger, began, killed_at = Ledger(settings), time.perf_counter(), None
            while (job := ledger.job(_JOB)).live:
                if victims and killed_at is None and job.shards_done > job_shards / 3:
                    for process in victims:
                        process.kill()
                    killed_at = time.perf_counter()
                if killed_at is not None and job.leases_lost > lost:
                    lost, gap = job.leases_lost, time.perf_counter() - killed_at
                time.sleep(0.1)
            seconds[dying] = time.perf_counter() - began
            if job.state != "done" or job.shards_done != job_shards:
                raise RuntimeError(f"the job is {job.state} with {job.shards_done} of {job_shards} shards")
    # A third with all, the rest with four fifths.
    expected = seconds[0.0] * (1 / 3 + 2 / 3 / (1 - _DYING))
    return [
        Figure(case=f"{job_shards:,} shards of 1 s, nobody dies", unit="s", values=[seconds[0.0]]),
        Figure(case="the same, a fifth of the workers killed at a third", unit="s", values=[seconds[_DYING]]),
        Figure(case="what it took, by what fewer workers explain", values=[seconds[_DYING] / expected]),
        Figure(case="shards in their hands, made again", unit="shards", values=[float(lost)]),
        Figure(case=f"until the last was claimed again (leases of {_LEASE_S:g} s)", unit="s", values=[gap]),
    ]


@contextmanager
def _server() -> Iterator[tuple[Settings, str]]:
    with private_server() as url, folder() as root:
        yield replace(load_settings(redis_url=url), lease_s=_LEASE_S), str(root)


def _enter(settings: Settings, root: str, job_shards: int, workers: int) -> None:
    """A job in the ledger alone, and its wake-ups."""
    spec, _ = JobRequest(count=job_shards, shard_size=1).resolve(find_generator(GENERATOR))
    ledger = Ledger(settings)
    assert ledger.enter(NewJob(job_id=_JOB, spec=spec, destination=f"{root}/x", queue=QueueOptions(priority=_PRIORITY)))
    Wakeups(settings, ledger).send_missing(_JOB, spec.digest, _PRIORITY, workers=workers)


def _counters(raw: Any) -> dict[str, float]:
    """Calls of scripts, seconds of processor, bytes: since the server's start."""
    cpu, stats = raw.info("cpu"), raw.info("stats")
    calls = raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    return {
        "calls": float(calls),
        "cpu": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        "in": float(stats["total_net_input_bytes"]),
        "out": float(stats["total_net_output_bytes"]),
    }


@contextmanager
def _simulated(
    settings: Settings, root: str, workers: int, shard_s: float, prefix: str = "sim"
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many workers, spread over processes."""
    processes = []
    for number in range(_PROCESSES):
        mine = [f"{prefix}-{index}" for index in range(number, workers, _PROCESSES)]
        if not mine:
            continue
        command = [sys.executable, "-m", "benchmarks.scale", settings.redis_url, root, str(shard_s), *mine]
        environment = {**os.environ, "NOISEMILL_RECONCILE_S": str(settings.reconcile_s)}
        processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


class _Simulated:
    """One worker, without anything to make."""

    def __init__(self, settings: Settings, root: str, name: str, shard_s: float) -> None:
        self._settings, self._shard_s = settings, shard_s
        self._ledger = Ledger(settings)
        self._wakeups = Wakeups(settings, self._ledger)
        self._info = worker_info(name, root)
        self._numbers = itertools.count()
        self._announced = 0.0
        #: Workers that have been at it for a while are not in step, so the first shard takes a random part of its time.
        self._part_s = shard_s * random.random()

    def work(self) -> None:
        """Wake-ups as they come, until the process is ended."""
        self._announce()
        Reconciler(self._ledger, self._wakeups, self._info.id, self._settings.reconcile_s).start()
        raw: Any = connect(self._settings.redis_url)
        # The list of the priority that the job has, as kombu names it.
        queue = f"{self._settings.key_prefix}:celery:{queue_name(self._info.digest)}\x06\x16{_PRIORITY}"
        while True:
            self._announce()
            if message := raw.brpop(queue, timeout=1):
                self._take(read_wakeup(json.loads(message[1])))

    def _take(self, wakeup: Wakeup) -> None:
        holder = f"{self._info.id}/{next(self._numbers)}"
        if self._ledger.take_wakeup(wakeup.job, wakeup.token, wakeup.serial, holder):
            again = self._slice(wakeup, holder)
            serial = self._ledger.return_wakeup(wakeup.job, wakeup.token, holder, again=again)
            if serial is not None:
                self._wakeups.send(wakeup.job, self._info.digest, _PRIORITY, wakeup.token, serial)

    def _announce(self) -> None:
        if time.monotonic() - self._announced > _ANNOUNCE_S:
            self._ledger.announce(self._info)
            self._announced = time.monotonic()

    def _slice(self, wakeup: Wakeup, holder: str) -> bool:
        until = time.monotonic() + self._settings.slice_s
        while time.monotonic() < until:
            claim = self._ledger.claim(wakeup.job, self._info.id)
            if not isinstance(claim, Claim):
                return False
            if claim.shard < 0:
                self._ledger.finish(wakeup.job, claim)
                return False
            self._make(wakeup, claim, holder)
            self._announce()
        return True

    def _make(self, wakeup: Wakeup, claim: Claim, holder: str) -> None:
        """As long as a shard takes, with the pulse; then the two questions whether the lease still holds."""
        ready = time.monotonic() + self._part_s
        self._part_s = self._shard_s * random.uniform(0.9, 1.1)
        held = {claim.shard: (claim.fence, 0)}
        while (left := ready - time.monotonic()) > 0:
            time.sleep(min(left, _PULSE_S))
            self._ledger.renew(wakeup.job, held, token=wakeup.token, holder=holder)
        for _ in range(2):
            self._ledger.renew(wakeup.job, held, token=wakeup.token, holder=holder)
        self._ledger.commit(wakeup.job, claim, samples=1, size_bytes=3136, stage_seconds=_STAGES)


def main(arguments: list[str]) -> None:
    """Simulated workers, until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("root")
    parser.add_argument("shard_s", type=float)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args(arguments)
    settings = replace(load_settings(redis_url=options.redis_url), lease_s=_LEASE_S)
    for name in options.names:
        worker = _Simulated(settings, options.root, name, options.shard_s)
        threading.Thread(target=worker.work, daemon=True).start()
    print(json.dumps({"up": len(options.names)}), flush=True)
    sys.stdin.read()  # Its end is the end of who started this.


if __name__ == "__main__":
    main(sys.argv[1:])
