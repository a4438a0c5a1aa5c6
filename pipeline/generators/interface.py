"""What goes into a generator and what comes out: the model's own word, and `generator.toml` for the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.denoiser import Denoiser
from pipeline.generators.sidecar import SIDECAR, Sidecar
from pipeline.generators.structure import Port, Shape, Structure
from pipeline.spec.sampler import KEY_DIM

#: Words in the name of an input that takes labels.
_LABEL_WORDS = ("label", "class", "cond")
#: Names of inputs of numbers that no label is fed to.
_NOISE_NAME = re.compile(r"(^|[^a-z])(z|noise|latents?|variance|sigma|std|stddev|temperature)([^a-z]|$)", re.IGNORECASE)
#: Names of inputs by which a network is told of time.
_TIME_NAME = re.compile(
    r"(^|[^a-z])(t|times?|timesteps?|sigmas?|noise_(variance|level|rate)s?|log_?snr|lambda)([^a-z]|$)", re.IGNORECASE
)
#: Numbers as which latents are often chosen: powers of two, and whole fifties.
_ROUND = {2**power for power in range(4, 13)} | set(range(50, 1001, 50))
#: Classes that most labelled data have.
_USUAL_CLASSES = 10

#: (name, shape) of an input.
NamedShape = tuple[str, tuple[int, ...]]
#: (name, numbers) of what an input is fed, the same for all samples: one number, or several in the shape's order.
Constant = tuple[str, tuple[float, ...]]


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
    #: What other inputs are fed unless a job says otherwise (`--set`).
    constants: tuple[Constant, ...] = ()
    #: Where several inputs share the latent: how it is cut, the first one's part first. Empty where one takes it all.
    latent_parts: tuple[NamedShape, ...] = ()
    #: Inputs that are fed numbers of a normal distribution, from a stream of each sample's own.
    noise_inputs: tuple[NamedShape, ...] = ()
    #: The input that is fed a vector a sample, from the user (`--attributes`); None where none is.
    attributes_input: NamedShape | None = None
    #: Name of the SavedModel's signature that is called; None for the usual one.
    signature: str | None = None
    #: What the network predicts where it is a denoiser, which makes a sample in many passes; None for a generator.
    denoiser: Denoiser | None = None

    @property
    def latent_dim(self) -> int:
        """Numbers per latent."""
        return math.prod(self.latent_shape)

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Numbers per sample of each input of noise."""
        return tuple(math.prod(shape) for _, shape in self.noise_inputs)

    @property
    def attributes_dim(self) -> int:
        """Numbers per sample of the attributes; 0 where there are none."""
        return math.prod(self.attributes_input[1]) if self.attributes_input else 0

    @property
    def row_dim(self) -> int:
        """Numbers per sample of all that differs from sample to sample but the label."""
        key_dim = KEY_DIM if self.denoiser else 0
        return self.latent_dim + sum(self.noise_sizes) + self.attributes_dim + key_dim

    @property
    def label_width(self) -> int:
        """Numbers of a one-hot label: as many as there are classes, and one more where a label means none."""
        classes = len(self.classes or ())
        return classes + (self.denoiser is not None and self.denoiser.none == classes)


