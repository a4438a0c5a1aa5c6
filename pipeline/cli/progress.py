"""Progress on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from pipeline.cli.output import duration, is_terminal, rate, shard_count, warn
from pipeline.jobs.job import Job

#: Least and usual width of a job's bar, and width of the text beside it, in characters.
_LEAST_BAR, _BAR, _BESIDE = 6, 24, 70
#: Shortest interval between lines without a terminal, seconds.
_LINE_S = 5.0


class JobProgress(Protocol):
    """Shows the state of jobs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def show(self, job: Job) -> None:
        """Shows the state of one job."""
        ...

    def notify(self, message: str) -> None:
        """Prints a message."""
        ...


def job_progress() -> JobProgress:
    """Bars on a terminal, lines elsewhere."""
    return _Bars() if is_terminal() else _Lines()


class _Bars:
    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(max(_LEAST_BAR, min(_BAR, console.width - _BESIDE))),
            TaskProgressColumn(),
            TextColumn("{task.fields[made]}", justify="right", table_column=Column(no_wrap=True)),
            # The last column is dropped on a narrow terminal.
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=console,
            transient=True,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def notify(self, message: str) -> None:
        self._progress.console.print(f"noisemill: {message}", markup=False, highlight=False)

    def show(self, job: Job) -> None:
        if job.id not in self._tasks:
            self._tasks[job.id] = self._progress.add_task(job.id, total=job.count, made="", text="")
        made = f"{job.samples_made:,}/{job.count:,}"
        self._progress.update(self._tasks[job.id], completed=job.samples_made, made=made, text=_status_text(job))


def _status_text(job: Job) -> str:
    """The text beside a bar: what the job waits for, its rate, or how it ended."""
    if job.state == "queued":
        return _held(job) or "waiting for a worker"
    if not job.live:
        return job.state
    return _held(job) or ", ".join(filter(None, [rate(job.rate), _left(job)]))


def _left(job: Job) -> str:
    return f"{duration((job.count - job.samples_made) / job.rate)} left" if job.live and job.rate else ""


class _Lines:
    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def notify(self, message: str) -> None:
        warn(message)

    def show(self, job: Job) -> None:
        shown_at, shown_state = self._shown.get(job.id, (0.0, ""))
        state = f"{job.state}{_held(job)}"
        if state == shown_state and (job.state == "queued" or _held(job) or time.monotonic() - shown_at < _LINE_S):
            return
        self._shown[job.id] = (time.monotonic(), state)
        click.echo(_line(job), err=True)


def _held(job: Job) -> str:
    """Why a job is held; empty if it is not."""
    return f"held, {job.error}" if job.live and job.held_at else ""


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of a counted task: yields a function to call with (done, total), from any thread."""
    if not is_terminal():
        yield _CountedLines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, text="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, text=f"{done:,}/{total:,}  {rate(speed)}")

        yield show


class _CountedLines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._shown_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._shown_at >= _LINE_S:
            self._shown_at = time.monotonic()
            click.echo(f"{self._what}: {done:,} of {total:,}", err=True)


def _line(job: Job) -> str:
    if job.state == "queued":
        return f"{job.id}: queued, {job.count:,} samples in {shard_count(job.shards)}"
    if _held(job):
        return f"{job.id}: {_held(job)}"
    line = f"{job.id}: {job.state}, {job.samples_made:,} of {job.count:,} samples, {rate(job.rate)}"
    return f"{line}, {left}" if (left := _left(job)) else line
