"""The inputs and the output of a generator: read from the model, and from `generator.toml` for what it leaves open."""

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

#: Words that occur in the names of inputs for labels.
_LABEL_WORDS = ("label", "class", "cond")
#: Names of inputs of floats that are not labels.
_NOISE_NAME = re.compile(r"(^|[^a-z])(z|noise|latents?|variance|sigma|std|stddev|temperature)([^a-z]|$)", re.IGNORECASE)
#: Names of inputs for the time of a denoiser.
_TIME_NAME = re.compile(
    r"(^|[^a-z])(t|times?|timesteps?|sigmas?|noise_(variance|level|rate)s?|log_?snr|lambda)([^a-z]|$)", re.IGNORECASE
)
#: Usual sizes of latents: powers of two, and multiples of fifty.
_ROUND = {2**power for power in range(4, 13)} | set(range(50, 1001, 50))
#: The most usual number of classes.
_USUAL_CLASSES = 10

#: (name, shape) of an input.
NamedShape = tuple[str, tuple[int, ...]]
#: (name, values) of an input that is the same for all samples: one value, or all values in C order.
Constant = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """The inputs and the output of a generator."""

    #: Name of the input that takes the latent.
    latent_input: str
    #: Shape of one latent, usually (latent_dim,).
    latent_shape: tuple[int, ...]
    #: Name of the input that takes the label; None without classes, or if the label is concatenated to the latent.
    label_input: str | None
    #: "integer", "one_hot" or "concatenated" (one-hot, after the latent); None without classes.
    label_encoding: str | None
    #: Names of the classes; None for an unconditional generator.
    classes: tuple[str, ...] | None
    #: Name of the output that holds the samples.
    output: str
    #: Whether the model's output has its channels first; samples always have them last.
    channels_first: bool
    #: Shape of one sample, channels last.
    sample_shape: tuple[int, ...]
    #: Least and greatest value of the output; None if unknown.
    value_range: tuple[float, float] | None
    #: Values of further inputs, which a job may replace (`--set`).
    constants: tuple[Constant, ...] = ()
    #: The inputs that share the latent, in the order of their parts; empty if one input takes all of it.
    latent_parts: tuple[NamedShape, ...] = ()
    #: Inputs of normally distributed noise; each sample has its own stream.
    noise_inputs: tuple[NamedShape, ...] = ()
    #: The input for the user's vector per sample (`--attributes`), if any.
    attributes_input: NamedShape | None = None
    #: Name of the SavedModel's signature to call; None for the default.
    signature: str | None = None
    #: How a denoiser, which makes a sample in many passes, works; None for a generator.
    denoiser: Denoiser | None = None

    @property
    def latent_dim(self) -> int:
        """Values per latent."""
        return math.prod(self.latent_shape)

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Values per sample of each noise input."""
        return tuple(math.prod(shape) for _, shape in self.noise_inputs)

    @property
    def attributes_dim(self) -> int:
        """Values per sample of the attributes; 0 if there are none."""
        return math.prod(self.attributes_input[1]) if self.attributes_input else 0

    @property
    def row_dim(self) -> int:
        """Values per sample of everything that differs between samples, except the label."""
        key_dim = KEY_DIM if self.denoiser else 0
        return self.latent_dim + sum(self.noise_sizes) + self.attributes_dim + key_dim

    @property
    def label_width(self) -> int:
        """Width of a one-hot label: the number of classes, plus one if a label means none."""
        classes = len(self.classes or ())
        return classes + (self.denoiser is not None and self.denoiser.none == classes)


def interface_of(structure: Structure, sidecar: Sidecar, what: str) -> Interface:
    """The interface of a model; `what` names the generator in errors.

    Raises GeneratorError if something is left open, or if the sidecar contradicts the model.
    """
    try:
        declared = _declared_inputs(structure.inputs, sidecar.inputs)
        denoiser = sidecar.denoiser
        others = tuple(port for port in structure.inputs if port.name not in sidecar.inputs)
        if denoiser is not None:
            others = _without_time(others, denoiser.time_input)
        elif time := time_of_denoiser(others, structure.outputs):
            raise ValueError(
                f"it takes a noisy sample and its {time.name!r}, as a denoiser does: say in {SIDECAR}, [sampler], what "
                "it predicts and which input takes the time (docs/generators.md)"
            )
        if declared.latents:
            latents, label = _several_latents(declared.latents, others, sidecar)
        else:
            latent, label = latent_and_label(others, sidecar)
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
            # The output of a denoiser is not a sample, so its range is not that of samples.
            value_range=_value_range(
                output if denoiser is None else replace(output, dtype="float32", value_range=None),
                sidecar.output.get("range"),
            ),
            constants=declared.constants,
            latent_parts=tuple(map(_named_shape, latents)) if len(latents) > 1 else (),
            noise_inputs=tuple(map(_named_shape, declared.noise)),
            attributes_input=_named_shape(declared.attributes) if declared.attributes else None,
            signature=sidecar.signature,
            denoiser=denoiser,
        )
    except (TypeError, ValueError) as error:
        raise GeneratorError(f"generator {what}: {error}") from None


def time_of_denoiser(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Port | None:
    """The input for the time; None unless another input has the shape of an output, as in a denoiser."""
    single = [port for port in inputs if math.prod(size or 1 for size in port.shape) == 1]
    times = [port for port in single if _TIME_NAME.search(port.name)]
    others = [port for port in inputs if port not in times]
    alike = any(port.shape == output.shape and port.shape for port in others for output in outputs)
    return times[0] if times and alike else None


def _without_time(inputs: tuple[Port, ...], name: str) -> tuple[Port, ...]:
    """The inputs without the one for the time. Raises ValueError if there is none of this name."""
    if name not in [port.name for port in inputs]:
        names = ", ".join(port.name for port in inputs)
        raise ValueError(f"{SIDECAR}, [sampler.time] names the input {name!r}, but the model has {names}")
    return tuple(port for port in inputs if port.name != name)


def _check_denoiser(
    denoiser: Denoiser, latents: list[Port], latent_shape: tuple[int, ...], output: Port, sample_shape: tuple[int, ...]
) -> None:
    """Raises ValueError if the network's output cannot be its next input."""
    if len(latents) > 1:
        raise ValueError("a denoiser has one latent, the noisy sample")
    if len(output.shape) != len(latent_shape) or any(
        size not in (None, wanted) for size, wanted in zip(output.shape, latent_shape, strict=True)
    ):
        raise ValueError(
            f"the output of a denoiser has the shape of its input: the latent is {_shape_text(latent_shape)}, "
            f"the output {output.name!r} {_shape_text(output.shape)}"
        )
    for name, values in (("mean", denoiser.mean), ("scale", denoiser.scale)):
        if len(values) not in (1, sample_shape[-1]):
            raise ValueError(f"[sampler] {name} has {len(values)} numbers, samples have {sample_shape[-1]} channels")


