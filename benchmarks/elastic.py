"""Workers that come with the queue, are taken away at random, and go: what that costs.

`python -m benchmarks elastic`, two minutes; not among those that run by default. The rule is that of KEDA in
deploy/kubernetes/elastic: as many workers as `noisemill_workers_wanted` says, read from the scheduler's own collector.
Workers are processes of their own whose device is imitated by sleeping (`sleeping_worker`); taken away means SIGTERM.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from benchmarks.sleeping_worker import GENERATOR
from pipeline.common.settings import Settings, load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import prepare
from pipeline.fleet.local import private_server
from pipeline.generators import find_generator
from pipeline.jobs.connection import connect
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.queueing import enqueue
from pipeline.jobs.request import JobRequest
from pipeline.schedules.book import ScheduleBook
from workers.telemetry.metrics_server import SchedulerCollector

_MOST_WORKERS = 6
#: A shard takes two seconds of the device.
_SHARD, _SAMPLE_S = 512, 1 / 256
_SHARDS = (60, 30)
#: When the second job comes, and how often a worker is taken away, seconds.
_SECOND_S, _TAKEN_S = 15.0, 5.0
_POLL_S, _COOLDOWN_S = 1.0, 5.0
_LOOK_S = 0.05


@dataclass
class _Machine:
    """One worker's process."""

    name: str
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None


@dataclass
class _Taken:
    """Shards of a worker that is taken away, until others have them."""

    at: float
    worker: str
    shards: set[tuple[str, str]]


