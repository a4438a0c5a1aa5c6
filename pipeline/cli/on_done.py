"""`--on-done`: the user's command, run where a job that was made here has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from pipeline.cli.output import warn
from pipeline.common.errors import JobFailedError, WorkerError

on_done_option = click.option(
    "--on-done", metavar="COMMAND", help="Run by the shell when the job is done or has failed; see NOISEMILL_STATE."
)


@contextmanager
def telling_failure(command: str | None, destination: str, count: int) -> Iterator[None]:
    """Runs the user's command where the job fails; the failure is the answer, whatever the command says."""

    from pipeline.jobs.webhooks import run_on_done

    try:
        yield
    except (JobFailedError, WorkerError) as error:
        if command is not None:
            code = run_on_done(command, state="failed", destination=destination, count=count, error=str(error))
            if code:
                warn(f"the --on-done command ended with {code}")
        raise


def tell_done(command: str | None, destination: str, count: int) -> None:
    """Runs the user's command after all is done. Exit code 1 where it fails: nothing of the data is lost by that."""

    from pipeline.jobs.webhooks import run_on_done

    if command is None:
        return
    code = run_on_done(command, state="done", destination=destination, count=count)
    if code:
        warn(f"the dataset is whole, but the --on-done command ended with {code}")
        raise click.exceptions.Exit(1)
