"""Judges: networks that choose the best of several candidates (`--best-of`).

A judge takes images and puts out one number per class, probabilities or logits, or a single score, such as a
discriminator's. It is found like a generator. A `judge.toml` beside or inside it says what the model does not contain:

    summary = "Clothes of Fashion-MNIST"

    [input]
    name = "image"                # if the model has several inputs
    channels = "first"            # or "last", if that is not clear from the shape
    range = [0.0, 255.0]          # of the values that it takes; else it is fed what the generator makes

    [output]
    name = "logits"               # if the model has several outputs
    softmax = true                # these are logits; false: each label's number is its score, as it is
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError, UsageError, shown
from pipeline.generators.catalogue import builtin_names, locate, short_name, structure_of
from pipeline.generators.interface import Interface
from pipeline.generators.kinds import content_sha256, size_bytes
from pipeline.generators.model import Model
from pipeline.generators.remote import is_remote
from pipeline.generators.sidecar import JUDGE_SIDECAR, is_range, read_tables
from pipeline.generators.structure import Port
from pipeline.generators.trusted_code import code_offers

JUDGE_FOLDER = Path(__file__).parent / "judges"

_KEYS = {"input": {"name", "channels", "range"}, "output": {"name", "softmax"}}


@dataclass(frozen=True, kw_only=True)
class Judge(Model):
    """A judge and its identity."""

    #: The input that takes images.
    image: Port
    #: The input that takes labels; None if there is none.
    label: Port | None
    output: Port
    #: Numbers per image: 1 is a score, several are one per class.
    width: int
    #: Range of the values that it takes; None: as the generator makes them.
    value_range: tuple[float, float] | None = None
    #: "first" or "last"; None: by the shape.
    channels: str | None = None
    #: Whether softmax is applied; None: to rows that are not probabilities already.
    softmax: bool | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether its score is the probability of the wanted label."""
        return self.width > 1 and self.softmax is not False

    def rank_of(self, score: float) -> float:
        """The rank that a score stands for: of a classifier's probability, the log-odds. Raises UsageError."""
        if not self.is_classifier:
            return score
        if not 0 < score < 1:
            raise UsageError(f"score {score:g} is not a probability between 0 and 1, as the judge {self.name} gives")
        return math.log(score / (1 - score))

    @property
    def meaning(self) -> str:
        """What its score is, in words."""
        if self.width == 1:
            return "a number"
        if self.softmax is False:
            return f"the number of the label, of {self.width}"
        logits = {True: "logits", None: "logits or probabilities"}[self.softmax]
        return f"the probability of the label, from {self.width} {logits}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **super().as_json(),
            "image_input": self.image.name,
            "image_shape": list(self.image.shape),
            "label_input": self.label.name if self.label else None,
            "output": self.output.name,
            "width": self.width,
            "value_range": self.value_range,
            "score": self.meaning,
        }

    def layout(self, interface: Interface) -> str:
        """How it is fed a generator's samples: "same", "first" (channels first) or "flat" (another shape).

        Raises UsageError if it cannot judge this generator's samples.
        """
        name, classes = f"judge {shown(self.name)}", interface.classes
        if self.width > 1 and classes is None:
            raise UsageError(f"{name} gives {self.width} numbers per image; without classes, it must be one score")
        if classes is not None and self.width not in (1, len(classes)):
            raise UsageError(f"{name} knows {self.width} classes, the generator has {len(classes)}")
        if self.label is not None and classes is None:
            raise UsageError(f"{name} takes a label, and the generator has no classes")
        if self.label is not None and math.prod(size or 1 for size in self.label.shape) not in (1, len(classes or ())):
            raise UsageError(
                f"{name} takes labels of {self.label.shape}, the generator has {len(classes or ())} classes"
            )
        if self.value_range is not None and interface.value_range is None:
            raise UsageError(
                f"{name} takes values from {self.value_range[0]:g} to {self.value_range[1]:g}: the generator's range "
                "must be known too, write it into generator.toml, [output] range"
            )
        shape, own = interface.sample_shape, self.image.shape
        if self.channels != "first" and _fits(shape, own):
            return "same"
        if len(shape) == 3 and self.channels != "last" and _fits((shape[2], *shape[:2]), own):
            return "first"
        if self.channels is None and None not in own and math.prod(size or 0 for size in own) == math.prod(shape):
            return "flat"
        raise UsageError(f"{name} takes {_in_words(own)}, the generator makes {_in_words(shape)}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one of several candidates is chosen."""

    #: Candidates per sample.
    best_of: int
    judge: Judge
    #: Score from which candidates count as equal; None: the best one is taken.
    enough: float | None = None

    @property
    def identity(self) -> tuple[int, str, float | None]:
        """The same for the same choice."""
        return self.best_of, self.judge.digest, self.enough

    @property
    def enough_rank(self) -> float:
        """The rank from which candidates count as equal; infinity if none do."""
        return math.inf if self.enough is None else self.judge.rank_of(self.enough)


def judge_names() -> list[str]:
    """Names of the built-in judges."""
    return builtin_names(JUDGE_FOLDER)


def find_judge(reference: str) -> Judge:
    """The judge of a reference: the name of a built-in one, a path, or an s3:// URL.

    Raises UnknownGeneratorError if there is none, GeneratorError if it cannot be used.
    """
    kind, model = locate(reference, "judge", JUDGE_FOLDER)
    builtin = reference in judge_names()
    sidecar = _read_sidecar(model)
    told_input, told_output = sidecar["input"], sidecar["output"]
    content = content_sha256(kind, model)
    offers = [] if builtin else code_offers(model, ())
    try:
        structure = structure_of(kind, model, content, offers=offers)
        image, label = _inputs(structure.inputs, told_input.get("name"))
        output = _output(structure.outputs, told_output.get("name"))
    except (GeneratorError, ValueError) as error:
        raise GeneratorError(f"judge {reference!r}: {error}") from None
    code = next((offer for offer in offers if tuple(file.sha256 for file in offer) == structure.code), ())
    fields = {
        "input": image.name, "label": label.name if label else None, "output": output.name, "code": structure.code,
        "range": told_input.get("range"), "channels": told_input.get("channels"), "softmax": told_output.get("softmax"),
    }  # fmt: skip
    identity = json.dumps(["judge", content, fields], sort_keys=True)
    ends = told_input.get("range")
    return Judge(
        reference=reference if builtin or is_remote(reference) else str(model.resolve()),
        kind=kind.name,
        model=model,
        name=reference if builtin else short_name(reference if is_remote(reference) else str(model)),
        summary=sidecar["summary"],
        content=content,
        digest="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        size_bytes=size_bytes(kind, model),
        structure=structure,
        image=image,
        label=label,
        output=output,
        width=output.shape[0] or 1 if output.shape else 1,
        value_range=(float(ends[0]), float(ends[1])) if ends else None,
        channels=told_input.get("channels"),
        softmax=told_output.get("softmax"),
        code=code,
    )


def _read_sidecar(model: Path) -> dict[str, Any]:
    """The tables of judge.toml, empty ones if there is no such file. Raises GeneratorError."""
    path = (model if model.is_dir() else model.parent) / JUDGE_SIDECAR
    if not path.is_file():
        return {"summary": "", **{name: {} for name in _KEYS}}
    tables, others = read_tables(path, _KEYS, ("summary",))
    summary = others.get("summary", "")
    for good, problem in (
        (isinstance(summary, str), "summary is not text"),
        (all(isinstance(table.get("name", ""), str) for table in tables.values()), "a name is not text"),
        (tables["input"].get("channels", "last") in ("first", "last"), "channels are neither 'first' nor 'last'"),
        (is_range(tables["input"].get("range", [0, 1])), "range is not a pair of numbers, low first"),
        (isinstance(tables["output"].get("softmax", True), bool), "softmax is neither true nor false"),
    ):
        if not good:
            raise GeneratorError(f"{path}: {problem}")
    return {"summary": summary, **tables}


def _inputs(inputs: tuple[Port, ...], name: str | None) -> tuple[Port, Port | None]:
    """The image's input and the label's. Raises ValueError."""
    names = [port.name for port in inputs]
    if name is not None and name not in names:
        raise ValueError(f"{JUDGE_SIDECAR} names the input {name!r}, but the model has {', '.join(names)}")
    if len(inputs) > 2:
        raise ValueError(f"it has the inputs {', '.join(names)}: a judge takes an image, and perhaps a label")
    largest = max(inputs, key=lambda port: math.prod(size or 100 for size in port.shape))
    image = next((port for port in inputs if port.name == name), largest)
    label = next((port for port in inputs if port is not image), None)
    if not all(port.batched for port in inputs):
        raise ValueError("its inputs have a fixed batch size: export it with a batch dimension of None")
    return image, label


def _output(outputs: tuple[Port, ...], name: str | None) -> Port:
    """The output with its scores. Raises ValueError."""
    names = [port.name for port in outputs]
    if name is None and len(outputs) > 1:
        raise ValueError(f"it has the outputs {', '.join(names)}: say in {JUDGE_SIDECAR}, [output] name, which one")
    output = next((port for port in outputs if name in (None, port.name)), None)
    if output is None:
        raise ValueError(f"{JUDGE_SIDECAR} names the output {name!r}, but the model has {', '.join(names)}")
    if len(output.shape) > 1 or None in output.shape:
        raise ValueError(f"its output is {_in_words(output.shape)}: a judge gives one score, or one number per class")
    return output


def _fits(shape: tuple[int, ...], own: tuple[int | None, ...]) -> bool:
    return len(shape) == len(own) and all(size in (None, wanted) for size, wanted in zip(own, shape, strict=True))


def _in_words(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "single numbers"
