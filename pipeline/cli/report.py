"""Report and card: what people and dataset searches see of a dataset.

Imports inside the functions keep numpy and Pillow out of `--help`.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click

from pipeline.cli.options import FILE, examples, json_option
from pipeline.cli.output import print_json, size, write_beside
from pipeline.common.errors import UsageError, shown
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


@click.command(
    "card",
    epilog=examples("noisemill card out", "noisemill card s3://bucket/clothes --url https://example.org/clothes"),
)
@click.argument("destination", metavar="DEST")
@click.option("--url", metavar="URL", help="The web page of the dataset, for its metadata.")
@json_option
def card_command(destination: str, url: str | None, as_json: bool) -> None:
    """Write the card and the metadata of a complete dataset again: README.md and croissant.json at DEST.

    Each job writes them at its end; older datasets lack croissant.json, the Croissant 1.0 metadata by which searches
    find datasets. License and authors are those in the generator's generator.toml.
    """

    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.finishing import write_card

    if url is not None and not re.fullmatch(r"https?://[^\s\"<>]{1,2000}", url):
        raise UsageError(f"--url {shown(url)} is not an http:// or https:// URL")
    dataset = Dataset(destination)
    manifest = dataset.manifest()
    if manifest is None or not dataset.whole:
        raise UsageError(f"{dataset.url} is not complete: 'noisemill resume {shlex.quote(dataset.url)}' completes it")
    receipts = dataset.receipts()
    ordered = [receipts[index] for index in sorted(receipts)]
    write_card(dataset, manifest, ordered, has_preview=dataset.store.exists(shards.PREVIEW), url=url)
    if as_json:
        print_json(json.loads(dataset.store.read(shards.CROISSANT)))
        return
    for name in (shards.CARD, shards.CROISSANT):
        click.echo(f"{dataset.url}/{name}")