def interface_of(structure: Structure, sidecar: Sidecar, what: str) -> Interface:
    """The interface of a model; `what` names the generator in errors.

    Raises GeneratorError where something is open, or the sidecar contradicts the model.
    """
    try:
        told = _told_inputs(structure.inputs, sidecar.inputs)
        denoiser = sidecar.denoiser
        others = tuple(port for port in structure.inputs if port.name not in sidecar.inputs)
        if denoiser is not None:
            others = _without_time(others, denoiser.time_input)
        elif time := time_of_denoiser(others, structure.outputs):
            raise ValueError(
                f"it takes a noisy sample and its {time.name!r}, as a denoiser does: say in {SIDECAR}, [sampler], what "
                "it predicts and how it is told of time (docs/generators.md)"
            )
        if told.latents:
            latents, label = _several_latents(told.latents, others, sidecar)
        else:
            latent, label = tell_apart(others, sidecar)
            latents = [latent]
        encoding, classes = _classes(label, sidecar.label, denoiser.none if denoiser else None)
        if len(latents) > 1 and classes and label is None:
            raise ValueError("labels cannot be concatenated to a latent that several inputs share")
        output = _output(structure.outputs, sidecar.output.get("name"))
        channels_first, sample_shape = _sample_shape(output, sidecar.output)
        latent_shape = _latent_shape(latents, sidecar.latent, len(classes or ()) if label is None else 0)
        if denoiser is not None:
            _check_denoiser(denoiser, latents, latent_shape, output, sample_shape)
            if encoding == "concatenated":
                raise ValueError("labels cannot be concatenated to the latent of a denoiser, which is a noisy sample")
        return Interface(
            latent_input=latents[0].name,
            latent_shape=latent_shape,
            label_input=label.name if label is not None else None,
            label_encoding=encoding,
            classes=classes,
            output=output.name,
            channels_first=channels_first,
            sample_shape=sample_shape,
            # What a denoiser puts out is not a sample, and its range not that of samples.
            value_range=_value_range(
                output if denoiser is None else replace(output, dtype="float32", value_range=None),
                sidecar.output.get("range"),
            ),
            constants=told.constants,
            latent_parts=tuple(map(_named_shape, latents)) if len(latents) > 1 else (),
            noise_inputs=tuple(map(_named_shape, told.noise)),
            attributes_input=_named_shape(told.attributes) if told.attributes else None,
            signature=sidecar.signature,
            denoiser=denoiser,
        )
    except (TypeError, ValueError) as error:
        raise GeneratorError(f"generator {what}: {error}") from None


def time_of_denoiser(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Port | None:
    """The input that tells of time; None unless one of the others takes what the network puts out, as in a denoiser."""
    single = [port for port in inputs if math.prod(size or 1 for size in port.shape) == 1]
    times = [port for port in single if _TIME_NAME.search(port.name)]
    others = [port for port in inputs if port not in times]
    alike = any(port.shape == output.shape and port.shape for port in others for output in outputs)
    return times[0] if times and alike else None


def _without_time(inputs: tuple[Port, ...], name: str) -> tuple[Port, ...]:
    """The inputs but the one that a denoiser is told of time by. Raises ValueError where there is none of this name."""
    if name not in [port.name for port in inputs]:
        names = ", ".join(port.name for port in inputs)
        raise ValueError(f"{SIDECAR}, [sampler.time] speaks of the input {name!r}, the model has {names}")
    return tuple(port for port in inputs if port.name != name)


def _check_denoiser(
    denoiser: Denoiser, latents: list[Port], latent_shape: tuple[int, ...], output: Port, sample_shape: tuple[int, ...]
) -> None:
    """Raises ValueError where a network cannot take its own output for a latent, as a denoiser does."""
    if len(latents) > 1:
        raise ValueError("a denoiser has one latent, the noisy sample")
    if len(output.shape) != len(latent_shape) or any(
        size not in (None, wanted) for size, wanted in zip(output.shape, latent_shape, strict=True)
    ):
        raise ValueError(
            f"a denoiser puts out what it takes: the latent is {_in_words(latent_shape)}, "
            f"the output {output.name!r} {_in_words(output.shape)}"
        )
    for name, values in (("mean", denoiser.mean), ("scale", denoiser.scale)):
        if len(values) not in (1, sample_shape[-1]):
            raise ValueError(f"[sampler] {name} has {len(values)} numbers, samples have {sample_shape[-1]} channels")


@dataclass(frozen=True, kw_only=True)
class _ToldInputs:
    """What the sidecar's `[inputs]` say."""

    constants: tuple[Constant, ...]
    #: In the order of the file.
    latents: tuple[Port, ...]
    noise: tuple[Port, ...]
    attributes: Port | None


def _told_inputs(inputs: tuple[Port, ...], told: dict[str, dict[str, Any]]) -> _ToldInputs:
    ports = {port.name: port for port in inputs}
    for name, table in told.items():
        if name not in ports:
            raise ValueError(f"{SIDECAR} speaks of the input {name!r}, the model has {', '.join(ports)}")
        if "kind" in table and not ports[name].batched:
            raise ValueError(f"[inputs.{name}] kind: it has no open batch, so it can only be fed a constant")
        if "kind" in table and "float" not in ports[name].dtype:
            raise ValueError(f"[inputs.{name}] kind: it takes {ports[name].dtype}, and what it would be fed is float32")

    def of_kind(kind: str) -> tuple[Port, ...]:
        return tuple(ports[name] for name, table in told.items() if table.get("kind") == kind)

    attributes = of_kind("attributes")
    if len(attributes) > 1:
        raise ValueError("of attributes there can be one input")
    constants = {
        name: constant_of(ports[name], table["constant"]) for name, table in told.items() if "constant" in table
    }
    return _ToldInputs(
        constants=tuple(sorted(constants.items())),
        latents=of_kind("latent"),
        noise=of_kind("noise"),
        attributes=attributes[0] if attributes else None,
    )


def constant_of(port: Port, value: float | Sequence[float]) -> tuple[float, ...]:
    """The numbers that an input is fed for all samples: one, or as many as it takes. Raises ValueError."""
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)
    size = math.prod(size or 1 for size in port.shape)
    if len(values) not in (1, size):
        raise ValueError(f"the constant of the input {port.name!r} has {len(values)} numbers, the input takes {size}")
    return values