@dataclass(frozen=True, kw_only=True)
class _DeclaredInputs:
    """The inputs that the sidecar declares in `[inputs]`."""

    constants: tuple[Constant, ...]
    #: In the order of the file.
    latents: tuple[Port, ...]
    noise: tuple[Port, ...]
    attributes: Port | None


def _declared_inputs(inputs: tuple[Port, ...], declared: dict[str, dict[str, Any]]) -> _DeclaredInputs:
    ports = {port.name: port for port in inputs}
    for name, table in declared.items():
        if name not in ports:
            raise ValueError(f"{SIDECAR} names the input {name!r}, but the model has {', '.join(ports)}")
        if "kind" in table and not ports[name].batched:
            raise ValueError(f"[inputs.{name}] kind: it has no batch dimension, so it can only be a constant")
        if "kind" in table and "float" not in ports[name].dtype:
            raise ValueError(f"[inputs.{name}] kind: it takes {ports[name].dtype}, but this kind is float32")

    def of_kind(kind: str) -> tuple[Port, ...]:
        return tuple(ports[name] for name, table in declared.items() if table.get("kind") == kind)

    attributes = of_kind("attributes")
    if len(attributes) > 1:
        raise ValueError("only one input can be of kind attributes")
    constants = {
        name: constant_of(ports[name], table["constant"]) for name, table in declared.items() if "constant" in table
    }
    return _DeclaredInputs(
        constants=tuple(sorted(constants.items())),
        latents=of_kind("latent"),
        noise=of_kind("noise"),
        attributes=attributes[0] if attributes else None,
    )


