"""Workers: run one, run one per GPU, list those that are up; and run the scheduler.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import Whole, device_option, examples, json_option, redis_option, trust_option
from pipeline.cli.output import duration, print_json, print_table, rate, warn
from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_WORKERS
from pipeline.common.settings import load_settings
from pipeline.fleet.config import FILE_NAME, FleetConfig, load_fleet_config
from pipeline.fleet.launch import SchedulerConfig, WorkerConfig, WorkerGroup, supervisor_command, supervisor_environment
from pipeline.generators import find_generator, find_judge, remember
from pipeline.stores import normalise

_roots_option = click.option(
    "--output-root",
    "output_roots",
    multiple=True,
    metavar="DIR",
    help="Folder (or s3://bucket/prefix) below which jobs may write; repeatable. Default: only S3.",
)
_judges_option = click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="JUDGE",
    help="A judge that jobs may use, besides the built-in ones; repeatable.",
)
_log_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level to log on stderr.",
)


_metrics_option = click.option(
    "--metrics-port",
    type=Whole(0, 65535),
    default=0,
    help="Port for Prometheus metrics; several processes take the next ones.  [default: 0, none]",
)
_log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="NOISEMILL_LOG_FORMAT",
    help="Text, or one JSON object per line.  [env: NOISEMILL_LOG_FORMAT]",
)


@click.command("worker", epilog=examples("noisemill worker fashion --output-root /data"))
@click.argument("generator")
@device_option
@_roots_option
@click.option("--threads", type=Whole(0, 4096), default=0, help="CPU threads, 0 for all cores.  [default: 0]")
@_judges_option
@_metrics_option
@trust_option
@redis_option
@_log_option
@_log_format_option
def worker_command(generator: str, **options: Any) -> None:
    """Run a worker that holds one generator on one device, until SIGTERM or Ctrl-C.

    SIGTERM drains it: it finishes the batch, gives its shards back to other workers and exits.
    """
    config = _config(generator, **options)
    # The worker replaces this process, so that signals reach it directly.
    os.execve(config.command()[0], config.command(), config.environment())  # noqa: S606


@click.command(
    "up", epilog=examples("noisemill up fashion --output-root /data", "noisemill up --config noisemill.toml")
)
@click.argument("generator", required=False)
@click.option("--workers", type=Whole(1, MAX_WORKERS), help="Number of workers.  [default: one per GPU, else one]")
@click.option("--scheduler", is_flag=True, help="Run the scheduler as well.")
@click.option(
    "--per-gpu",
    type=Whole(1, 64),
    default=1,
    show_default=True,
    help="Workers on each GPU, for small generators.",
)
@click.option(
    "--config", "file", metavar="FILE", help="Configuration for several generators.  [default: noisemill.toml]"
)
@_roots_option
@_judges_option
@_metrics_option
@trust_option
@redis_option
@_log_option
@_log_format_option
@click.pass_context
def up_command(
    context: click.Context,
    /,
    generator: str | None,
    workers: int | None,
    scheduler: bool,
    file: str | None,
    redis_url: str | None,
    **options: Any,
) -> None:
    """Run one worker per GPU, or one for the CPU; each is restarted if it dies.

    Without GENERATOR, a file configures generators, devices and folders. See docs/deploy.md.
    """
    if generator is not None:
        if file is not None:
            raise UsageError(f"generator {generator!r} and --config exclude each other: name it in the file")
        groups = [WorkerGroup(config=_config(generator, redis_url=redis_url, **options), count=workers or 0)]
    else:
        fleet = _fleet_config(file)
        for name, option in (
            ("workers", "--workers"),
            ("per_gpu", "--per-gpu"),
            ("output_roots", "--output-root"),
            ("judges", "--judge"),
        ):
            if _is_typed(context, name):
                raise UsageError(f"{option} needs a GENERATOR; for several, set it in the file")
        for name, value in fleet.environment.items():
            os.environ.setdefault(name, value)
        own = {name: value for name, value in options.items() if _is_typed(context, name)}
        if redis_url is None and not any(map(os.environ.get, ("NOISEMILL_REDIS_URL", "NOISEMILL_REDIS_URL_FILE"))):
            redis_url = fleet.redis
        groups = _groups(fleet, redis_url, own)
        scheduler = scheduler or fleet.scheduler
    first = groups[0].config
    environment = supervisor_environment(groups)
    if scheduler:
        beside = SchedulerConfig(
            redis_url=first.redis_url,
            log_level=first.log_level,
            log_format=first.log_format,
            metrics_port=first.metrics_port,
        )
        environment = beside.environment(environment)
    os.execve(supervisor_command()[0], supervisor_command(), environment)  # noqa: S606


def _fleet_config(file: str | None) -> FleetConfig:
    if file is None and not os.path.exists(FILE_NAME):
        raise UsageError(f"no generator: name one, as in 'noisemill up fashion', or write a {FILE_NAME}")
    return load_fleet_config(Path(file or FILE_NAME))


def _groups(fleet: FleetConfig, redis_url: str | None, typed: dict[str, Any]) -> list[WorkerGroup]:
    """The groups in a file. Command-line options take precedence."""
    common = {
        "per_gpu": fleet.per_gpu,
        "metrics_port": fleet.metrics_port,
        "log_level": fleet.log_level or "info",
        "log_format": fleet.log_format or "text",
    } | typed
    return [
        WorkerGroup(
            config=_config(
                table.generator,
                redis_url=redis_url,
                output_roots=fleet.output_roots if table.output_roots is None else table.output_roots,
                device=table.device,
                threads=table.threads,
                judges=table.judges,
                **common,
            ),
            count=table.count,
        )
        for table in fleet.workers
    ]


def _is_typed(context: click.Context, name: str) -> bool:
    """Whether a value was given, by option or environment."""
    source = context.get_parameter_source(name)
    return source in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)


@click.command("scheduler", epilog=examples("noisemill scheduler --redis redis://host:6379/0"))
@_metrics_option
@redis_option
@_log_option
@_log_format_option
def scheduler_command(redis_url: str | None, **options: Any) -> None:
    """Carry out the schedules, until SIGTERM or Ctrl-C.

    It needs no GPU, but must reach the destinations and the generators' files. Of several schedulers one is
    active; another takes over if it dies. See 'noisemill schedule --help'.
    """

    from pipeline.jobs.ledger import Ledger

    settings = load_settings(redis_url=redis_url)
    Ledger(settings).ping()
    config = SchedulerConfig(redis_url=settings.redis_url, **options)
    os.execve(supervisor_command()[0], supervisor_command(), config.environment())  # noqa: S606


def _config(
    generator: str,
    *,
    redis_url: str | None,
    output_roots: tuple[str, ...],
    judges: tuple[str, ...] = (),
    **options: Any,
) -> WorkerConfig:
    """Checks what can be checked without TensorFlow, so that mistakes are reported at once."""

    from pipeline.jobs.ledger import Ledger
    from pipeline.jobs.redis_url import has_password

    if redis_url is not None and has_password(redis_url):
        warn("the password in --redis is visible in the process list and the shell's history: use NOISEMILL_REDIS_URL")
    settings = load_settings(redis_url=redis_url)
    found = remember(find_generator(generator))
    roots = tuple(normalise(root) for root in output_roots)
    Ledger(settings).ping()
    named = tuple(remember(find_judge(judge)).reference for judge in judges)
    return WorkerConfig(
        generator=found.reference, redis_url=settings.redis_url, output_roots=roots, judges=named, **options
    )


@click.command("workers", epilog=examples("noisemill workers --json"))
@redis_option
@json_option
def workers_command(redis_url: str | None, as_json: bool) -> None:
    """List the workers that are up, with their generators and devices."""

    from pipeline.jobs.ledger import Ledger

    found = Ledger(load_settings(redis_url=redis_url)).workers()
    if as_json:
        print_json([worker.as_json() for worker in found])
        return
    rows = [
        [
            worker.id,
            worker.generator,
            worker.digest.removeprefix("sha256:")[:12],
            worker.device,
            f"{worker.engine}, {worker.batch}",
            rate(worker.rate),
            worker.job or "idle",
            f"{worker.samples:,}",
            duration(worker.up_s),
        ]
        for worker in found
    ]
    columns = ["WORKER", "GENERATOR", "DIGEST", "DEVICE", "ENGINE, BATCH", "RATE", "JOB", "SAMPLES", "UP FOR"]
    print_table(columns, rows, empty="no workers are up: start one with 'noisemill worker GENERATOR'")