def _several_latents(
    told: tuple[Port, ...], others: tuple[Port, ...], sidecar: Sidecar
) -> tuple[list[Port], Port | None]:
    """The latents, the main one first, and the label's input."""
    if not others:
        latents, label = list(told), None
    elif len(others) == 1 and (_is_label(others[0]) or sidecar.label.get("input") == others[0].name):
        latents, label = list(told), _checked_label(others[0])
    else:
        latent, label = tell_apart(others, sidecar)
        latents = [latent, *told]
    main = sidecar.latent.get("input")
    return sorted(latents, key=lambda port: port.name != main), label


def _named_shape(port: Port) -> NamedShape:
    return port.name, _settled(f"input {port.name!r}", port.shape, None)


def _is_label(port: Port) -> bool:
    return "int" in port.dtype or port.classes is not None or _has_label_name(port)


def _has_label_name(port: Port) -> bool:
    named = any(word in port.name.lower() for word in _LABEL_WORDS)
    return named and _NOISE_NAME.search(port.name) is None


def _checked_label(port: Port) -> Port:
    """The input that takes labels. Raises ValueError where its name says that it takes something else."""
    if "float" in port.dtype and port.classes is None and _NOISE_NAME.search(port.name):
        raise ValueError(
            f"the input {port.name!r} takes numbers and its name speaks of noise, so no label is fed to it: "
            f'say in {SIDECAR}, [inputs.{port.name}], kind = "latent" or "noise", or constant = ...'
        )
    return port


def tell_apart(inputs: tuple[Port, ...], sidecar: Sidecar) -> tuple[Port, Port | None]:
    """The latent's input and the label's: of two, the label's takes whole numbers, or is named so."""
    if not inputs:
        raise ValueError("none of its inputs is left for the latent")
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
                return latent, _checked_label(label)
            whole = "int" in label.dtype and "int" not in latent.dtype
            whole = whole or (label.classes is not None and latent.classes is None)
            if told == [None, None] and (whole or _has_label_name(label)):
                return latent, label
        raise ValueError(
            f"it has the inputs {', '.join(names)}: say in {SIDECAR} which is latent and which label, "
            f'as in [latent] and below it input = "{names[0]}"; a second latent is [inputs.{names[1]}], kind = "latent"'
        )
    raise ValueError(
        f"it has the inputs {', '.join(names)}: a latent and a label are told apart; say in {SIDECAR}, "
        f'[inputs.{names[-1]}], what the others are fed: constant = ..., or kind = "latent", "noise" or "attributes"'
    )


