"""Recipes: recipe, reproduce.

Imports inside the functions keep numpy, redis and Celery out of `--help`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.interruption import interruptible
from pipeline.cli.options import device_option, examples, generator_options, json_option, redis_option
from pipeline.cli.output import print_json, print_manifest_hash, print_table, size, warn, write_file
from pipeline.common.quantities import MAX_WORKERS
from pipeline.common.settings import names_redis

if TYPE_CHECKING:
    from pipeline.client.reproduction import Reproduction

#: The most shards listed one by one.
_MOST_ROWS = 40


@click.command(
    "recipe",
    epilog=examples(
        "noisemill recipe out", "noisemill recipe s3://bucket/clothes --generator s3://models/clothes.keras"
    ),
)
@click.argument("destination", metavar="DEST")
@click.option(
    "--output", "-o", metavar="FILE", help="Where to write it; - is stdout.  [default: DEST's name.recipe.json]"
)
@click.option("--generator", metavar="REF", help="Where others find the generator, if not where the job found it.")
@click.option("--judge", metavar="REF", help="Where others find the judge, if not where the job found it.")
@json_option
def recipe_command(
    destination: str, output: str | None, generator: str | None, judge: str | None, as_json: bool
) -> None:
    """Write the recipe of a complete dataset: a small file from which `reproduce` makes it again elsewhere.

    It contains the definition of every sample, and for each shard data to compare it with. No shard is read.
    """

    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.recipe import recipe_of
    from pipeline.generators import find_generator, find_judge

    dataset = Dataset(destination)
    if generator is not None:
        found = find_generator(generator)
        if found.digest != dataset.spec.digest:
            raise click.UsageError(
                f"generator {generator!r} is not the one that made {dataset.url}: its digest differs"
            )
        generator = found.reference
    if judge is not None:
        named = find_judge(judge)
        if named.digest != dataset.spec.judge_digest:
            raise click.UsageError(f"judge {judge!r} is not the one of {dataset.url}: its digest differs")
        judge = named.reference
    recipe = recipe_of(dataset, generator=generator, judge=judge)
    text = recipe.to_json()
    if output == "-":
        click.echo(text, nl=False)
        return
    path = Path(output or f"{dataset.url.rstrip('/').rpartition('/')[2] or 'dataset'}.recipe.json")
    write_file(path, text.encode())
    manifest = dataset.manifest()
    assert manifest is not None
    recipe_bytes = len(text.encode())
    if as_json:
        document = {
            "output": str(path),
            "size_bytes": recipe_bytes,
            "shards": len(dataset.plan),
            "count": len(dataset),
            "dataset_bytes": manifest.size_bytes,
            "embedded": sorted(name for name, each in recipe.inputs.items() if each.data is not None),
            "referenced": sorted(name for name, each in recipe.inputs.items() if each.data is None),
            "generator": recipe.where,
        }
        print_json(document)
        return
    click.echo(
        f"{path}: {size(recipe_bytes)} for {len(dataset):,} samples, {size(manifest.size_bytes)} "
        f"in {len(dataset.plan):,} shards"
    )
    click.echo(f"generator: {recipe.spec.generator_name}, {recipe.where}")
    for name, each in recipe.inputs.items():
        if each.data is None:
            warn(f"{name} ({size(each.size_bytes)}) is too large for a recipe: its users need that file too")


@click.command(
    "reproduce",
    epilog=examples("noisemill reproduce out.recipe.json again --shards 17,20-25"),
)
@click.argument("recipe_file", metavar="RECIPE")
@click.argument("destination", metavar="DEST")
@click.option("--shards", "only", metavar="LIST", help="Make only these shards: 17,20-25.")
@generator_options
@click.option("--latents", metavar="FILE.npy", help="The latents of the dataset, if the recipe does not contain them.")
@click.option("--attributes", metavar="FILE.npy", help="The attributes, if the recipe does not contain them.")
@click.option("--labels", metavar="FILE", help="The labels of the dataset, if the recipe does not contain them.")
@click.option("--workers", "--parallel", "workers", type=click.IntRange(1, MAX_WORKERS), help="Workers.  [default: 1]")
@device_option
@redis_option
@json_option
def reproduce_command(
    recipe_file: str,
    destination: str,
    only: str | None,
    workers: int | None,
    device: str,
    redis_url: str | None,
    as_json: bool,
    **source: Any,
) -> None:
    """Make the dataset of a recipe, or some of its shards, and compare each shard with the original.

    A shard is bit-equal, within tolerance (by four sums over all values), or different. Exit code 1 if any is
    different. With --redis or NOISEMILL_REDIS_URL the job is queued there and waited for, else it is made on this
    machine.
    """

    from pipeline.cli.progress import job_progress
    from pipeline.client.making import LocalRun
    from pipeline.client.recipes import read_recipe
    from pipeline.client.reproduction import reproduce
    from pipeline.jobs.ledger import open_ledger
    from pipeline.stores import normalise

    recipe = read_recipe(recipe_file)
    ledger = open_ledger(redis_url) if names_redis(redis_url) else None
    place = normalise(destination)
    files = {name: source.pop(name) for name in ("latents", "attributes", "labels")}
    again = f"noisemill reproduce {shlex.quote(recipe_file)} {shlex.quote(place)}"
    again += f" --shards {only}" if only else ""
    with interruptible(f"'{again}' continues"), job_progress() as progress:
        run = LocalRun(
            workers=workers or (0 if ledger else 1), device=device, watcher=progress.show, notice=progress.notify
        )
        made = reproduce(recipe, place, run, ledger=ledger, only=only, files=files, **source)
    if as_json:
        print_json(made.as_json())
    else:
        _print(made)
    if not made.same:
        raise click.exceptions.Exit(1)


def _print(made: Reproduction) -> None:
    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.receipts import NOT_REPRODUCIBLE
    from pipeline.datasets.recipe import CLOSE, DIFFERENT, UNCOMPARABLE, VERDICTS

    counts = made.counts()
    # All shards if they are few, else those that are not bit-equal.
    listed = (
        made.shards if len(made.shards) <= _MOST_ROWS else [each for each in made.shards if each.verdict == DIFFERENT]
    )
    rows = [
        [
            str(each.shard),
            f"{each.first:,} to {each.first + each.count - 1:,}",
            each.verdict,
            "unknown" if each.difference is None else f"{each.difference:.1e}" if each.difference else "0",
        ]
        for each in listed[:_MOST_ROWS]
    ]
    if rows:
        print_table(["SHARD", "SAMPLES", "IS", "DIFFERENCE"], rows, empty="")
    if len(listed) > _MOST_ROWS:
        click.echo(f"and {len(listed) - _MOST_ROWS:,} more; --json lists them all")
    part = f"shards {made.selection} of {made.of:,}" if made.selection else f"{made.of:,} shards"
    verdicts = ", ".join(f"{counts[name]:,} {name}" for name in VERDICTS if counts[name])
    click.echo(f"{made.destination}: {part}: {verdicts}")
    manifest = Dataset(made.destination).manifest()
    if manifest is not None:
        print_manifest_hash(manifest)
    if counts[UNCOMPARABLE]:
        click.echo(NOT_REPRODUCIBLE)
    if counts[CLOSE] or counts[DIFFERENT]:
        click.echo(f"tolerance: {made.tolerance:.1e} of full scale, root mean square over a shard")
        for condition in made.conditions:
            click.echo(f"other conditions: {condition}")
