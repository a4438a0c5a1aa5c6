"""Single samples, and the steps between two."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli.generators import known_generator
from pipeline.cli.options import (
    FILE,
    candidate_options,
    examples,
    json_option,
    sampler_options,
    settings_option,
    together,
    trust_option,
)
from pipeline.cli.output import print_json, write_file
from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_SEED
from pipeline.generators import Generator

#: Encodes samples, with their generator and a title, as the bytes of a file.
_Encoder = Callable[[Any, Generator, str], bytes]

_draw_options = together(
    click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Seed of the job."),
    click.option("--label", metavar="K", help="Class, by number or name.  [default: as in plan `balanced`]"),
    click.option("--noise", default="normal", show_default=True, metavar="NOISE", help="As for generate."),
    click.option("--attributes", metavar="V,V,...", help="The generator's attributes."),
    settings_option,
    trust_option,
)


@click.command("sample", epilog=examples("noisemill sample fashion --index 7 --output boot.png"))
@click.argument("generator")
@click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="Index of the sample in the job.")
@_draw_options
@sampler_options("--steps", "sampler_steps")
@candidate_options
@click.option(
    "--output",
    "-o",
    type=FILE,
    metavar="FILE",
    help="Write .png, .npy (float32) or .html.  [default: a heatmap in text]",
)
@click.option(
    "--html",
    type=FILE,
    metavar="FILE",
    help="Write an interactive heatmap; the same as --output FILE.html.",
)
@json_option
def sample_command(
    generator: str,
    index: int,
    seed: int,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make one sample: the one that a job with this seed stores at this index."""
    if html is not None:
        if output is not None or html.suffix != ".html":
            raise UsageError("--html takes a FILE.html, and excludes --output")
        output = html
    # numpy, which the help does not need.
    from pipeline.generators.sampling import draw

    found = known_generator(generator)
    encode = _encoder(output, (".png", ".npy", ".html")) if output is not None else None
    drawn = draw(found, index, seed=seed, **options)
    sample, name = drawn.samples[0], _class_name(found, drawn.labels)
    title = f"{found.name}, seed {seed}, sample {index}" + (f", {name}" if name else "")
    if drawn.candidate is not None:
        title += f", candidate {drawn.candidate} of {options['best_of']}, score {drawn.score:.4g}"
    if output is not None and encode is not None:
        write_file(output, encode(sample, found, title))
    if as_json:
        print_json(
            {
                "generator": found.reference,
                "digest": found.digest,
                "seed": seed,
                "index": index,
                "label": None if drawn.labels is None else drawn.labels[0],
                "class": name,
                **({} if drawn.candidate is None else {"candidate": drawn.candidate, "score": drawn.score}),
                "shape": list(sample.shape),
                "minimum": float(sample.min()),
                "maximum": float(sample.max()),
                "mean": float(sample.mean(dtype="float64")),
                "output": None if output is None else str(output),
            }
        )
        return
    if output is None:
        _show(sample, found)
    click.echo(str(output) if output else title)


@click.command("interpolate", epilog=examples("noisemill interpolate fashion 3 14 --steps 9 --output way.png"))
@click.argument("generator")
@click.argument("first", metavar="A", type=click.IntRange(0))
@click.argument("last", metavar="B", type=click.IntRange(0))
@click.option("--steps", type=click.IntRange(2, 1000), default=8, show_default=True, help="Samples, A and B included.")
@_draw_options
@sampler_options("--sampler-steps")
@candidate_options
@click.option(
    "--output",
    "-o",
    type=FILE,
    default="interpolation.png",
    show_default=True,
    metavar="FILE",
    help="Write a strip (.png), or the samples (.npy, float32).",
)
def interpolate_command(
    generator: str,
    first: int,
    last: int,
    steps: int,
    output: Path,
    **options: Any,
) -> None:
    """Draw the steps from sample A to sample B of a job, by spherical interpolation of their latents."""
    # numpy, which the help does not need.
    from pipeline.generators.sampling import interpolate

    found = known_generator(generator)
    encode = _encoder(output, (".png", ".npy"))
    drawn = interpolate(found, first, last, steps, **options)
    write_file(output, encode(drawn.samples, found, ""))
    click.echo(str(output))


def _class_name(generator: Generator, labels: tuple[int, ...] | None) -> str | None:
    classes = generator.interface.classes
    return None if labels is None or classes is None else classes[labels[0]]


def _show(sample: Any, generator: Generator) -> None:
    from pipeline.datasets.report import heatmap  # numpy and Pillow, which the help does not need.

    click.echo(heatmap.text(sample, generator.interface.value_range, shutil.get_terminal_size().columns))


def _encoder(output: Path, suffixes: tuple[str, ...]) -> _Encoder:
    """The encoder for this file; called before anything is computed, to check the name."""
    if output.suffix not in suffixes:
        raise UsageError(f"output {str(output)!r} must end in {', '.join(suffixes)}")
    if not os.path.isdir(output.absolute().parent):
        raise UsageError(f"output {str(output)!r}: there is no folder {str(output.parent)!r}")
    return {".png": _png, ".npy": _npy, ".html": _html}[output.suffix]


def _png(samples: Any, generator: Generator, _title: str) -> bytes:
    from pipeline.datasets.report import heatmap  # numpy and Pillow, which the help does not need.

    one = samples.ndim == len(generator.interface.sample_shape)
    return (heatmap.png if one else heatmap.strip)(samples, generator.interface.value_range)


def _npy(samples: Any, _generator: Generator, _title: str) -> bytes:
    import numpy as np  # Which the help does not need.

    file = io.BytesIO()
    np.save(file, samples)
    return file.getvalue()


def _html(samples: Any, generator: Generator, title: str) -> bytes:
    from pipeline.datasets.report import heatmap  # numpy and Pillow, which the help does not need.

    return heatmap.html(samples, generator.interface.value_range, title).encode()
