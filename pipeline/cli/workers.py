"""Workers: run one, run one per GPU, list those that are up; and the scheduler, which runs beside them.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pipeline.cli.options import Whole, device_option, examples, json_option, redis_option
from pipeline.cli.output import duration, print_json, print_table, rate
from pipeline.generators import find_generator
from pipeline.launch import SchedulerConfig, WorkerConfig
from pipeline.settings import load_settings
from pipeline.stores import normalise

_roots_option = click.option(
    "--output-root",
    "output_roots",
    multiple=True,
    metavar="DIR",
    help="Folder (or s3://bucket/prefix) that jobs may write below; can be given again. Without, only S3.",
)
_log_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log on stderr.",
)


_metrics_option = click.option(
    "--metrics-port",
    type=Whole(0, 65535),
    default=0,
    help="Serve Prometheus metrics here; of several workers, from here on.  [default: 0, not at all]",
)
_log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="NOISEMILL_LOG_FORMAT",
    help="Lines for people, or one JSON object each.  [env: NOISEMILL_LOG_FORMAT]",
)


@click.command("worker", epilog=examples("noisemill worker fashion --output-root /data"))
@click.argument("generator")
@device_option
@_roots_option
@click.option("--threads", type=Whole(0, 4096), default=0, help="CPU threads, 0 for all cores.  [default: 0]")
@_metrics_option
@redis_option
@_log_option
@_log_format_option
def worker_command(generator: str, **options: Any) -> None:
    """Run a worker that holds one generator on one device, until SIGTERM or Ctrl-C.

    SIGTERM drains it: it finishes the batch, gives its shards back to the others and leaves.
    """
    config = _config(generator, **options)
    # The worker takes over this process, so that signals reach it and nothing stands between.
    os.execve(config.command()[0], config.command(), config.environment())  # noqa: S606


@click.command("up", epilog=examples("noisemill up fashion --output-root /data"))
@click.argument("generator")
@click.option("--workers", type=Whole(1, 1024), help="How many.  [default: one per GPU, else one]")
@click.option("--scheduler", is_flag=True, help="Run the scheduler as well.")
@click.option(
    "--per-gpu",
    type=Whole(1, 64),
    default=1,
    show_default=True,
    help="Workers on each GPU, where small generators fit.",
)
@_roots_option
@_metrics_option
@redis_option
@_log_option
@_log_format_option
def up_command(generator: str, workers: int | None, scheduler: bool, **options: Any) -> None:
    """Run one worker per GPU, or one for the CPU; each is restarted if it dies."""
    config = _config(generator, **options)
    command = [config.command()[0], "-m", "workers.supervisor", str(workers or 0)]
    environment = config.environment()
    if scheduler:
        beside = SchedulerConfig(redis_url=config.redis_url, log_level=config.log_level, log_format=config.log_format)
        environment = beside.environment(environment)
    os.execve(command[0], command, environment)  # noqa: S606


@click.command("scheduler", epilog=examples("noisemill scheduler --redis redis://host:6379/0"))
@redis_option
@_log_option
@_log_format_option
def scheduler_command(redis_url: str | None, log_level: str, log_format: str) -> None:
    """Carry out the schedules, until SIGTERM or Ctrl-C.

    It needs no GPU, but must reach the destinations, and the generators' files. Of several schedulers one is
    active, and another takes over where it dies. See 'noisemill schedule --help'.
    """

    from pipeline.ledger import Ledger

    settings = load_settings(redis_url=redis_url)
    Ledger(settings).ping()
    config = SchedulerConfig(redis_url=settings.redis_url, log_level=log_level, log_format=log_format)
    command = [config.command()[0], "-m", "workers.supervisor", "none"]
    os.execve(command[0], command, config.environment())  # noqa: S606


def _config(generator: str, *, redis_url: str | None, output_roots: tuple[str, ...], **options: Any) -> WorkerConfig:
    """Checks what can be checked without TensorFlow, so that mistakes show at once."""

    from pipeline.ledger import Ledger

    settings = load_settings(redis_url=redis_url)
    found = find_generator(generator)
    roots = tuple(normalise(root) for root in output_roots)
    Ledger(settings).ping()
    return WorkerConfig(generator=found.reference, redis_url=settings.redis_url, output_roots=roots, **options)


@click.command("workers", epilog=examples("noisemill workers --json"))
@redis_option
@json_option
def workers_command(redis_url: str | None, as_json: bool) -> None:
    """List the workers that are up, and what each one holds."""

    from pipeline.ledger import Ledger

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
