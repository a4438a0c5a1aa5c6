"""What goes into a generator and what comes out: the model's own word, and `generator.toml` for the rest.

    summary = "Hand-written digits"          # one line for people

    [latent]
    input = "z"                              # where the model has several inputs
    shape = [100]                            # where the model leaves it open

    [label]
    input = "digit"
    encoding = "integer"                     # or "one_hot", or "concatenated": one-hot, after the latent
    classes = ["zero", "one", "two"]         # or their number

    [output]
    name = "image"                           # where the model has several outputs
    shape = [28, 28, 1]                      # as many values, another shape: flat outputs of 784, say
    channels = "first"                       # or "last"
    range = [-1.0, 1.0]

    [inputs.truncation]                      # any other input: what it is fed, the same for all samples
    constant = 0.5

Everything may be left out that the model itself tells, and what is there must agree with it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError, shown
from pipeline.common.files import read_regular
from pipeline.generators.structure import Port, Shape, Structure

SIDECAR = "generator.toml"

#: How labels reach the model.
ENCODINGS = ("integer", "one_hot", "concatenated")
#: What may stand in which table.
_KEYS = {
    "latent": {"input", "shape"},
    "label": {"input", "encoding", "classes"},
    "output": {"name", "shape", "dtype", "channels", "range"},
}
#: Words in the name of an input that takes labels.
_LABEL_WORDS = ("label", "class", "cond")


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What goes into a generator and what comes out."""

    #: Name of the input that takes the latent.
    latent_input: str
    #: Shape of one latent, (latent_dim,) mostly.
    latent_shape: tuple[int, ...]
    #: Name of the input that takes the label; None without classes or where it is concatenated.
    label_input: str | None
    #: "integer", "one_hot" or "concatenated" (one-hot, after the latent); None without classes.
    label_encoding: str | None
    #: Names of the classes; None for an unconditional generator.
    classes: tuple[str, ...] | None
    #: Name of the output that holds the samples.
    output: str
    #: Whether the model puts the channels first; samples have them last all the same.
    channels_first: bool
    #: Shape of one sample, channels last.
    sample_shape: tuple[int, ...]
    #: Least and greatest value of the output; None where nothing declares them.
    value_range: tuple[float, float] | None
    #: What other inputs are fed, the same for all samples: a number, or several in the order of the input's shape.
    constants: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def latent_dim(self) -> int:
        """Numbers per latent."""
        return math.prod(self.latent_shape)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What `generator.toml` says."""

    summary: str
    latent: dict[str, Any]
    label: dict[str, Any]
    output: dict[str, Any]
    #: By the name of an input.
    inputs: dict[str, dict[str, Any]]


def read_sidecar(paths: Sequence[Path]) -> Sidecar:
    """The first of these files that exists; an empty one if none does. Raises GeneratorError."""
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return Sidecar(summary="", latent={}, label={}, output={}, inputs={})
    try:
        data = tomllib.loads(read_regular(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise GeneratorError(f"{path} cannot be read: {error}") from None
    tables = {name: data.pop(name, {}) for name in _KEYS}
    inputs = data.pop("inputs", {})
    summary = data.pop("summary", "")
    wrong = list(data)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise GeneratorError(f"{path}: {name} is {table!r}, write [{name}] and lines below it")
        wrong += [f"{name}.{key}" for key in table if key not in _KEYS[name]]
    if wrong:
        raise GeneratorError(f"{path}: unknown {', '.join(wrong)}")
    try:
        _check_types(tables)
        _check_inputs(inputs)
    except ValueError as error:
        raise GeneratorError(f"{path}: {error}") from None
    return Sidecar(summary=str(summary), inputs=inputs, **tables)


def _check_types(tables: dict[str, dict[str, Any]]) -> None:
    for name, table in tables.items():
        shape = table.get("shape", [])
        sizes = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        if not sizes or math.prod(shape) >= 2**31:
            raise ValueError(f"[{name}] shape {shape!r} is not a list of sizes")
        for key in ("input", "name", "encoding"):
            if not isinstance(table.get(key, ""), str):
                raise ValueError(f"[{name}] {key} {table[key]!r} is not a name")
    classes = tables["label"].get("classes", 1)
    if not (isinstance(classes, list) or (type(classes) is int and classes > 0)):
        raise ValueError(f"[label] classes {classes!r} is neither a number nor a list of names")
    encoding = tables["label"].get("encoding", ENCODINGS[0])
    if encoding not in ENCODINGS:
        raise ValueError(f"label encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    ends = tables["output"].get("range", [0, 1])
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
        raise ValueError(f"[output] range {ends!r} is not a pair of numbers, the lower one first")


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, dict):
        raise ValueError("inputs: write [inputs.NAME] and constant = ... below it")
    for name, table in inputs.items():
        if not isinstance(table, dict) or set(table) != {"constant"}:
            raise ValueError(f"[inputs.{name}] takes constant, and nothing else")
        values = table["constant"] if isinstance(table["constant"], list) else [table["constant"]]
        if not values or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(f"[inputs.{name}] constant {shown(table['constant'])} is no number and no list of numbers")


def interface_of(structure: Structure, sidecar: Sidecar, what: str) -> Interface:
    """The interface of a model; `what` names the generator in errors.

    Raises GeneratorError where something is open, or the sidecar contradicts the model.
    """
    try:
        constants = _constants(structure.inputs, sidecar.inputs)
        latent, label = tell_apart(tuple(port for port in structure.inputs if port.name not in constants), sidecar)
        encoding, classes = _classes(label, sidecar.label)
        output = _output(structure.outputs, sidecar.output.get("name"))
        channels_first, sample_shape = _sample_shape(output, sidecar.output)
        return Interface(
            latent_input=latent.name,
            latent_shape=_latent_shape(latent, sidecar.latent, len(classes or ()) if label is None else 0),
            label_input=label.name if label is not None else None,
            label_encoding=encoding,
            classes=classes,
            output=output.name,
            channels_first=channels_first,
            sample_shape=sample_shape,
            value_range=_value_range(output, sidecar.output.get("range")),
            constants=tuple(sorted(constants.items())),
        )
    except (TypeError, ValueError) as error:
        raise GeneratorError(f"generator {what}: {error}") from None


def _constants(inputs: tuple[Port, ...], told: dict[str, dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    """What the sidecar has inputs fed, by their names."""
    ports = {port.name: port for port in inputs}
    constants = {}
    for name, table in told.items():
        if name not in ports:
            raise ValueError(f"{SIDECAR} speaks of the input {name!r}, the model has {', '.join(ports)}")
        value = table["constant"]
        values = tuple(map(float, value)) if isinstance(value, list) else (float(value),)
        size = math.prod(size or 1 for size in ports[name].shape)
        if len(values) not in (1, size):
            raise ValueError(f"[inputs.{name}] constant has {len(values)} numbers, the input takes {size}")
        constants[name] = values
    return constants


def tell_apart(inputs: tuple[Port, ...], sidecar: Sidecar) -> tuple[Port, Port | None]:
    """The latent's input and the label's: of two, the label's takes whole numbers, or is named so."""
    if not inputs:
        raise ValueError("all its inputs are constants: one has to take the latent")
    for port in inputs:
        if not port.batched:
            raise ValueError(
                f"the input {port.name!r} of shape {port.shape} has no open batch: export the model with one, or say "
                f"in {SIDECAR}, [inputs.{port.name}] constant = ..., what all samples are fed"
            )
    told = [sidecar.latent.get("input"), sidecar.label.get("input")]
    names = [port.name for port in inputs]
    for name in told:
        if name is not None and name not in names:
            raise ValueError(f"{SIDECAR} speaks of the input {name!r}, the model has {', '.join(names)}")
    if len(inputs) == 1:
        return inputs[0], None
    if len(inputs) == 2:
        for latent, label in (inputs, inputs[::-1]):
            if told[0] == latent.name or told[1] == label.name:
                return latent, label
            whole = "int" in label.dtype and "int" not in latent.dtype
            whole = whole or (label.classes is not None and latent.classes is None)
            if told == [None, None] and (whole or any(word in label.name.lower() for word in _LABEL_WORDS)):
                return latent, label
        raise ValueError(
            f"it has the inputs {', '.join(names)}: say in {SIDECAR} which is latent and which label, "
            f'as in [latent] and below it input = "{names[0]}"'
        )
    raise ValueError(
        f"it has the inputs {', '.join(names)}: a latent and a label can be fed; say in {SIDECAR}, "
        f"[inputs.{names[-1]}] constant = ..., what the others shall be"
    )


