"""Queued jobs: jobs, status, watch, cancel.

Imports inside the functions keep redis out of `--help`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Whole, examples, json_option, redis_option
from pipeline.cli.output import print_facts, print_json, print_manifest_hash, print_table, rate, warn
from pipeline.common.errors import JobFailedError, NoisemillError
from pipeline.common.settings import load_settings

if TYPE_CHECKING:
    from pipeline.jobs.job import Job

#: Upper bound of --limit.
_MOST_JOBS = 10_000_000

#: Poll interval of `watch`, seconds.
_POLL_S = 0.5


@click.command("jobs", epilog=examples("noisemill jobs --redis redis://host:6379/0"))
@click.option("--limit", type=Whole(1, _MOST_JOBS), default=50, show_default=True, help="Most jobs to list.")
@redis_option
@json_option
def jobs_command(limit: int, redis_url: str | None, as_json: bool) -> None:
    """List jobs, the latest first."""

    from pipeline.jobs.ledger import Ledger

    ledger = Ledger(load_settings(redis_url=redis_url))
    found = ledger.jobs(latest=limit)
    known = ledger.job_count()
    if known > limit:
        warn(f"these are the latest {limit:,} of {known:,} jobs: --limit shows more")
    if as_json:
        print_json([job.as_json() for job in found])
        return
    rows = [
        [
            job.id,
            job.state,
            f"{job.samples_made:,}/{job.count:,}",
            rate(job.rate),
            str(job.priority),
            job.schedule or "-",
            job.destination,
        ]
        for job in found
    ]
    print_table(["JOB", "STATE", "SAMPLES", "RATE", "PRIORITY", "SCHEDULE", "DESTINATION"], rows, empty="no jobs")


@click.command("status", epilog=examples("noisemill status fashion-3f9a2c"))
@click.argument("job")
@redis_option
@json_option
def status_command(job: str, redis_url: str | None, as_json: bool) -> None:
    """Show one job. Exit code 1 if it has failed or was cancelled."""

    from pipeline.jobs.ledger import Ledger

    ledger = Ledger(load_settings(redis_url=redis_url))
    state = ledger.job(ledger.find_job(job))
    if as_json:
        print_json(state.as_json())
    else:
        _print_status(state)
    if state.state in ("failed", "cancelled"):
        raise click.exceptions.Exit(1)


@click.command("watch", epilog=examples("noisemill watch fashion-3f9a2c fashion-81d07b"))
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@redis_option
@json_option
def watch_command(jobs: tuple[str, ...], redis_url: str | None, as_json: bool) -> None:
    """Follow jobs until they end. Exit code 1 if one failed or was cancelled; Ctrl-C leaves them running.

    A job that Redis loses meanwhile is added again from its destination.
    """

    from pipeline.cli.progress import job_progress
    from pipeline.jobs.following import Follower, raise_unless_done
    from pipeline.jobs.ledger import Ledger

    ledger = Ledger(load_settings(redis_url=redis_url))
    # Two arguments may name one job.
    ids = list(dict.fromkeys(ledger.find_job(job) for job in jobs))
    ended: dict[str, Job] = {}
    with job_progress() as progress:
        followers = {job_id: Follower(ledger, job_id, enters_again=True, notice=progress.notify) for job_id in ids}
        while True:
            for job_id in [job_id for job_id in ids if job_id not in ended]:
                state = followers[job_id].poll()
                if state is None:
                    continue
                progress.show(state)
                if not state.live:
                    ended[job_id] = state
            if len(ended) == len(ids):
                break
            time.sleep(_POLL_S)
    if as_json:
        print_json([ended[job_id].as_json() for job_id in ids])
    failed = False
    for job_id in ids:
        try:
            raise_unless_done(ended[job_id])
            if not as_json:
                click.echo(f"{job_id}: done, {ended[job_id].count:,} samples in {ended[job_id].destination}")
                _print_manifest_hash(ended[job_id].destination)
        except JobFailedError as error:
            warn(str(error))
            failed = True
    if failed:
        raise click.exceptions.Exit(1)


@click.command("cancel", epilog=examples("noisemill cancel fashion-3f9a2c"))
@click.argument("job")
@redis_option
@json_option
def cancel_command(job: str, redis_url: str | None, as_json: bool) -> None:
    """Cancel a job within one batch. Finished shards stay; `resume` makes the rest."""

    from pipeline.jobs.ledger import Ledger

    ledger = Ledger(load_settings(redis_url=redis_url))
    job_id = ledger.find_job(job)
    state = ledger.cancel(job_id)
    after = ledger.job(job_id)
    if as_json:
        print_json(after.as_json())
    elif state == "cancelled":
        click.echo(f"{job_id}: cancelled, {after.shards_done} of {after.shards} shards are kept in {after.destination}")
    else:
        click.echo(f"{job_id}: had ended already, it is {state}")


def _print_manifest_hash(destination: str) -> None:
    """Prints the manifest's hash if the destination is readable: it may be a folder of another host, or need a key."""
    from pipeline.datasets.dataset import Dataset

    with contextlib.suppress(NoisemillError, OSError):
        manifest = Dataset(destination).manifest()
        if manifest is not None:
            print_manifest_hash(manifest)


def _print_status(job: Job) -> None:
    click.echo(f"{job.id}: {job.state}")
    facts = [
        ("destination", job.destination),
        ("generator", f"{job.generator} ({job.digest[:19]}...)"),
        ("samples", f"{job.samples_made:,} of {job.count:,}" + (f", {rate(job.rate)}" if job.rate else "")),
        (
            "shards",
            f"{job.shards_done:,} of {job.shards:,}, {job.shards_leased} being made, {len(job.failed)} given up"
            + (f"; only shards {job.selection} of the plan" if job.selection else ""),
        ),
        ("engine", f"{job.engine}, batch {job.batch}" if job.engine else "not chosen yet"),
        ("priority", str(job.priority)),
        *([("schedule", job.schedule)] if job.schedule else []),
    ]
    times = [("queued", job.queued_at), ("running", job.running_at)]
    times += [("held", job.held_at)] if job.live else [(job.state, job.ended_at)]
    facts += [(f"{state} at", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))) for state, at in times if at]
    if job.verdict:
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in sorted(job.stage_seconds.items()))
        facts.append(("time went into", f"{spent}: {job.verdict}"))
    if job.error:
        facts.append(("error", job.error))
    facts += [(f"shard {shard}", f"given up: {message}") for shard, message in sorted(job.failed.items())[:10]]
    facts += [("will be retried", message) for message in job.errors[:3] if job.live]
    if job.leases_lost:
        facts.append(("leases lost", str(job.leases_lost)))
    print_facts(facts)