def constant_of(port: Port, value: float | Sequence[float]) -> tuple[float, ...]:
    """The values of an input for all samples: one, or as many as it takes. Raises ValueError for another number."""
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)
    size = math.prod(size or 1 for size in port.shape)
    if len(values) not in (1, size):
        raise ValueError(f"the constant of the input {port.name!r} has {len(values)} numbers, the input takes {size}")
    return values


def _several_latents(
    declared: tuple[Port, ...], others: tuple[Port, ...], sidecar: Sidecar
) -> tuple[list[Port], Port | None]:
    """The inputs for latents, the main one first, and the one for labels."""
    if not others:
        latents, label = list(declared), None
    elif len(others) == 1 and (_is_label(others[0]) or sidecar.label.get("input") == others[0].name):
        latents, label = list(declared), _checked_label(others[0])
    else:
        latent, label = latent_and_label(others, sidecar)
        latents = [latent, *declared]
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
    """The input, as one for labels. Raises ValueError if its name suggests something else."""
    if "float" in port.dtype and port.classes is None and _NOISE_NAME.search(port.name):
        raise ValueError(
            f"the input {port.name!r} takes floats and its name suggests noise, so it is not used for labels: "
            f'say in {SIDECAR}, [inputs.{port.name}], kind = "latent" or "noise", or constant = ...'
        )
    return port


def latent_and_label(inputs: tuple[Port, ...], sidecar: Sidecar) -> tuple[Port, Port | None]:
    """The inputs for the latent and for the label: of two, the label's takes integers or has such a name."""
    if not inputs:
        raise ValueError("none of its inputs is left for the latent")
    for port in inputs:
        if not port.batched:
            raise ValueError(
                f"the input {port.name!r} of shape {port.shape} has no batch dimension: export the model with one, or "
                f"say in {SIDECAR}, [inputs.{port.name}] constant = ..., for all samples"
            )
    declared = [sidecar.latent.get("input"), sidecar.label.get("input")]
    names = [port.name for port in inputs]
    for name in declared:
        if name is not None and name not in names:
            raise ValueError(f"{SIDECAR} names the input {name!r}, but the model has {', '.join(names)}")
    if len(inputs) == 1:
        return inputs[0], None
    if len(inputs) == 2:
        for latent, label in (inputs, inputs[::-1]):
            if declared[0] == latent.name or declared[1] == label.name:
                return latent, _checked_label(label)
            whole = "int" in label.dtype and "int" not in latent.dtype
            whole = whole or (label.classes is not None and latent.classes is None)
            if declared == [None, None] and (whole or _has_label_name(label)):
                return latent, label
        raise ValueError(
            f"it has the inputs {', '.join(names)}: say in {SIDECAR} which is latent and which label, "
            f'as in [latent] and below it input = "{names[0]}"; a second latent is [inputs.{names[1]}], kind = "latent"'
        )
    raise ValueError(
        f"it has the inputs {', '.join(names)}: only a latent and a label are recognized; say in {SIDECAR}, "
        f'[inputs.{names[-1]}], what the others take: constant = ..., or kind = "latent", "noise" or "attributes"'
    )


