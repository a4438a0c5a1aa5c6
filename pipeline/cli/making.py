"""Making samples: generate, submit, resume, extend.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.generators import known_generator
from pipeline.cli.interruption import interruptible
from pipeline.cli.on_done import on_done_option, run_if_done, run_if_failed
from pipeline.cli.options import (
    Count,
    Whole,
    device_option,
    examples,
    generator_options,
    job_options,
    json_option,
    queueing_options,
    redis_option,
    take_over_option,
    trust_option,
    work_option,
)
from pipeline.cli.output import duration, print_json, print_manifest_hash, rate, shard_count, size, warn
from pipeline.cli.sections import SectionedCommand
from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_WORKERS
from pipeline.common.settings import names_redis
from pipeline.fleet.local import LocalWorkers
from pipeline.generators import Generator
from pipeline.spec import plan as shards
from pipeline.stores import names_destination, normalise

if TYPE_CHECKING:
    from pipeline.cli.progress import JobProgress
    from pipeline.client.extending import Extension
    from pipeline.jobs.job import Job
    from pipeline.jobs.ledger import Ledger
    from pipeline.jobs.queueing import JobHandle
    from pipeline.jobs.sizing import Sizing
    from pipeline.jobs.worker_info import WorkerInfo

_local_workers_option = work_option(
    "--workers", "--parallel", "workers", type=Whole(1, MAX_WORKERS), help="Workers on this machine.  [default: 1]"
)


@click.command(
    "generate", cls=SectionedCommand, epilog=examples("noisemill generate fashion out --count 10k --format png")
)
@click.argument("generator")
@click.argument("destination", metavar="DEST")
@job_options
@_local_workers_option
@device_option
@trust_option
@take_over_option
@on_done_option
@json_option
def generate_command(
    generator: str,
    destination: str,
    workers: int | None,
    device: str,
    take_over: bool,
    on_done: str | None,
    dry_run: bool,
    as_json: bool,
    **request: Any,
) -> None:
    """Make a dataset on this machine, with a private Valkey and local workers.

    GENERATOR is the name of a built-in generator, a .keras or .h5 file, a TensorFlow.js model.json or a
    SavedModel folder, on disk or in S3; DEST a folder or s3://bucket/prefix.
    If the destination holds the same job already, it is completed.
    """

    found, place = known_generator(generator), normalise(destination)
    started = time.monotonic()
    with ExitStack() as stack:
        local = None if dry_run else _started_early(stack, place, workers, device)

        from pipeline.cli.progress import job_progress
        from pipeline.client.making import LocalRun, plan_job
        from pipeline.jobs.request import JobRequest
        from pipeline.jobs.sizing import estimate_size

        planned = plan_job(found, JobRequest(**request))
        count = planned.spec.count
        if dry_run:
            _print_sizing(estimate_size(planned.spec, []), as_json, queued=False)
            return
        planned.remember()
        prepared = planned.at(place)
        with run_if_failed(on_done, place, count), interruptible(_resuming(place)), job_progress() as progress:
            run = LocalRun(**_local_options(progress, workers, take_over), device=device, started=local)
            job = prepared.make_here(planned.models, run)
    _print_result(place, job, time.monotonic() - started, as_json)
    run_if_done(on_done, place, count)


@click.command(
    "submit",
    cls=SectionedCommand,
    epilog=examples("noisemill submit fashion s3://bucket/clothes --count 1M --priority 3"),
)
@click.argument("generator")
@click.argument("destination", metavar="DEST")
@job_options
@queueing_options
@trust_option
@redis_option
@json_option
def submit_command(
    generator: str,
    destination: str,
    workers: int | None,
    priority: int,
    webhook: str | None,
    dry_run: bool,
    redis_url: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Queue a job in Redis for the workers that hold its generator; prints the job's id."""

    from pipeline.client.making import plan_job
    from pipeline.jobs.ledger import QueueOptions, open_ledger
    from pipeline.jobs.request import JobRequest
    from pipeline.jobs.sizing import estimate_size

    planned = plan_job(known_generator(generator), JobRequest(**request))
    ledger = open_ledger(redis_url)
    if dry_run:
        able = _able(ledger, planned.generator, destination)
        _print_sizing(estimate_size(planned.spec, able), as_json, queued=True)
        return
    planned.remember()
    queue = QueueOptions(priority=priority, parallel=workers or 0, webhook=webhook)
    _print_queued(planned.at(destination).enqueue(ledger, queue), as_json)


