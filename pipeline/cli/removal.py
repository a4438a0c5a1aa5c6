"""Removal of datasets and jobs, after a question.

Imports inside the functions keep numpy, redis and boto3 out of `--help`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import examples, json_option, redis_option, take_over_option
from pipeline.cli.output import print_json, size, warn
from pipeline.common.errors import DatasetError, UnknownJobError, UsageError
from pipeline.common.settings import names_redis
from pipeline.stores import names_destination

if TYPE_CHECKING:
    from pipeline.client.removal import Removal
    from pipeline.jobs.ledger import Ledger


@click.command(
    "rm", epilog=examples("noisemill rm out", "noisemill rm fashion-3f9a2c --data --redis redis://host:6379/0 --yes")
)
@click.argument("job_or_dest", metavar="JOB_OR_DEST")
@click.option("--data", is_flag=True, help="With a job's id: its dataset too.")
@click.option("--cancel", is_flag=True, help="Cancel the job first if it is in progress.")
@take_over_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@redis_option
@json_option
def rm_command(
    job_or_dest: str, data: bool, cancel: bool, take_over: bool, yes: bool, redis_url: str | None, as_json: bool
) -> None:
    """Remove a dataset that noisemill made, or a job in Redis.

    For a destination, every file of its job is deleted, then empty folders; other files stay. With --redis or
    NOISEMILL_REDIS_URL its job is removed there too. A job's id removes the job there; with --data its dataset too.
    """

    from pipeline.jobs.ledger import open_ledger

    if not names_destination(job_or_dest):
        ledger = open_ledger(redis_url)
        document = _remove_job(job_or_dest, ledger, data=data, cancel=cancel, take_over=take_over, yes=yes)
    else:
        if data:
            raise UsageError("--data needs a job's id: a destination is its data")
        named = open_ledger(redis_url) if names_redis(redis_url) else None
        document = _remove_destination(job_or_dest, named, cancel=cancel, take_over=take_over, yes=yes)
    if as_json:
        print_json(document)
        return
    if document["files"]:
        click.echo(f"{document['destination']}: {document['files']:,} files removed, {size(document['size_bytes'])}")
        if document["others"]:
            click.echo(f"{document['others']:,} other files stay")
    if document["forgotten"]:
        click.echo(f"{document['job']}: removed from Redis")


def _remove_destination(
    destination: str, ledger: Ledger | None, *, cancel: bool, take_over: bool, yes: bool
) -> dict[str, Any]:
    from pipeline.client.removal import plan_removal, refuse_live, remove_dataset
    from pipeline.datasets.dataset import Dataset

    removal = plan_removal(destination)
    if ledger is not None:
        refuse_live(ledger, removal.job, cancel=cancel)
    _confirm(removal, yes=yes)
    remove_dataset(removal.destination, Dataset(removal.destination).spec.sha256, ledger, take_over=take_over)
    return {**removal.as_json(), "forgotten": ledger is not None and _forget(ledger, removal.job)}


def _remove_job(text: str, ledger: Ledger, *, data: bool, cancel: bool, take_over: bool, yes: bool) -> dict[str, Any]:
    from pipeline.client.removal import Removal, plan_removal, refuse_live, remove_dataset

    job = ledger.find_job(text)
    spec, destination = ledger.spec(job)
    removal = Removal(destination=destination, job=job, files=0, size_bytes=0, others=0)
    if data:
        try:
            found = plan_removal(destination)
        except DatasetError as error:
            warn(f"{error}: only the job is removed")
        else:
            if found.job != job:
                raise DatasetError(f"{destination} holds another job now, {found.job}: leave out --data")
            removal = found
    refuse_live(ledger, job, cancel=cancel)
    if removal.files:
        _confirm(removal, yes=yes)
        remove_dataset(destination, spec.sha256, ledger, take_over=take_over)
    return {**removal.as_json(), "forgotten": _forget(ledger, job)}


def _confirm(removal: Removal, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask: --yes removes {removal.destination} without a question")
    stay = f" {removal.others:,} other files stay." if removal.others else ""
    question = f"Remove {removal.destination}, {removal.files:,} files, {size(removal.size_bytes)}?{stay}"
    if not click.confirm(question, err=True):
        warn("nothing is removed")
        raise click.exceptions.Exit(1)


def _forget(ledger: Ledger, job: str) -> bool:
    try:
        return ledger.delete(job) == "forgotten"
    except UnknownJobError:
        return False
