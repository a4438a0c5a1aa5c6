"""Schedules: add, list, show, pause, resume, run, remove.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Whole, examples, job_options, json_option, queueing_options, redis_option
from pipeline.cli.output import print_facts, print_json, print_table, warn
from pipeline.cli.sections import SectionedCommand, options_of
from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_KEPT
from pipeline.common.settings import load_settings

if TYPE_CHECKING:
    from pipeline.schedules.book import ScheduleBook
    from pipeline.schedules.schedule import Run, Schedule

#: The number of runs, and of skipped times, that `show` prints.
_MOST_SHOWN = 20

_name_argument = click.argument("name")


@click.group("schedule", no_args_is_help=True, epilog=examples("noisemill schedule list"))
def schedule_command() -> None:
    """Submit a job regularly, each time with other samples and another destination.

    'noisemill scheduler' carries the schedules out, or 'noisemill up GENERATOR --scheduler'.
    """


_schedule_option = options_of("Schedule")

#: Options of a schedule itself; all others are those of its jobs.
_TERMS = ("cron", "every", "timezone", "keep", "overlap", "catch_up", "priority", "webhook")


@schedule_command.command(
    "add",
    cls=SectionedCommand,
    epilog=examples(
        'noisemill schedule add nightly fashion /data/{date} -n 9k --cron "0 2 * * *"',
        "noisemill schedule add probe fashion s3://bucket/{run} -n 1k --every 15m",
    ),
)
@_name_argument
@click.argument("generator")
@click.argument("destination", metavar="DEST")
@_schedule_option("--cron", metavar="LINE", help='As in a crontab: "0 2 * * *" is daily at 2.')
@_schedule_option("--every", metavar="TIME", help="Interval, from now on: 90s, 15m, 6h, 1d, 2w.")
@_schedule_option("--timezone", metavar="ZONE", help="Time zone of --cron, {date} and {time}.  [default: UTC]")
@_schedule_option("--keep", type=Whole(1, MAX_KEPT), help="Verified datasets to keep; delete older ones.")
@_schedule_option(
    "--overlap",
    type=click.Choice(["skip", "queue"]),
    default="skip",
    show_default=True,
    help="While a run is in progress, skip the next, or let it wait.",
)
@_schedule_option(
    "--catch-up",
    type=click.Choice(["one", "none"]),
    default="one",
    show_default=True,
    help="Make one or none of the runs missed while no scheduler was up.",
)
@_schedule_option("--replace", "replacing", is_flag=True, help="Replace the schedule with this name.")
@_schedule_option("--yes", "-y", is_flag=True, help="Do not ask before --replace removes datasets.")
@job_options
@queueing_options
@redis_option
@json_option
def add_command(
    name: str,
    generator: str,
    destination: str,
    replacing: bool,
    yes: bool,
    dry_run: bool,
    redis_url: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add a schedule. With --cron or --every; the options of a job are those of 'submit'.

    DEST contains {date}, {time} or {run}, so that each run has its own destination: 2026-11-24, 020000, 000001.
    The seed of each run is one more than that of the run before it. The first run is made when it is next due;
    'noisemill schedule run NAME' makes one at once.
    """

    from pipeline.schedules.request import new_schedule

    terms = {option: options.pop(option) for option in _TERMS}
    schedule = new_schedule(
        name=name,
        generator=generator,
        destination=destination,
        parallel=options.pop("workers") or 0,
        request=options,
        now=time.time(),
        **terms,
    )
    if dry_run:
        _print_plan(schedule, as_json)
        return
    book = _book(redis_url)
    if replacing:
        _confirm_removal(schedule, book, yes=yes)
    book.add(schedule, replacing=replacing)
    _warn_without_scheduler(book)
    if as_json:
        print_json(book.as_json(schedule, book.last_run(schedule.name)))
    else:
        click.echo(f"{name}: {schedule.recurrence}, next {_moment(schedule.next_run(time.time()), schedule)}")


