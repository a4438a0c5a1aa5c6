"""Evaluate: compares a dataset's samples with real images.

Imports inside the functions keep numpy and rich out of `--help`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import Count, Whole, examples, json_option
from pipeline.cli.output import duration, is_terminal, print_json
from pipeline.common.quantities import MAX_SEED

if TYPE_CHECKING:
    from pipeline.datasets.evaluation.evaluation import ClassFigures, Evaluation, NearCopies


@click.command(
    "evaluate", epilog=examples("noisemill evaluate out", "noisemill evaluate out --real flowers --limit 5k")
)
@click.argument("destination", metavar="DEST")
@click.option("--real", metavar="DIR", help="Real images: a folder per class, idx files, or an .npz.")
@click.option("--limit", type=Count(), default=20_000, show_default=True, help="Most samples, and most real images.")
@click.option("--seed", type=Whole(0, MAX_SEED), default=0, show_default=True, help="Seed of the classifiers.")
@click.option("--save", is_flag=True, help="Keep the result at DEST; then 'report' shows it.")
@json_option
def evaluate_command(destination: str, real: str | None, limit: int, seed: int, save: bool, as_json: bool) -> None:
    """Compare samples with real images, by a small classifier.

    The metrics: how many samples it recognizes; its accuracy on real images after training on samples only (TSTR); the
    diversity of samples; how much of the real data they cover; their distance from it; how many are near copies of a
    training image. For `fashion`, the default real data is Debian's dataset-fashion-mnist.
    """

    from rich.console import Console

    from pipeline.datasets.evaluation.evaluation import evaluate

    started = time.monotonic()
    console = Console(stderr=True)
    if is_terminal():
        with console.status("reading") as status:
            found = evaluate(destination, real=real, limit=limit, seed=seed, save=save, progress=status.update)
    else:
        found = evaluate(
            destination,
            real=real,
            limit=limit,
            seed=seed,
            save=save,
            progress=lambda words: click.echo(words, err=True),
        )
    if as_json:
        print_json(found.as_json())
        return
    print_evaluation(found)
    click.echo(f"{duration(time.monotonic() - started)} in all")


def print_evaluation(found: Evaluation) -> None:
    """Prints the metrics as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("class", "consistency", "TSTR", "real", "diversity")
    rows: list[tuple[str, ClassFigures | Evaluation]] = [*found.classes.items(), ("all", found)]
    for name, figures in rows:
        values = (figures.consistency, figures.tstr, figures.real, figures.diversity)
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        table.add_row(name, *cells, style="bold" if name == "all" else "")
    console.print(table)
    beside = f"{found.real_training:,} real images for training, {found.real_test:,} for testing"
    for name, text in (
        ("compared", f"{found.samples:,} samples with {beside}"),
        ("TSTR as a share of real", f"{found.tstr_of_real:.3f}"),
        (
            "Frechet distance",
            f"{found.frechet:.2f} (real images {found.frechet_of_real:.2f}), on the classifier's features",
        ),
        ("coverage", f"{found.coverage:.3f} (real images {found.coverage_of_real:.3f})"),
        ("novelty", f"{found.novelty:.3f}"),
        ("near copies", found.near_copies.describe()),
        ("nearest to real images", _pairs(found.near_copies)),
        ("distinct samples", f"{found.distinct_samples:,} of {found.samples:,}"),
    ):
        click.echo(f"{name:<25}{text}")


def _pairs(found: NearCopies) -> str:
    """The closest pairs, as text."""
    named = (f"sample {pair.sample:,} (image {pair.real:,}, {pair.distance:.3f})" for pair in found.pairs[:3])
    return ", ".join(named)
