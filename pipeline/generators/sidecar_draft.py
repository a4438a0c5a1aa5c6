"""Drafts a `generator.toml` for a model: guesses, and questions as comments."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from pipeline.generators.denoiser import SCHEDULES, TIMES
from pipeline.generators.interface import latent_and_label, time_of_denoiser
from pipeline.generators.sidecar import Sidecar
from pipeline.generators.structure import Port, Shape, Structure

_NOTHING = Sidecar()


def draft_sidecar(structure: Structure, what: str) -> str:
    """The text of a `generator.toml` for a model with this structure; `what` is its name.

    It is valid as written, and agrees with the model. Lines that begin with `#` are questions: to answer one, remove
    the `#`.
    """
    return "\n".join(_lines(structure, what)) + "\n"


def _lines(structure: Structure, what: str) -> Iterator[str]:
    yield f"# Guesses about {json.dumps(what, ensure_ascii=False)}: correct what is wrong."
    yield "# A line that begins with # is a question: answer it and take the # away, or leave it."
    yield "# 'noisemill generators inspect' shows what came of it."
    yield "#"
    for kind, ports in (("input", structure.inputs), ("output", structure.outputs)):
        for port in ports:
            yield f"# {kind} {_quoted(port.name)}: {port.dtype} of {_shape(port.shape)}"
    yield ""
    yield '# summary = "one line for people"'
    yield ""
    yield "# [about]  # recorded with each dataset"
    yield '# license = "MIT"  # of the weights'
    yield '# data = "what it was trained on, and its license"'
    yield '# authors = ["who trained it"]'
    yield ""
    latent, label = structure.inputs[0] if len(structure.inputs) == 1 else None, None
    fed = tuple(port for port in structure.inputs if port.batched)
    time = time_of_denoiser(fed, structure.outputs)
    if time is not None:
        fed = tuple(port for port in fed if port is not time)
        latent = fed[0] if len(fed) == 1 else latent
    if len(fed) > 1:
        with contextlib.suppress(ValueError):
            latent, label = latent_and_label(fed, _NOTHING)
    yield from _latent(latent, fed)
    yield from _label(label, latent, fed)
    yield from _output(structure.outputs)
    if time is not None:
        yield from _sampler(time, label)
    for port in structure.inputs:
        if not port.batched:
            yield f"# [inputs.{_quoted(port.name)}]  # it has no batch dimension: which value do all samples get?"
            yield "# constant = 1.0"
            yield ""


def _latent(latent: Port | None, fed: tuple[Port, ...]) -> Iterator[str]:
    if latent is None:
        yield f"# [latent]  # which input takes the noise: {' or '.join(_quoted(port.name) for port in fed)}?"
        yield f"# input = {_quoted(fed[0].name if fed else '')}"
    else:
        yield "[latent]"
        yield f"input = {_quoted(latent.name)}"
        if None in latent.shape:
            yield f"# shape = {_open(latent.shape)}  # the model leaves it open: what shall it be?"
    yield ""


def _label(label: Port | None, latent: Port | None, fed: tuple[Port, ...]) -> Iterator[str]:
    if label is not None:
        width = label.shape[-1] if label.shape and label.shape[-1] != 1 else None
        classes = width or label.classes
        yield "[label]" if classes else "# [label]"
        yield f"{'' if classes else '# '}input = {_quoted(label.name)}"
        yield f'{"" if classes else "# "}encoding = "{"one_hot" if width else "integer"}"'
        yield f"{'' if classes else '# '}classes = {classes or 10}  # {'' if classes else 'how many? '}or their names"
    elif latent is None and len(fed) > 1:
        more = f'[inputs.{_quoted(fed[-1].name)}] and kind = "latent"'
        yield f"# [label]  # the other one, if it takes labels; if it is more of the latent, {more} in place of this"
        yield "# classes = 10  # how many, or their names"
    elif latent is not None and len(fed) == 1:
        yield "# [label]  # does the latent end in a one-hot label? Then it is drawn without it:"
        yield '# encoding = "concatenated"'
        yield "# classes = 10  # how many, or their names"
    yield ""


def _output(outputs: tuple[Port, ...]) -> Iterator[str]:
    port, several = outputs[0], len(outputs) > 1
    yield "[output]"
    if several:
        yield f"name = {_quoted(port.name)}  # or {' or '.join(_quoted(each.name) for each in outputs[1:])}"
    if None in port.shape:
        yield f"# shape = {_open(port.shape)}  # the model leaves it open: what is a sample?"
    elif len(port.shape) == 1:
        yield "# shape = [28, 28, 1]  # is it a picture, written as one row?"
    if port.value_range is None and port.dtype != "uint8":
        yield "# range = [-1.0, 1.0]  # between which numbers do the values lie? Needed for uint8 and png"
    yield ""


def _sampler(time: Port, label: Port | None) -> Iterator[str]:
    yield "[sampler]  # it takes a noisy sample and a time: a sample is made in many passes"
    yield 'predicts = "noise"  # or "sample", or "velocity"'
    yield "# mean = 0.0  # of the data that it was trained on: a sample is mean + scale * data"
    yield "# scale = 1.0"
    if label is not None:
        yield f"# none = {label.classes - 1 if label.classes else 10}  # the label that means none, for --guidance"
    yield 'method = "ddim"'
    yield "steps = 20"
    yield ""
    yield "[sampler.time]"
    yield f"input = {_quoted(time.name)}"
    time_as, kind = ("timestep", "linear") if "int" in time.dtype else ("noise_variance", "cosine")
    yield f'as = "{time_as}"  # or {", ".join(each for each in TIMES if each != time_as)}'
    yield ""
    yield "[sampler.schedule]"
    yield f'kind = "{kind}"  # or {", ".join(each for each in SCHEDULES if each != kind)}'
    yield ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _shape(shape: Shape) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _open(shape: Shape) -> str:
    return "[" + ", ".join("64" if size is None else str(size) for size in shape) + "]"
