"""A fleet with a scheduler, on a Valkey of its own that writes what it holds to disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from pipeline.common.settings import Settings
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.schedule import Run
from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.servers import Valkey

#: Of all keys of a fleet.
PREFIX = "test"


@dataclass
class Scheduler:
    """`noisemill scheduler`: the process that supervises, and the one that it starts."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def child(self) -> int | None:
        """Process id of the one that does the work; None while there is none."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(listed[0]) if listed else None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(600)


@dataclass
class ScheduledFleet(Fleet):
    """A fleet whose schedules are carried out."""

    schedulers: list[Scheduler] = field(default_factory=list)

    def start_scheduler(self, *arguments: str, active: bool = True) -> Scheduler:
        """Starts a scheduler; waits until it is the active one."""
        log = self.folder / f"scheduler-{len(self.schedulers)}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "pipeline.cli", "scheduler", *arguments]
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=output, stderr=output)
        scheduler = Scheduler(process, log)
        self.schedulers.append(scheduler)
        told = "this scheduler is active" if active else "the scheduler is up"
        self.wait_until(lambda: told in scheduler.said(), told=scheduler.said)
        return scheduler

    def schedule(self, name: str, *arguments: str) -> None:
        """Adds a schedule of the tiny generator."""
        done = self.run("schedule", "add", name, TINY, *arguments)
        assert done.returncode == 0, done.stderr

    @cached_property
    def book(self) -> ScheduleBook:
        """The book that the processes share; a look at it costs no process."""
        return ScheduleBook(Settings(redis_url=self.environment["NOISEMILL_REDIS_URL"], key_prefix=PREFIX))

    def runs(self, name: str) -> list[Run]:
        """The runs of a schedule so far."""
        return self.book.runs(name)

    def wait_for_runs(self, name: str, count: int, *states: str, timeout_s: float = 600) -> None:
        """Waits for so many runs in these states."""
        wanted = states or ("done", "removed")
        self.wait_until(
            lambda: sum(run.state in wanted for run in self.runs(name)) >= count,
            timeout_s,
            told=lambda: "\n".join(one.said() for one in self.schedulers),
        )

    def stop(self) -> None:
        for scheduler in self.schedulers:
            if scheduler.process.poll() is None:
                scheduler.stop()
        super().stop()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all, so that only the first worker calibrates."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with Valkey(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def scheduled_fleet(tmp_path: Path, own_valkey: Valkey, cache: Path) -> Iterator[ScheduledFleet]:
    fleet = ScheduledFleet(tmp_path, environment(own_valkey.url, PREFIX, cache, NOISEMILL_WEBHOOK_SECRET="geheim"))
    yield fleet
    fleet.stop()
