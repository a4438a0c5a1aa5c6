"""Datasets: verify, preview, latents.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import click

from pipeline.cli.options import FILE, Count, Whole, examples, generator_options, json_option
from pipeline.cli.output import is_terminal, print_json, shard_count, size, warn, write_beside, write_file
from pipeline.common.errors import UsageError, shown
from pipeline.common.quantities import MAX_COUNT
from pipeline.spec import plan as shards


@click.command("verify", epilog=examples("noisemill verify out --recompute 100"))
@click.argument("destination", metavar="DEST")
@click.option(
    "--recompute", type=Whole(0, MAX_COUNT), default=0, metavar="N", help="Compute N random samples again and compare."
)
@click.option(
    "--manifest-sha256", metavar="HASH", help="Hash that manifest.json must have, as printed at the end of its job."
)
@generator_options
@json_option
def verify_command(
    destination: str,
    recompute: int,
    manifest_sha256: str | None,
    generator: str | None,
    judge: str | None,
    trust_generator: bool,
    as_json: bool,
) -> None:
    """Check hashes, counts and coverage of all shards. Exit code 1 if anything is wrong."""

    from rich.console import Console
    from rich.progress import Progress

    from pipeline.datasets.verification import verify

    if manifest_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", manifest_sha256):
        raise UsageError(f"--manifest-sha256 {shown(manifest_sha256)} is not a SHA-256: it has 64 hexadecimal digits")
    with Progress(console=Console(stderr=True), transient=True, disable=not is_terminal()) as bar:
        task = bar.add_task("verify")
        report = verify(
            destination,
            recompute=recompute,
            manifest_sha256=manifest_sha256,
            generator=generator,
            judge=judge,
            trust_generator=trust_generator,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(report.as_json())
    else:
        if report.sound:
            click.echo(
                f"{report.destination}: sound; "
                + (f"only shards {report.selection}, as selected: " if report.selection else "")
                + f"{report.count:,} samples in {shard_count(report.shards)}, "
                f"{size(report.bytes_checked)} hashed"
            )
        if again := report.recomputed:
            click.echo(
                f"{again.identical} of {again.samples} recomputed samples are identical bit for bit; "
                f"the largest difference is {again.largest_difference:.1e} of full scale"
            )
        for note in report.notes:
            click.echo(f"note: {note}")
    for problem in report.problems[:20]:
        warn(problem)
    if len(report.problems) > 20:
        warn(f"and {len(report.problems) - 20} more problems; --json lists them all")
    if report.mendable and report.selection:
        warn(f"'noisemill reproduce RECIPE {shlex.quote(report.destination)} --shards {report.selection}' repairs it")
    elif report.mendable:
        warn(f"'noisemill resume {shlex.quote(report.destination)}' makes what is missing or damaged again")
    if not report.sound:
        raise click.exceptions.Exit(1)


@click.command(
    "preview", epilog=examples("noisemill preview out", "noisemill preview s3://bucket/clothes --output sheet.png")
)
@click.argument("destination", metavar="DEST")
@click.option("--output", "-o", type=FILE, help="Write the PNG here instead of to DEST.")
def preview_command(destination: str, output: Path | None) -> None:
    """Draw the contact sheet, one row per class: as PNG, and in the terminal if it shows colors."""

    from rich.console import Console

    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.report.preview import contact_sheet, terminal_sheet
    from pipeline.formats.image import image_shape

    dataset = Dataset(destination)
    sheet = contact_sheet(dataset)
    if sheet is None and image_shape(dataset.spec.sample_shape) and dataset.spec.format != "null":
        raise UsageError(f"{dataset.url} has no samples yet: try again when the first shard is done")
    if sheet is None:
        raise UsageError(f"{dataset.url} has no images: samples are {dataset.spec.sample_shape}, {dataset.spec.format}")
    written = write_beside(dataset, shards.PREVIEW, sheet, output)
    console = Console()
    if console.is_terminal:
        click.echo(terminal_sheet(dataset, console.width))
    click.echo(written)


@click.command("latents", epilog=examples("noisemill latents out --index 123"))
@click.argument("destination", metavar="DEST")
@click.option("--index", type=Whole(0, MAX_COUNT), required=True, help="First sample.")
@click.option("--count", type=Count(), default=1, show_default=True, help="How many.")
@click.option("--output", "-o", type=FILE, help="Write the latents to this .npy file.")
@json_option
def latents_command(destination: str, index: int, count: int, output: Path | None, as_json: bool) -> None:
    """Show the latent and the label of a sample."""

    import numpy as np

    from pipeline.datasets.dataset import Dataset

    dataset = Dataset(destination)
    if index + count > len(dataset):
        raise UsageError(f"samples {index} to {index + count - 1} do not all exist: the dataset has {len(dataset):,}")
    rows, labels = dataset.latents(index, count), dataset.labels(index, count)
    if output is not None:
        file = io.BytesIO()
        np.save(file, rows)
        write_file(output, file.getvalue())
    names = dataset.spec.classes
    winners = dataset.winners(index, count)
    below = set(dataset.below_min_score(index, count).tolist())
    if as_json:
        print_json(
            [
                {
                    "index": index + row,
                    **({} if winners is None else {"candidate": int(winners[row]), "below": index + row in below}),
                    "label": None if labels is None else int(labels[row]),
                    "class": None if labels is None or names is None else names[labels[row]],
                    "latent": [float(value) for value in rows[row].ravel()],
                }
                for row in range(count)
            ]
        )
        return
    for row in range(count):
        label = "" if labels is None or names is None else f"label {labels[row]} ({names[labels[row]]}), "
        latent = np.array2string(rows[row].ravel(), precision=4, threshold=12, max_line_width=100)
        won = "" if winners is None else f"candidate {winners[row]} of {dataset.spec.best_of}, "
        won += "below the minimum score, " if index + row in below else ""
        click.echo(f"sample {index + row}: {label}{won}latent {latent}")
