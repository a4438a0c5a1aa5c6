"""Real workers as processes on a real Valkey, and the command line as users call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TINY = str(Path(__file__).parents[1] / "data" / "tiny.keras")

#: Short, so that tests of what takes a lease or a slice do not take minutes.
FAST = {"NOISEMILL_SLICE_S": "2", "NOISEMILL_LEASE_S": "3", "NOISEMILL_RECONCILE_S": "0.5"}


@dataclass
class Worker:
    """One worker: its parent process, and the child that it starts."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def child(self) -> int:
        """Process id of the child that holds TensorFlow."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return next(pid for pid, command in commands.items() if b"workers.worker.child" in command)

    @property
    def id(self) -> str:
        """Its id, as it announces it; while it is up."""
        variables = Path(f"/proc/{self.child}/environ").read_bytes().split(b"\0")
        return next(each.partition(b"=")[2].decode() for each in variables if each.startswith(b"NOISEMILL_WORKER_ID="))

    def kill(self) -> None:
        """As the kernel does when memory is short, or a machine that loses power."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 600) -> int:
        """SIGTERM; answers the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")


@dataclass
class Fleet:
    """A key prefix of its own on a Valkey, with workers and a command line that use it."""

    folder: Path
    environment: dict[str, str]
    workers: list[Worker] = field(default_factory=list)

    def run(self, *arguments: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a noisemill command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        done = self.run(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def submit(self, *arguments: str) -> str:
        """Queues a job; answers its id."""
        done = self.run("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start_worker(
        self,
        generator: str = TINY,
        *arguments: str,
        ready: bool = True,
        roots: Sequence[str | Path] = (),
        **environment: str,
    ) -> Worker:
        """Starts a worker that may write below `roots`, else anywhere in the fleet's folder; waits till it is up."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [sys.executable, "-m", "pipeline.cli", "worker", generator]
        command += [part for root in roots or [self.folder] for part in ("--output-root", str(root))]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *arguments],
                env={**self.environment, **environment},
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        if ready:
            self.wait_until(lambda: self.is_up(worker), timeout_s=600, told=worker.said)
        return worker

    def is_up(self, worker: Worker) -> bool:
        """Whether the worker announces itself. Raises AssertionError if it has ended."""
        assert worker.process.poll() is None, worker.said()
        return any(one["pid"] == worker.process.pid for one in self.json("workers"))

    def wait_until(self, true: Callable[[], object], timeout_s: float = 600, told: Callable[[], str] = str) -> float:
        """Waits for something to become true; answers how long that took, in seconds."""
        start = time.monotonic()
        while not true():
            assert time.monotonic() - start < timeout_s, f"waited {timeout_s} s; {told()}"
            time.sleep(0.1)
        return time.monotonic() - start

    def watch(self, *jobs: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Waits until jobs have ended."""
        return self.run("watch", *jobs, timeout_s=timeout_s)

    def start_watching(self, job: str) -> subprocess.Popen[str]:
        """`watch` as a process, once it has seen the job."""
        command = [sys.executable, "-m", "pipeline.cli", "watch", job]
        process = subprocess.Popen(
            command, env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert job in process.stderr.readline()
        return process

    def stop(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.terminate()
        for worker in self.workers:
            try:
                worker.process.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()


@contextmanager
def one_worker(folder: Path, environment: dict[str, str]) -> Iterator[Fleet]:
    """A fleet of one worker, which is up."""
    fleet = Fleet(folder, environment)
    worker = fleet.start_worker(ready=False)
    fleet.wait_until(lambda: fleet.is_up(worker), timeout_s=600, told=worker.said)
    yield fleet
    fleet.stop()


def environment(redis_url: str, prefix: str, cache: Path, **more: str) -> dict[str, str]:
    """The environment of one fleet."""
    own = {"NOISEMILL_REDIS_URL": redis_url, "NOISEMILL_KEY_PREFIX": prefix, "NOISEMILL_CACHE_DIR": str(cache)}
    return {**os.environ, **FAST, **own, **more}
