"""Top: the fleet, live.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import Seconds, examples, json_option, redis_option
from pipeline.cli.output import duration, print_json, print_table, rate
from pipeline.common.errors import LedgerError
from pipeline.common.settings import load_settings

if TYPE_CHECKING:
    from pipeline.fleet.overview import FleetState, WorkerRates
    from pipeline.jobs.job import Job
    from pipeline.jobs.worker_info import WorkerInfo

_Thing = TypeVar("_Thing")

#: Lines besides those of jobs and workers: the head, two headings, an empty line, one for errors.
_OTHER_LINES = 5

_JOB_COLUMNS = ("JOB", "STATE", "PRI", "DONE", "RATE", "LEFT", "SCHEDULE")
_WORKER_COLUMNS = ("WORKER", "DEVICE", "GENERATOR", "BATCH", "RATE", "JOB")

_COLOURS = {
    "running": "green",
    "failed": "red",
    "held": "red",
    "no worker": "yellow",
    "cancelled": "dim",
    "done": "dim",
}


@click.command("top", epilog=examples("noisemill top", "noisemill top --json"))
@click.option("--interval", type=Seconds(0.2, 3600), default=2.0, show_default=True, help="Seconds between updates.")
@redis_option
@json_option
def top_command(interval: float, redis_url: str | None, as_json: bool) -> None:
    """Watch jobs, workers and queues, live; q or Ctrl-C quits.

    If stdout is not a terminal, it prints the state once.
    """

    from pipeline.fleet.overview import FleetMonitor, WorkerRates

    tower = FleetMonitor(load_settings(redis_url=redis_url))
    state = tower.read()
    if as_json:
        print_json(state.as_json())
        return
    rates = WorkerRates()
    rates.take(state)
    if not sys.stdout.isatty():
        _print(state, rates)
        return
    console, trouble = Console(), ""
    with (
        contextlib.suppress(KeyboardInterrupt),
        _interruptible() as interrupted,
        _keys(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not interrupted:
            live.update(_view(state, rates, console.size.height, trouble), refresh=True)
            if _pressed("q", interval):
                return
            try:
                state, trouble = tower.read(), ""
                rates.take(state)
            except LedgerError as error:  # The last state stays on the screen; Redis may come back.
                trouble = str(error).splitlines()[0]


def _left(job: Job) -> str:
    return "-" if job.seconds_left is None else duration(job.seconds_left)


def _head(state: FleetState) -> str:
    live = sum(job.live for job in state.jobs)
    busy = sum(worker.job is not None for worker in state.workers)
    facts = (
        f"{live} live jobs",
        f"{busy} of {len(state.workers)} workers busy",
        f"{sum(state.queues.values())} wake-ups waiting",
        rate(state.rate),
    )
    return ", ".join(facts)


def _print(state: FleetState, rates: WorkerRates) -> None:
    """Prints one state as plain text."""
    click.echo(_head(state))
    click.echo()
    jobs = [
        [job.id, state.state_of(job), str(job.priority), f"{job.share:.0%}", rate(job.rate), _left(job),
         job.schedule or "-"]
        for job in state.jobs
    ]  # fmt: skip
    print_table(_JOB_COLUMNS, jobs, empty="no jobs")
    click.echo()
    workers = [[cell.plain for cell in _worker_row(worker, rates)] for worker in state.workers]
    print_table(_WORKER_COLUMNS, workers, empty="no workers are up: start one with 'noisemill worker GENERATOR'")


def _worker_row(worker: WorkerInfo, rates: WorkerRates) -> list[Text]:
    cells = (
        worker.id,
        worker.device,
        worker.generator,
        str(worker.batch),
        rate(rates.of(worker)),
        worker.job or "idle",
    )
    return [Text(cell) for cell in cells]


def _view(state: FleetState, rates: WorkerRates, height: int, trouble: str) -> Group:
    """The screen: as many jobs and workers as fit, jobs first if there is no room for both."""
    lines = max(2, height - _OTHER_LINES)
    job_lines = min(max(1, len(state.jobs)), max(lines // 2, lines - max(1, len(state.workers))))
    head = Text(f"{time.strftime('%H:%M:%S')}  {_head(state)}", no_wrap=True, overflow="ellipsis")
    parts = [head, Text(trouble, style="bold red", no_wrap=True, overflow="ellipsis")]
    return Group(*parts, _jobs(state, job_lines), Text(""), _workers(state, rates, lines - job_lines))


def _jobs(state: FleetState, lines: int) -> Table:
    scheduled = any(job.schedule for job in state.jobs)
    table = _table(_JOB_COLUMNS if scheduled else _JOB_COLUMNS[:-1], right=("PRI", "RATE", "LEFT"))
    table.columns[0].ratio, table.columns[3].ratio = 3, 2
    shown, more = _fitting(state.jobs, lines)
    for job in shown:
        text = state.state_of(job)
        cells: list[RenderableType] = [
            Text(job.id),
            Text(text, style=_COLOURS.get(text, "")),
            Text(str(job.priority)),
            _bar(job),
            Text(rate(job.rate)),
            Text(_left(job)),
            Text(job.schedule or "-"),
        ]
        table.add_row(*cells[: len(table.columns)])
    if not state.jobs:
        table.add_row(Text("no jobs", style="dim"))
    return _with_more(table, more, "jobs")


def _bar(job: Job) -> Table:
    bar = Table.grid(expand=True)
    bar.add_column(ratio=1)
    bar.add_column(width=5, justify="right")
    bar.add_row(ProgressBar(total=1.0, completed=job.share), Text(f"{job.share:.0%}"))
    return bar


def _workers(state: FleetState, rates: WorkerRates, lines: int) -> Table:
    table = _table(_WORKER_COLUMNS, right=("BATCH", "RATE"))
    table.columns[0].ratio = table.columns[5].ratio = 1
    shown, more = _fitting(sorted(state.workers, key=lambda worker: worker.job is None), lines)
    for worker in shown:
        table.add_row(*_worker_row(worker, rates), style="" if worker.job else "dim")
    if not state.workers:
        table.add_row(Text("no workers are up", style="dim"))
    return _with_more(table, more, "workers")


def _table(columns: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis", justify="right" if column in right else "left")
    return table


def _fitting(things: Sequence[_Thing], lines: int) -> tuple[Sequence[_Thing], int]:
    """The things that fit, and the number of those that do not; a line with that number counts too."""
    if len(things) <= lines:
        return things, 0
    return things[: max(0, lines - 1)], len(things) - max(0, lines - 1)


def _with_more(table: Table, more: int, what: str) -> Table:
    if more:
        table.add_row(Text(f"{more} more {what}", style="dim"))
    return table


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Reads keys without Enter."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Records SIGINT in the list that it yields, and raises KeyboardInterrupt.

    A process that a script starts in the background ignores SIGINT unless it installs a handler. And Python drops an
    exception that is raised while an object is destroyed, so the record ends the loop then.
    """
    noted: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _pressed(key: str, within_s: float) -> bool:
    """Waits for a key up to this time; returns whether it was pressed."""
    deadline = time.monotonic() + within_s
    if not sys.stdin.isatty():
        time.sleep(within_s)
        return False
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left_s)[0]:
            keys = os.read(sys.stdin.fileno(), 64)
            if key.encode() in keys or not keys:  # No keys: the terminal is closed.
                return True
    return False