@click.command("resume", epilog=examples("noisemill resume out"))
@click.argument("job_or_dest", metavar="JOB_OR_DEST")
@_local_workers_option
@device_option
@generator_options
@take_over_option
@on_done_option
@redis_option
@json_option
def resume_command(
    job_or_dest: str,
    workers: int | None,
    device: str,
    generator: str | None,
    judge: str | None,
    trust_generator: bool,
    take_over: bool,
    on_done: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Make what is missing of a job: failed, cancelled, interrupted or damaged.

    With --redis or NOISEMILL_REDIS_URL the job is queued there, else it is made on this machine. Only the
    destination is needed: Redis may have lost the job.
    """

    if names_redis(redis_url):
        from pipeline.client.making import resume

        if on_done is not None:
            raise UsageError("--on-done is for jobs made on this machine; for queued ones, use 'submit --webhook URL'")
        _print_queued(resume(job_or_dest, redis_url=redis_url, parallel=workers or 0, take_over=take_over), as_json)
        return
    if not names_destination(job_or_dest):
        raise UsageError(f"{job_or_dest!r} is not a folder; if it is a job's id, add --redis")
    started = time.monotonic()
    with ExitStack() as stack:
        local = _started_early(stack, normalise(job_or_dest), workers, device)

        from pipeline.cli.progress import job_progress
        from pipeline.client.making import resume_here
        from pipeline.datasets.destination import spec_at

        spec, destination = spec_at(job_or_dest)
        with (
            run_if_failed(on_done, destination, spec.count),
            interruptible(_resuming(destination)),
            job_progress() as progress,
        ):
            job = resume_here(
                destination,
                generator=generator,
                judge=judge,
                trust_generator=trust_generator,
                device=device,
                started=local,
                **_local_options(progress, workers, take_over),
            )
    _print_result(destination, job, time.monotonic() - started, as_json)
    run_if_done(on_done, destination, spec.count)


@click.command(
    "extend",
    epilog=examples(
        "noisemill extend out --count 100k",
        "noisemill extend s3://bucket/clothes --count 2M --redis redis://host:6379/0",
    ),
)
@click.argument("destination", metavar="DEST")
@click.option("--count", "-n", type=Count(), required=True, help="Number of samples in all.")
@_local_workers_option
@device_option
@generator_options
@take_over_option
@click.option("--dry-run", is_flag=True, help="Print what would be made, and make nothing.")
@redis_option
@json_option
def extend_command(
    destination: str,
    count: int,
    workers: int | None,
    take_over: bool,
    dry_run: bool,
    redis_url: str | None,
    as_json: bool,
    **source: Any,
) -> None:
    """Add samples to a dataset. Only new samples are made, and a short last shard again.

    With --redis or NOISEMILL_REDIS_URL the job is queued there, and the old one cancelled if it is in progress; else
    the samples are made on this machine. After an interruption, `resume` or the same command makes what is missing.
    """

    from pipeline.cli.progress import job_progress
    from pipeline.client.extending import extend, extend_here, plan_extension

    plan = plan_extension(destination, count)
    if dry_run:
        _print_extension(plan, as_json)
        return
    if names_redis(redis_url):
        handle = extend(plan.destination, count, redis_url=redis_url, parallel=workers or 0, take_over=take_over)
        _print_queued(handle, as_json)
        return
    started = time.monotonic()
    with interruptible(_resuming(plan.destination)), job_progress() as progress:
        job = extend_here(
            plan.destination,
            count,
            **_local_options(progress, workers, take_over),
            **source,
        )
    _print_result(plan.destination, job, time.monotonic() - started, as_json)


def _started_early(stack: ExitStack, destination: str, workers: int | None, device: str) -> LocalWorkers | None:
    """Workers, if there is probably something to make; None for a folder with a complete dataset.

    They need seconds to import TensorFlow; meanwhile this process imports the rest, and plans. Of a destination in S3
    it is not known: to ask would take longer than to end workers that are not needed.
    """
    if os.path.exists(os.path.join(destination, shards.MANIFEST)):
        return None
    return stack.enter_context(LocalWorkers(workers or 1, device))


def _local_options(progress: JobProgress, workers: int | None, take_over: bool) -> dict[str, Any]:
    """The options of a `LocalRun` that all commands have."""
    return {
        "workers": workers or 1,
        "watcher": progress.show,
        "take_over": take_over,
        "notice": progress.notify,
    }


def _able(ledger: Ledger, generator: Generator, destination: str) -> list[WorkerInfo]:
    place = normalise(destination)
    return [worker for worker in ledger.workers(generator.digest) if worker.may_write(place)]


def _resuming(destination: str) -> str:
    return f"'noisemill resume {shlex.quote(destination)}' makes what is missing"


def _print_queued(handle: JobHandle, as_json: bool) -> None:
    if handle.warning:
        warn(handle.warning)
    if as_json:
        print_json({**handle.status().as_json(), "warning": handle.warning})
    else:
        click.echo(handle.id)


def _print_sizing(sizing: Sizing, as_json: bool, *, queued: bool) -> None:
    if as_json:
        print_json(sizing.as_json())
        return
    click.echo(f"{sizing.count:,} samples in {shard_count(sizing.shards)} of up to {sizing.shard_size:,}")
    click.echo(f"{'about' if sizing.estimated else 'exactly'} {size(sizing.size_bytes)} ({sizing.size_bytes:,} bytes)")
    if sizing.seconds is not None:
        click.echo(f"about {duration(sizing.seconds)} on {sizing.workers} workers")
    elif queued:
        click.echo("duration: unknown, as no worker is up")


def _print_extension(plan: Extension, as_json: bool) -> None:
    if as_json:
        print_json(plan.as_json())
        return
    if not plan.samples_to_make:
        click.echo(f"{plan.destination}: all {plan.count:,} samples exist: nothing to make")
        return
    click.echo(
        f"{plan.samples_to_make:,} samples to make in {plan.shards - plan.shards_kept:,} shards; "
        f"{plan.shards_kept:,} shards stay"
    )
    how = "about" if plan.estimated else "exactly"
    click.echo(f"{plan.count:,} samples in all, {how} {size(plan.size_bytes)} ({plan.size_bytes:,} bytes)")


def _print_result(destination: str, job: Job | None, elapsed_s: float, as_json: bool) -> None:
    """Prints the location of the data, its totals, its rate and what limited it."""

    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.receipts import NOT_REPRODUCIBLE

    dataset = Dataset(destination)
    manifest = dataset.manifest()
    assert manifest is not None
    made = job.count - job.samples_found if job else 0
    preview = f"{destination}/{shards.PREVIEW}" if dataset.store.exists(shards.PREVIEW) else None
    if as_json:
        result = {
            "destination": destination,
            "count": manifest.count,
            "shards": manifest.shards,
            "size_bytes": manifest.size_bytes,
            "made": made,
            "seconds": round(elapsed_s, 3),
            "rate": job.rate if job else None,
            "verdict": job.verdict if job else None,
            "preview": preview,
            "manifest_sha256": manifest.sha256,
            "reproducible": manifest.reproducible,
            "job": job.as_json() if job else None,
        }
        print_json(result)
        return
    click.echo(
        f"{manifest.count:,} samples in {shard_count(manifest.shards)}, {size(manifest.size_bytes)}: {destination}"
    )
    if job is None:
        click.echo("everything existed already")
    elif made == 0:
        click.echo("all samples existed already; only the last step was missing")
    else:
        share = f" ({made:,} made now)" if made != manifest.count else ""
        bound = f", {job.verdict}" if job.verdict else ""
        click.echo(f"{rate(job.rate)}{share}{bound}; {duration(elapsed_s)} in all")
    if not manifest.reproducible:
        warn(NOT_REPRODUCIBLE)
    if preview:
        click.echo(f"contact sheet: {preview}")
    if job is not None:
        print_manifest_hash(manifest)