@schedule_command.command("list", epilog=examples("noisemill schedule list"))
@redis_option
@json_option
def list_command(redis_url: str | None, as_json: bool) -> None:
    """List schedules: when each is due next, and its last run. Exit code 1 if one cannot be read."""

    from pipeline.schedules.schedule import UnreadableScheduleError

    book = _book(redis_url)
    unreadable: list[str] = []
    listed: list[tuple[Schedule, Run | None]] = []
    for schedule in book.schedules(unreadable):
        try:
            listed.append((schedule, book.last_run(schedule.name)))
        except UnreadableScheduleError as error:
            unreadable.append(f"schedule {schedule.name!r}: {error}")
    if as_json:
        print_json([book.as_json(schedule, last) for schedule, last in listed])
    elif listed or not unreadable:
        columns = ["SCHEDULE", "WHEN", "NEXT", "LAST", "STATE", "DESTINATION"]
        rows = [_row(schedule, last) for schedule, last in listed]
        print_table(columns, rows, empty="no schedules: add one with 'noisemill schedule add'")
        if rows:
            _warn_without_scheduler(book)
    for problem in unreadable:
        warn(problem)
    if unreadable:
        raise click.exceptions.Exit(1)


@schedule_command.command("show", epilog=examples("noisemill schedule show nightly"))
@_name_argument
@redis_option
@json_option
def show_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Show a schedule and its history: runs, and skipped times."""
    book = _book(redis_url)
    schedule = book.get(name)
    runs, skipped = book.runs(name), book.skipped(name)
    if as_json:
        history = {"runs": [run.as_json() for run in runs], "skipped": [one.as_json() for one in skipped]}
        print_json({**book.as_json(schedule, book.last_run(name)), **history})
        return
    print_facts(_facts(schedule, book))
    rows = [
        [
            str(run.number),
            _moment(run.due_at, schedule),
            run.state + (" (by hand)" if run.by_hand else ""),
            f"{run.samples:,}",
            str(run.seed),
            run.job or "-",
            run.destination + (f"  {run.error}" if run.error else ""),
        ]
        for run in runs[-_MOST_SHOWN:]
    ]
    click.echo()
    print_table(["RUN", "DUE", "STATE", "SAMPLES", "SEED", "JOB", "DESTINATION"], rows, empty="no runs yet")
    if skipped:
        click.echo()
        rows = [
            [_moment(one.due_at, schedule), _moment(one.until, schedule), str(one.times), one.reason]
            for one in skipped[-_MOST_SHOWN:]
        ]
        print_table(["SKIPPED FROM", "TO", "TIMES", "BECAUSE"], rows, empty="")


@schedule_command.command("pause", epilog=examples("noisemill schedule pause nightly"))
@_name_argument
@redis_option
@json_option
def pause_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Make nothing until 'resume'. A run in progress continues."""
    book = _book(redis_url)
    schedule = book.pause(name)
    _print_change(schedule, book, "paused", as_json)


@schedule_command.command("resume", epilog=examples("noisemill schedule resume nightly"))
@_name_argument
@redis_option
@json_option
def resume_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """End a pause. Runs that were due meanwhile are not made up for."""
    book = _book(redis_url)
    schedule = book.resume(name, time.time())
    _warn_without_scheduler(book)
    _print_change(schedule, book, f"next {_moment(schedule.next_run(time.time()), schedule)}", as_json)


