"""Doctor: checks what works, and prints what to do about the rest.

Imports inside the function keep the checks' packages out of `--help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import examples, json_option, redis_option
from pipeline.cli.output import print_json
from pipeline.common.settings import load_settings

if TYPE_CHECKING:
    from pipeline.fleet.doctor import Finding

#: Column at which the text of a check begins.
_INDENT = 20


@click.command("doctor", epilog=examples("noisemill doctor", "noisemill doctor s3://bucket/clothes"))
@click.argument("destination", metavar="[DEST]", required=False)
@redis_option
@json_option
def doctor_command(destination: str | None, redis_url: str | None, as_json: bool) -> None:
    """Check Redis, workers, jobs, schedules, devices and generators, and the storage of DEST if given.

    Each line says ok, warning or problem, and what to do. A file is written to DEST, read, listed and deleted; nothing
    else is changed. Exit code 1 if there is a problem; warnings do not count.
    """
    from pipeline.fleet.doctor import run_checks

    findings = []
    for finding in run_checks(load_settings(redis_url=redis_url), destination):
        findings.append(finding)
        if not as_json:
            _print_finding(finding)
    if as_json:
        print_json([finding.as_json() for finding in findings])
    if not all(finding.works for finding in findings):
        raise click.exceptions.Exit(1)


def _print_finding(finding: Finding) -> None:
    says = "\n".join([finding.says, *(f"WARNING: {warning}" for warning in finding.warnings)])
    click.echo(f"{finding.state:<8}{finding.check + ':':<12}" + says.replace("\n", "\n" + " " * _INDENT))
