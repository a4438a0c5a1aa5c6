"""Report: one HTML page about a dataset.

Imports inside the function keep numpy and Pillow out of `--help`.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import FILE, examples
from pipeline.cli.output import size, write_beside
from pipeline.spec import plan as shards


@click.command(
    "report", epilog=examples("noisemill report out", "noisemill report s3://bucket/clothes -o clothes.html")
)
@click.argument("destination", metavar="DEST")
@click.option("--output", "-o", type=FILE, help="Write the page here instead of to DEST.")
def report_command(destination: str, output: Path | None) -> None:
    """Write one HTML page about a dataset, complete or not: report.html at DEST.

    It shows samples, classes, values, similar samples, speed, provenance, how to read the dataset and how to make it
    again. The page is self-contained: it needs no network, no server and no scripts.
    """

    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.report import gather_findings, page

    dataset = Dataset(destination)
    text = page(gather_findings(dataset)).encode()
    click.echo(f"{write_beside(dataset, shards.REPORT, text, output)} ({size(len(text))})")
