"""Generators: list the built-in ones, inspect any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from pipeline.cli.options import examples, json_option, trust_option
from pipeline.cli.output import print_json, print_table, size, warn, write_file
from pipeline.common.errors import UsageError
from pipeline.generators import Generator, Judge, builtin_names, find_generator, find_judge, judge_names, remember


@click.group(
    "generators",
    epilog=examples("noisemill generators", "noisemill generators inspect fashion"),
    invoke_without_command=True,
)
@json_option
@click.pass_context
def generators_command(ctx: click.Context, as_json: bool) -> None:
    """List the built-in generators and judges; `inspect REF` shows the details of one."""
    if ctx.invoked_subcommand is not None:
        return
    found = [find_generator(name).as_json() for name in builtin_names()]
    if as_json:
        print_json(found)
        return
    rows = [[one["name"], _shape(one["sample_shape"]), str(len(one["classes"] or ())), one["summary"]] for one in found]
    print_table(["GENERATOR", "SAMPLE", "CLASSES", "SUMMARY"], rows, empty="none")
    click.echo()
    judges = [find_judge(name) for name in judge_names()]
    rows = [[one.name, _shape(one.image.shape), str(one.width), one.summary] for one in judges]
    print_table(["JUDGE", "SAMPLE", "CLASSES", "SUMMARY"], rows, empty="none")


@generators_command.command("inspect", epilog=examples("noisemill generators inspect fashion"))
@click.argument("reference", metavar="REF")
@click.option("--as-judge", is_flag=True, help="REF is a judge: a network for --judge.")
@trust_option
@json_option
def inspect_command(reference: str, as_judge: bool, as_json: bool) -> None:
    """Show the inputs, output and digest of a generator or judge."""
    from pipeline.spec.job_spec import format_settings

    if as_judge or reference in judge_names():
        _inspect_judge(remember(find_judge(reference)), as_json)
        return
    found = remember(find_generator(reference)).as_json()
    if as_json:
        print_json(found)
        return
    label = f"{found['label_input'] or 'in the latent'} ({found['label_encoding']})" if found["classes"] else "none"
    facts: list[tuple[str, Any]] = [
        ("name", found["name"]),
        ("kind", found["kind"]),
        ("model", f"{found['model']} ({size(found['size_bytes'])})"),
        ("digest", found["digest"]),
        ("latent", f"{_parts(found['latent_parts']) or found['latent_input']} {_shape(found['latent_shape'])}"),
        *([("noise", _parts(found["noise_inputs"]))] if found["noise_inputs"] else []),
        *([("attributes", _parts([found["attributes_input"]]))] if found["attributes_input"] else []),
        *([("settings", format_settings(found["constants"]))] if found["constants"] else []),
        *_denoising(found),
        ("label", label),
        ("classes", ", ".join(found["classes"] or ()) or "none"),
        (
            "sample",
            _shape(found["sample_shape"]) + (" (channels first in the model)" if found["channels_first"] else ""),
        ),
        ("output", found["output"]),
        ("range", found["value_range"] or "unknown: only floats can be stored"),
        ("weights", _number(found["parameters"])),
        ("FLOP", _flop(found)),
        *((name, ", ".join(value) if name == "authors" else value) for name, value in found["about"].items()),
        *(("code", f"{path} (sha256:{sha256[:12]})") for path, sha256 in found["code"].items()),
        *(("note", note) for note in found["notes"]),
    ]
    for name, value in facts:
        click.echo(f"{name + ':':<10}{value}")


@generators_command.command("init", epilog=examples("noisemill generators init my.keras"))
@click.argument("path", metavar="PATH")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@trust_option
def init_command(path: str, force: bool) -> None:
    """Write a draft of generator.toml beside a model.

    It contains guesses, and questions as comments.
    """

    from pipeline.generators.catalogue import locate, sidecar_paths, structure_of
    from pipeline.generators.kinds import content_sha256
    from pipeline.generators.remote import is_remote
    from pipeline.generators.sidecar_draft import draft_sidecar
    from pipeline.generators.trusted_code import code_offers

    if path in builtin_names() or is_remote(path):
        raise UsageError(f"{path!r} is not a file: give the path of one of your models")
    kind, model = locate(path)
    place = sidecar_paths(model)[0]
    there = next((each for each in sidecar_paths(model) if each.exists()), None)
    if there is not None and not force:
        raise UsageError(f"{there} exists already: edit it, or replace it with --force")
    structure = structure_of(kind, model, content_sha256(kind, model), offers=code_offers(model, ()))
    text = draft_sidecar(structure, model.name)
    write_file(there or place, text.encode())
    click.echo(there or place)


def _inspect_judge(judge: Judge, as_json: bool) -> None:
    if as_json:
        print_json(judge.as_json())
        return
    ends = judge.value_range
    facts = [
        ("name", judge.name),
        ("kind", judge.kind),
        ("model", f"{judge.model} ({size(judge.size_bytes)})"),
        ("digest", judge.digest),
        ("image", f"{judge.image.name} {_shape(judge.image.shape)}"),
        ("range", f"{ends[0]:g} to {ends[1]:g}" if ends else "as the generator makes it"),
        ("label", judge.label.name if judge.label else "not told"),
        ("score", f"{judge.output.name}: {judge.meaning}"),
        ("FLOP", f"{_number(judge.structure.flop)} per candidate"),
    ]
    for name, value in facts:
        click.echo(f"{name + ':':<9} {value}")


def _parts(inputs: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return " + ".join(f"{name} {_shape(shape)}" for name, shape in inputs)


def _denoising(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How a sample is made of a denoiser; nothing of other generators."""
    if (denoiser := found["denoiser"]) is None:
        return
    constants = ", ".join(f"{name} {value}" for name, value in denoiser["constants"])
    yield "predicts", f"{denoiser['predicts']}; {denoiser['time_input']} takes the {denoiser['time_as']}"
    yield "schedule", f"{denoiser['schedule']}: {constants}"
    yield "sampler", f"{found['sampler']}, unless a job says otherwise"
    if denoiser["none"] is not None:
        yield "no label", str(denoiser["none"])


def _flop(found: dict[str, Any]) -> str:
    total = f"{_number(found['flop_per_sample'])} per sample"
    return f"{total}, {_number(found['flop'])} each time that the network is evaluated" if found["sampler"] else total


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def known_generator(reference: str) -> Generator:
    """The generator of a reference; prints its warnings."""
    found = find_generator(reference)
    for note in found.structure.notes:
        warn(f"{found.name}: {note}")
    return found