@schedule_command.command("run", epilog=examples("noisemill schedule run nightly"))
@_name_argument
@redis_option
@json_option
def run_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Make a run at once, even if the schedule is paused."""
    book = _book(redis_url)
    run = book.fire_by_hand(name, time.time())
    _warn_without_scheduler(book)
    if as_json:
        print_json(run.as_json())
    else:
        click.echo(f"{name}: run {run.number} will be stored at {run.destination}")


@schedule_command.command("remove", epilog=examples("noisemill schedule remove nightly"))
@_name_argument
@redis_option
@json_option
def remove_command(name: str, redis_url: str | None, as_json: bool) -> None:
    """Delete a schedule and its history. Its jobs continue, its datasets stay."""
    book = _book(redis_url)
    book.remove(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"{name}: removed; its jobs and datasets stay")


def _confirm_removal(schedule: Schedule, book: ScheduleBook, *, yes: bool) -> None:
    """Lists the datasets that the new schedule would remove at once, and asks."""
    surplus = schedule.surplus(book.runs(schedule.name))
    if not surplus or yes:
        return
    places = ", ".join(run.destination for run in surplus[:3]) + (", ..." if len(surplus) > 3 else "")
    datasets = "1 dataset" if len(surplus) == 1 else f"{len(surplus):,} datasets"
    removed = f"--keep {schedule.keep} removes {datasets} of the schedule it replaces: {places}"
    if not sys.stdin.isatty():
        raise UsageError(f"{removed}. Add --yes if that is intended")
    if not click.confirm(f"{removed}. Replace it?", err=True):
        warn("the schedule stays as it was")
        raise click.exceptions.Exit(1)


def _book(redis_url: str | None) -> ScheduleBook:
    from pipeline.schedules.book import ScheduleBook

    return ScheduleBook(load_settings(redis_url=redis_url))


def _warn_without_scheduler(book: ScheduleBook) -> None:
    if book.scheduler() is None:
        warn("no scheduler is up: start one with\n  noisemill scheduler")


def _print_change(schedule: Schedule, book: ScheduleBook, message: str, as_json: bool) -> None:
    if as_json:
        print_json(book.as_json(schedule, book.last_run(schedule.name)))
    else:
        click.echo(f"{schedule.name}: {message}")


def _print_plan(schedule: Schedule, as_json: bool) -> None:
    """Prints the next three runs."""
    plan: list[dict[str, Any]] = []
    moment = time.time()
    for number in (1, 2, 3):
        moment = schedule.recurrence.next_after(moment)
        destination = schedule.destination_of(number, moment)
        plan.append({"due_at": moment, "seed": schedule.seed_of(number), "destination": destination})
    if as_json:
        print_json(plan)
        return
    rows = [[_moment(run["due_at"], schedule), str(run["seed"]), run["destination"]] for run in plan]
    print_table(["DUE", "SEED", "DESTINATION"], rows, empty="")


def _facts(schedule: Schedule, book: ScheduleBook) -> list[tuple[str, str]]:
    from pipeline.jobs.webhooks import shown_webhook

    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in sorted(schedule.request.items()))
    return [
        ("schedule", schedule.name),
        ("generator", schedule.generator),
        ("destination", schedule.destination),
        ("when", str(schedule.recurrence)),
        ("next", _moment(schedule.next_run(time.time()), schedule, otherwise="paused")),
        ("job", options),
        ("priority", str(schedule.priority)),
        ("overlap", schedule.overlap),
        ("catch up", schedule.catch_up),
        ("keep", "all" if schedule.keep is None else f"{schedule.keep} datasets"),
        *([("webhook", shown_webhook(schedule.webhook))] if schedule.webhook else []),
        ("scheduler", book.scheduler() or "none is up"),
    ]


def _row(schedule: Schedule, last: Run | None) -> list[str]:
    return [
        schedule.name,
        str(schedule.recurrence),
        _moment(schedule.next_run(time.time()), schedule, otherwise="paused"),
        _moment(last.due_at if last else None, schedule),
        f"run {last.number} {last.state}" if last else "-",
        schedule.destination,
    ]


def _moment(at: float | None, schedule: Schedule, otherwise: str = "-") -> str:
    if at is None:
        return otherwise
    return f"{datetime.fromtimestamp(at, UTC).astimezone(schedule.recurrence.zone):%Y-%m-%d %H:%M:%S %Z}"
