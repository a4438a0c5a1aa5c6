"""`--on-done`: a command of the user, run after a job made on this machine has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from pipeline.cli.output import warn
from pipeline.common.errors import JobFailedError, WorkerError

on_done_option = click.option(
    "--on-done", metavar="COMMAND", help="Shell command to run when the job is done or has failed; see NOISEMILL_STATE."
)


@contextmanager
def run_if_failed(command: str | None, destination: str, count: int) -> Iterator[None]:
    """Runs the user's command if the job fails. The exit code is that of the failure, not of the command."""

    from pipeline.jobs.webhooks import run_on_done

    try:
        yield
    except (JobFailedError, WorkerError) as error:
        if command is not None:
            code = run_on_done(command, state="failed", destination=destination, count=count, error=str(error))
            if code:
                warn(f"the --on-done command ended with {code}")
        raise


def run_if_done(command: str | None, destination: str, count: int) -> None:
    """Runs the user's command after the job is done. Exits with 1 if the command fails; the data is not affected."""

    from pipeline.jobs.webhooks import run_on_done

    if command is None:
        return
    code = run_on_done(command, state="done", destination=destination, count=count)
    if code:
        warn(f"the dataset is complete, but the --on-done command ended with {code}")
        raise click.exceptions.Exit(1)