def _classes(label: Port | None, told: dict[str, Any]) -> tuple[str | None, tuple[str, ...] | None]:
    """The encoding of labels and the names of the classes."""
    classes = told.get("classes")
    width = label.shape[-1] if label is not None and label.shape and label.shape[-1] != 1 else None
    if label is None:
        if told and told.get("encoding") != "concatenated":
            raise ValueError("the model has one input: its labels can only be concatenated to the latent")
        if told and classes is None:
            raise ValueError(f"{SIDECAR}, [label]: classes are missing, a number or a list of names")
    encoding = told.get("encoding") or ("one_hot" if width is not None else "integer")
    if label is not None and encoding == "concatenated":
        raise ValueError(f"label encoding 'concatenated' does not fit a model with the input {label.name!r} for labels")
    if classes is None:
        if label is None:
            return None, None
        classes = width if encoding == "one_hot" else label.classes
        if classes is None:
            raise ValueError(f"it takes a label: {SIDECAR}, [label] needs classes, a number or a list of names")
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))
    if not names:
        raise ValueError("there must be at least one class")
    if label is not None and width is not None and (encoding == "integer" or width != len(names)):
        raise ValueError(f"{len(names)} classes ({encoding}) do not fit the input {label.name!r} of {label.shape}")
    return encoding, names