def _classes(label: Port | None, told: dict[str, Any], none: int | None) -> tuple[str | None, tuple[str, ...] | None]:
    """The encoding of labels and the names of the classes, without the label that means none."""
    classes = told.get("classes")
    width = label.shape[-1] if label is not None and label.shape and label.shape[-1] != 1 else None
    if label is None:
        if told and told.get("encoding") != "concatenated":
            raise ValueError("no input is left for labels: they can only be concatenated to the latent")
        if told and classes is None:
            raise ValueError(f"{SIDECAR}, [label]: classes are missing, a number or a list of names")
    encoding = told.get("encoding") or ("one_hot" if width is not None else "integer")
    if label is not None and encoding == "concatenated":
        raise ValueError(f"label encoding 'concatenated' does not fit a model with the input {label.name!r} for labels")
    if classes is None:
        if label is None:
            if none is not None:
                raise ValueError(f"[sampler] none is {none}, and the model takes no label")
            return None, None
        classes = width if encoding == "one_hot" else label.classes
        if classes is not None and none == classes - 1:
            classes = none
        if classes is None:
            raise ValueError(f"it takes a label: {SIDECAR}, [label] needs classes, a number or a list of names")
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))
    if not names:
        raise ValueError("there must be at least one class")
    wanted = len(names) + (none == len(names))
    if label is not None and width is not None and (encoding == "integer" or width != wanted):
        raise ValueError(f"{len(names)} classes ({encoding}) do not fit the input {label.name!r} of {label.shape}")
    if none is not None:
        _check_none(none, encoding, len(names), label)
    return encoding, names


def _check_none(none: int, encoding: str, classes: int, label: Port | None) -> None:
    """Raises ValueError for a label that cannot mean none."""
    if 0 <= none < classes:
        raise ValueError(f"[sampler] none is {none}, which is one of the {classes} classes: say the classes without it")
    if encoding == "integer":
        known = label.classes if label is not None else None
        if none < 0 or (known is not None and none >= known):
            raise ValueError(f"[sampler] none is {none}: labels are 0 to {'...' if known is None else known - 1}")
    elif none not in (-1, classes):
        raise ValueError(f"[sampler] none is {none}: of one-hot labels it is {classes}, or -1 for a row of zeros")


def _latent_shape(latents: list[Port], told: dict[str, Any], concatenated: int) -> tuple[int, ...]:
    """Shape of one latent; of several, which are cut from one vector, that vector's."""
    if len(latents) > 1:
        total = sum(math.prod(_named_shape(port)[1]) for port in latents)
        return _settled("latent of all its inputs", (total,), told.get("shape"))
    latent = latents[0]
    shape: Shape = latent.shape
    if concatenated:
        if len(shape) != 1 or (shape[0] is not None and shape[0] <= concatenated):
            raise ValueError(f"the input {latent.name!r} of {shape} has no room for {concatenated} classes")
        shape = (None if shape[0] is None else shape[0] - concatenated,)
    return _settled(f"latent of {latent.name!r}", shape, told.get("shape"))


def hints(interface: Interface, sidecar: Sidecar) -> list[str]:
    """What a user may have overlooked, one line each."""
    width = interface.latent_dim
    is_vector = len(interface.latent_shape) == 1 and not interface.latent_parts
    if interface.classes or sidecar.latent.get("shape") or not is_vector or width - _USUAL_CLASSES not in _ROUND:
        return []
    hint = (
        f"its latent of {width} is {_USUAL_CLASSES} wider than {width - _USUAL_CLASSES}: "
        f'if it ends in a one-hot label, say in {SIDECAR}, [label] encoding = "concatenated" and '
        f"classes = {_USUAL_CLASSES}; if not, [latent] shape = [{width}]"
    )
    return [hint]


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
