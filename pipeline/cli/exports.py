"""Export: converts a dataset to another format.

Imports inside the functions keep numpy and boto3 out of `--help`.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

import click

from pipeline.cli.interruption import interruptible
from pipeline.cli.options import Count, Whole, examples, json_option
from pipeline.cli.output import duration, print_json, rate, size


@click.command(
    "export",
    epilog=examples(
        "noisemill export out pictures --to png --layout class",
        "noisemill export s3://bucket/clothes s3://bucket/tars --to tar",
        "noisemill export out fashion.npz --to npz --channels 3",
    ),
)
@click.argument("destination", metavar="DEST")
@click.argument("out", metavar="OUT")
@click.option("--to", "form", required=True, metavar="FORMAT", help="npy|png|tar|tfrecord|parquet|npz")
@click.option("--dtype", metavar="float32|float16|uint8", help="Stored type.  [default: unchanged; as PNG: uint8]")
@click.option("--layout", metavar="flat|class", help="Folders of PNGs: by shard or by class.  [default: flat]")
@click.option("--shard-size", type=Count(), help="Samples per shard.  [default: unchanged]")
@click.option("--channels", type=Whole(3, 3), help="Of npz: 3 for RGB, grey images repeated.")
@click.option("--arrays", metavar="IMAGES,LABELS", help="Of npz: names of the arrays.  [default: arr_0,arr_1]")
@json_option
def export_command(
    destination: str,
    out: str,
    form: str,
    dtype: str | None,
    layout: str | None,
    shard_size: int | None,
    channels: int | None,
    arrays: str | None,
    as_json: bool,
) -> None:
    """Convert a complete dataset, with its labels, to another format. DEST and OUT are folders or s3://bucket/prefix.

    OUT must be new or empty, or hold the same export, interrupted, which is continued. The result is a dataset like any
    other, except for npz, one file OUT.npz for FID tools: arr_0 uint8 (n, height, width, channels), arr_1 labels.
    Floats become uint8 by the generator's range. Precision cannot increase: uint8 cannot become floats.
    """

    from pipeline.cli.progress import counted
    from pipeline.datasets.export import export

    started = time.monotonic()
    given = {"dtype": dtype, "layout": layout, "shard_size": shard_size, "channels": channels, "arrays": arrays}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = {"--to": form} | {f"--{name.replace('_', '-')}": value for name, value in chosen.items()}
    text = " ".join(f"{name} {shlex.quote(str(value))}" for name, value in options.items())
    again = f"noisemill export {shlex.quote(destination)} {shlex.quote(out)} {text}"
    with interruptible(f"'{again}' {'starts again' if form == 'npz' else 'continues'}"), counted("export") as progress:
        done = export(destination, out, to=form, **chosen, progress=progress)
    seconds = time.monotonic() - started
    made = done.count - done.count_found
    if as_json:
        print_json({**done.as_json(), "seconds": round(seconds, 3), "rate": made / seconds})
        return
    files = "one file" if form == "npz" else f"{done.shards:,} shards"
    click.echo(f"{done.count:,} samples in {files}, {size(done.size_bytes)}: {done.out}")
    if made == 0:
        click.echo("everything existed already")
        return
    share = f" ({made:,} written now)" if done.count_found else ""
    click.echo(f"{rate(made / seconds)}{share}; {duration(seconds)} in all")