def _latent_shape(latent: Port, told: dict[str, Any], concatenated: int) -> tuple[int, ...]:
    shape: Shape = latent.shape
    if concatenated:
        if len(shape) != 1 or (shape[0] is not None and shape[0] <= concatenated):
            raise ValueError(f"the input {latent.name!r} of {shape} has no room for {concatenated} classes")
        shape = (None if shape[0] is None else shape[0] - concatenated,)
    return _settled(f"latent of {latent.name!r}", shape, told.get("shape"))


def _settled(what: str, shape: Shape, told: Any) -> tuple[int, ...]:
    """A shape without open sizes: those that the sidecar tells, and it must agree about the rest."""
    if told is not None:
        given = tuple(told)
        if len(given) != len(shape) or any(b not in (None, a) for a, b in zip(given, shape, strict=True)):
            raise ValueError(f"{SIDECAR} tells the shape {given} of the {what}, the model {_in_words(shape)}")
        return given
    if None in shape:
        raise ValueError(f"the {what} has the open shape {_in_words(shape)}: say in {SIDECAR} what it shall be")
    return tuple(size for size in shape if size is not None)


def _in_words(shape: Shape) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _output(outputs: tuple[Port, ...], name: str | None) -> Port:
    names = [port.name for port in outputs]
    if name is None:
        if len(outputs) != 1:
            raise ValueError(f"it has the outputs {', '.join(names)}: say in {SIDECAR}, [output] name, which one")
        return outputs[0]
    if name not in names:
        raise ValueError(f"{SIDECAR} speaks of the output {name!r}, the model has {', '.join(names)}")
    return outputs[names.index(name)]


def _sample_shape(output: Port, told: dict[str, Any]) -> tuple[bool, tuple[int, ...]]:
    """Whether channels must be moved, and the shape after."""
    channels = told.get("channels")
    if channels not in (None, "first", "last"):
        raise ValueError(f"{SIDECAR}, [output] channels: {channels!r} is neither 'first' nor 'last'")
    shape: Shape = output.shape
    # An image beyond doubt: few channels before a square.
    square = len(shape) == 3 and shape[0] in (1, 3, 4) and shape[1] == shape[2] and (shape[1] or 0) > 4
    first = channels == "first" or (channels is None and len(shape) == 3 and (output.channels_first or square))
    if first and len(shape) != 3:
        raise ValueError(f"channels cannot be moved in an output of {_in_words(shape)}")
    if first:
        shape = (*shape[1:], shape[0])
    wanted = told.get("shape")
    if wanted is not None and None not in shape and not first:
        given = tuple(wanted)
        if math.prod(given) == math.prod(size or 0 for size in shape):
            return False, given
    return first, _settled(f"output {output.name!r}", shape, wanted)


def _value_range(output: Port, told: Any) -> tuple[float, float] | None:
    if told is None:
        return (0.0, 255.0) if output.dtype == "uint8" else output.value_range
    return float(told[0]), float(told[1])