def _classes(
    label: Port | None, declared: dict[str, Any], none: int | None
) -> tuple[str | None, tuple[str, ...] | None]:
    """The encoding of labels and the names of the classes, without the label that means none."""
    classes = declared.get("classes")
    width = label.shape[-1] if label is not None and label.shape and label.shape[-1] != 1 else None
    if label is None:
        if declared and declared.get("encoding") != "concatenated":
            raise ValueError("no input is left for labels: they can only be concatenated to the latent")
        if declared and classes is None:
            raise ValueError(f"{SIDECAR}, [label]: classes are missing, a number or a list of names")
    encoding = declared.get("encoding") or ("one_hot" if width is not None else "integer")
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
    """Raises ValueError if this label cannot mean none."""
    if 0 <= none < classes:
        raise ValueError(f"[sampler] none is {none}, which is one of the {classes} classes: say the classes without it")
    if encoding == "integer":
        known = label.classes if label is not None else None
        if none < 0 or (known is not None and none >= known):
            raise ValueError(f"[sampler] none is {none}: labels are 0 to {'...' if known is None else known - 1}")
    elif none not in (-1, classes):
        raise ValueError(f"[sampler] none is {none}: of one-hot labels it is {classes}, or -1 for a row of zeros")


def _latent_shape(latents: list[Port], declared: dict[str, Any], concatenated: int) -> tuple[int, ...]:
    """Shape of one latent; of several latents, which are cut from one vector, that of the vector."""
    if len(latents) > 1:
        total = sum(math.prod(_named_shape(port)[1]) for port in latents)
        return _settled("latent of all its inputs", (total,), declared.get("shape"))
    latent = latents[0]
    shape: Shape = latent.shape
    if concatenated:
        if len(shape) != 1 or (shape[0] is not None and shape[0] <= concatenated):
            raise ValueError(f"the input {latent.name!r} of {shape} has no room for {concatenated} classes")
        shape = (None if shape[0] is None else shape[0] - concatenated,)
    return _settled(f"latent of {latent.name!r}", shape, declared.get("shape"))


def hints(interface: Interface, sidecar: Sidecar) -> list[str]:
    """Hints at what the user may have overlooked, one line each."""
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


def _settled(what: str, shape: Shape, declared: Any) -> tuple[int, ...]:
    """The shape with its open sizes from the sidecar, which must agree with the rest."""
    if declared is not None:
        given = tuple(declared)
        if len(given) != len(shape) or any(b not in (None, a) for a, b in zip(given, shape, strict=True)):
            raise ValueError(
                f"{SIDECAR} declares the shape {given} of the {what}, but the model has {_shape_text(shape)}"
            )
        return given
    if None in shape:
        raise ValueError(f"the {what} has the open shape {_shape_text(shape)}: declare its shape in {SIDECAR}")
    return tuple(size for size in shape if size is not None)


def _shape_text(shape: Shape) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _output(outputs: tuple[Port, ...], name: str | None) -> Port:
    names = [port.name for port in outputs]
    if name is None:
        if len(outputs) != 1:
            raise ValueError(f"it has the outputs {', '.join(names)}: say in {SIDECAR}, [output] name, which one")
        return outputs[0]
    if name not in names:
        raise ValueError(f"{SIDECAR} names the output {name!r}, but the model has {', '.join(names)}")
    return outputs[names.index(name)]


def _sample_shape(output: Port, declared: dict[str, Any]) -> tuple[bool, tuple[int, ...]]:
    """Whether the channels must be moved to the end, and the resulting shape."""
    channels = declared.get("channels")
    if channels not in (None, "first", "last"):
        raise ValueError(f"{SIDECAR}, [output] channels: {channels!r} is neither 'first' nor 'last'")
    shape: Shape = output.shape
    # Certainly an image: few channels before a square.
    square = len(shape) == 3 and shape[0] in (1, 3, 4) and shape[1] == shape[2] and (shape[1] or 0) > 4
    first = channels == "first" or (channels is None and len(shape) == 3 and (output.channels_first or square))
    if first and len(shape) != 3:
        raise ValueError(f"channels cannot be moved in an output of {_shape_text(shape)}")
    if first:
        shape = (*shape[1:], shape[0])
    wanted = declared.get("shape")
    if wanted is not None and None not in shape and not first:
        given = tuple(wanted)
        if math.prod(given) == math.prod(size or 0 for size in shape):
            return False, given
    return first, _settled(f"output {output.name!r}", shape, wanted)


def _value_range(output: Port, declared: Any) -> tuple[float, float] | None:
    if declared is None:
        return (0.0, 255.0) if output.dtype == "uint8" else output.value_range
    return float(declared[0]), float(declared[1])