class _Fleet:
    """Starts and ends workers by the metric, and takes them away at random."""

    def __init__(self, settings: Settings, place: Path, most: int) -> None:
        self._settings, self._place, self._most = settings, place, most
        self._ledger, self._raw = Ledger(settings), connect(settings.redis_url)
        self._collector = SchedulerCollector(ScheduleBook(settings), lambda: True)
        self._idle_since: float | None = None
        self._taken: list[_Taken] = []
        self.machines: list[_Machine] = []
        self.jobs: list[str] = []
        #: Seconds from SIGTERM until another worker had each shard, and until the process had ended.
        self.gaps: list[float] = []
        self.exits: list[float] = []
        self._leaving: dict[str, float] = {}

    @property
    def up(self) -> list[_Machine]:
        """Those that have not been told to go."""
        return [each for each in self.machines if each.ended is None and each.name not in self._leaving]

    def wanted(self) -> int:
        """The metric, as Prometheus would read it."""
        for family in self._collector.collect():
            if family.name == "noisemill_workers_wanted":
                return int(sum(sample.value for sample in family.samples))
        return 0

    def scale(self) -> None:
        """KEDA's rule: as many as wanted, none after a while in which none was."""
        now, wanted = time.monotonic(), self.wanted()
        if wanted:
            self._idle_since = None
            for _ in range(min(wanted, self._most) - len(self.up)):
                self._start()
        else:
            self._idle_since = self._idle_since or now
            if now - self._idle_since > _COOLDOWN_S:
                for machine in self.up:
                    self._send_away(machine)

    def take_one(self, seed: random.Random) -> None:
        """Takes a worker that is at work away, as a spot machine is."""
        held = self._held()
        working = [machine for machine in self.up if machine.name in held.values()]
        if working:
            machine = seed.choice(working)
            mine = {shard for shard, worker in held.items() if worker == machine.name}
            self._taken.append(_Taken(time.monotonic(), machine.name, mine))
            self._send_away(machine)

    def look(self) -> None:
        """Notes who has ended, and whose shards others have."""
        now = time.monotonic()
        for machine in self.machines:
            if machine.ended is None and machine.process.poll() is not None:
                machine.ended = now
                self.exits.append(now - self._leaving.get(machine.name, now))
        held = self._held() if self._taken else {}
        for taken in self._taken:
            gone = {
                shard for shard in taken.shards if held.get(shard, "") not in ("", taken.worker) or self._done(*shard)
            }
            taken.shards -= gone
            self.gaps += [now - taken.at] * len(gone)
        self._taken = [taken for taken in self._taken if taken.shards]

    def end(self) -> None:
        """Ends all, whatever happens."""
        for machine in self.machines:
            machine.process.kill()
            machine.process.wait()
            assert machine.process.stdin is not None
            machine.process.stdin.close()

    def _start(self) -> None:
        name = f"spot-{len(self.machines)}"
        command = [sys.executable, "-m", "benchmarks.sleeping_worker", self._settings.redis_url, str(self._place), name]
        command += ["--sample-s", str(_SAMPLE_S), "--slice-s", "20"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.machines.append(_Machine(name, process))

    def _send_away(self, machine: _Machine) -> None:
        self._leaving[machine.name] = time.monotonic()
        machine.process.send_signal(signal.SIGTERM)

    def _held(self) -> dict[tuple[str, str], str]:
        """Job and shard -> the worker that has it."""
        found = {}
        for job in self.jobs:
            holders = self._raw.hgetall(f"{self._settings.key_prefix}:job:{job}:holders")
            for shard, holder in holders.items():
                if shard != "-1":
                    found[job, str(shard)] = str(holder).partition("|")[2]
        return found

    def _done(self, job: str, shard: str) -> bool:
        return bool(self._raw.getbit(f"{self._settings.key_prefix}:job:{job}:done", int(shard)))


def run(effort: Effort) -> Result:
    """Two jobs, workers by the metric, one taken away every few seconds; then none."""
    shards = [max(6, round(each * effort.share)) for each in _SHARDS]
    most = _MOST_WORKERS if effort.share >= 1 else 2
    seed, began = random.Random(1), time.monotonic()
    with private_server() as url, folder() as place:
        settings = load_settings(redis_url=url)
        ledger, fleet = Ledger(settings), _Fleet(settings, place, most)
        fleet.scale()
        assert not fleet.machines, "workers came while there was nothing to do"
        fleet.jobs.append(_submit(settings, place, shards[0], 0))
        next_poll = time.monotonic()
        next_taken = next_poll + _TAKEN_S
        try:
            while len(fleet.jobs) < len(shards) or fleet.wanted() or any(each.ended is None for each in fleet.machines):
                now = time.monotonic()
                if len(fleet.jobs) < len(shards) and now - began > _SECOND_S * min(1.0, effort.share * 4):
                    fleet.jobs.append(_submit(settings, place, shards[1], 1))
                if now > next_poll:
                    fleet.scale()
                    next_poll = now + _POLL_S
                if now > next_taken:
                    fleet.take_one(seed)
                    next_taken = now + _TAKEN_S * seed.uniform(0.7, 1.3)
                fleet.look()
                time.sleep(_LOOK_S)
        finally:
            fleet.end()
        states = [ledger.job(job) for job in fleet.jobs]
        for number, state in enumerate(states):
            if state.state != "done" or not Dataset(place / f"job-{number}").whole:
                raise RuntimeError(f"{state.id} is {state.state}: {state.error or state.errors}")
        lost = sum(state.leases_lost for state in states)
    device_s = sum(shards) * _SHARD * _SAMPLE_S
    worker_s = sum((each.ended or each.began) - each.began for each in fleet.machines)
    taken = len(fleet.gaps)
    return Result(
        title="Workers that come and go",
        figures=[
            Figure(case="worker seconds paid", unit="s", values=[worker_s]),
            Figure(case="device seconds that the samples need", unit="s", values=[device_s]),
            Figure(case="device seconds by worker seconds", unit="%", values=[100 * device_s / worker_s]),
            Figure(case=f"workers started, at most {most} at a time", unit="workers", values=[len(fleet.machines)]),
            Figure(case="shards in the hands of workers that were taken away", unit="shards", values=[taken]),
            Figure(
                case="from SIGTERM until another worker had the shard", unit="s", values=fleet.gaps or [0.0],
                reach=10.0, smaller_is_better=True,
            ),
            Figure(case="from SIGTERM to the process's end", unit="s", values=fleet.exits or [0.0], reach=30.0,
                   smaller_is_better=True),
            Figure(case="leases that expired", unit="leases", values=[lost]),
        ],
        notes=[
            (
                f"{len(shards)} jobs of {shards[0]} and {shards[1]} shards of {_SHARD * _SAMPLE_S:g} s; a worker is "
                f"taken away every {_TAKEN_S:g} s; workers go after {_COOLDOWN_S:g} s without work. A worker's start "
                "takes the import of noisemill without TensorFlow, which takes 5 to 10 s more."
            ),
        ],
    )  # fmt: skip


def _submit(settings: Settings, place: Path, job_shards: int, number: int) -> str:
    request = JobRequest(count=job_shards * _SHARD, shard_size=_SHARD, seed=number)
    spec, uploads = request.resolve(find_generator(GENERATOR))
    store = prepare(spec, place / f"job-{number}", uploads)
    return enqueue(spec, store.url, Ledger(settings)).id
