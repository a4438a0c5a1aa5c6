"""A model's layers and how they are connected, read from Keras's JSON.

Two generations are supported: that of Keras 3 (`batch_shape`, `inbound_nodes` as calls with arguments), and that of
Keras 1 and 2, which TensorFlow.js still writes (`batch_input_shape`, `inbound_nodes` as nested lists, `alpha` for what
is now `negative_slope`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.common.errors import GeneratorError

T = TypeVar("T")

#: Class names of models: Model in Keras 2 and TensorFlow.js, Functional in Keras 3.
_SEQUENTIAL, _FUNCTIONAL = "Sequential", ("Functional", "Model")
#: Deepest nesting of models.
_MOST_LEVELS = 8


@dataclass(frozen=True)
class Source:
    """A tensor inside a model: a layer, one of its calls, one of its outputs."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer and its calls."""

    name: str
    #: Class name, such as Dense.
    kind: str
    #: Its configuration in the file.
    config: dict[str, Any]
    #: The sources of each call.
    calls: tuple[tuple[Source, ...], ...]
    #: The nested model, if the layer is one.
    inner: Architecture | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Layers and connections. Inputs are layers of kind InputLayer."""

    layers: tuple[Layer, ...]
    inputs: tuple[Source, ...]
    outputs: tuple[Source, ...]
    #: Names of the outputs, if the model returns a dictionary; otherwise outputs have the names of their layers.
    output_names: tuple[str, ...] = ()

    def all_layers(self) -> Iterator[Layer]:
        """Every layer, including those of nested models."""
        for layer in self.layers:
            yield layer
            if layer.inner is not None:
                yield from layer.inner.all_layers()


class NotUnderstoodError(GeneratorError):
    """A model's JSON contains something not supported here; Keras itself may support it."""


def read_architecture(model: Any, level: int = 0) -> Architecture:
    """The architecture in a serialized model, `{"class_name": ..., "config": ...}`.

    Raises NotUnderstoodError.
    """
    if level > _MOST_LEVELS:
        raise NotUnderstoodError(f"models are nested more than {_MOST_LEVELS} deep")
    try:
        if model["class_name"] == _SEQUENTIAL:
            return _sequential(model["config"], level)
        if model["class_name"] in _FUNCTIONAL:
            return _functional(model["config"], level)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise NotUnderstoodError(f"its description is malformed: {type(error).__name__} {error}") from None
    raise NotUnderstoodError(f"model class {str(model['class_name'])[:80]!r} is neither Sequential nor Functional")


def evaluate(architecture: Architecture, inputs: list[T], apply: Callable[[Layer, list[T]], list[T]]) -> list[T]:
    """Follows the connections from `inputs` to the outputs; `apply` returns a layer's outputs for its sources.

    T may be shapes as well as tensors. Raises NotUnderstoodError if a connection leads nowhere.
    """
    made: dict[tuple[str, int], list[T]] = {}
    for source, value in zip(architecture.inputs, inputs, strict=True):
        made[source.layer, 0] = [value]
    waiting = [
        (layer, number, sources)
        for layer in architecture.layers
        for number, sources in enumerate(layer.calls)
        if (layer.name, number) not in made
    ]
    while waiting:
        ready = [each for each in waiting if all((source.layer, source.call) in made for source in each[2])]
        if not ready:
            raise NotUnderstoodError(f"layer {waiting[0][0].name!r} is connected to nothing that exists")
        for layer, number, sources in ready:
            made[layer.name, number] = apply(layer, [_pick(made, source) for source in sources])
        waiting = [each for each in waiting if (each[0].name, each[1]) not in made]
    return [_pick(made, source) for source in architecture.outputs]


def _pick(made: dict[tuple[str, int], list[T]], source: Source) -> T:
    try:
        return made[source.layer, source.call][source.output]
    except (KeyError, IndexError):
        raise NotUnderstoodError(f"output {source.output} of layer {source.layer!r} does not exist") from None


def input_shape(config: dict[str, Any]) -> tuple[int | None, ...] | None:
    """The input shape, without the batch, in a layer's configuration."""
    for key in ("batch_shape", "batch_input_shape", "input_shape"):
        if config.get(key) is not None:
            shape = config[key] if key == "input_shape" else config[key][1:]
            return tuple(None if size is None else int(size) for size in shape)
    return None


def _sequential(config: Any, level: int) -> Architecture:
    entries = config if isinstance(config, list) else config["layers"]
    declared = None if isinstance(config, list) else config.get("build_input_shape")
    layers: list[Layer] = []
    if entries[0]["class_name"] != "InputLayer":
        # A nested Sequential may take its input shape from the outer model.
        shape = input_shape(entries[0]["config"]) or (tuple(declared[1:]) if declared else None)
        dtype = "float32" if entries[0]["class_name"] != "Embedding" else "int32"
        name = f"{entries[0]['config']['name']}_input"
        config = {"batch_shape": None if shape is None else [None, *shape], "dtype": dtype, "name": name}
        layers.append(Layer(name=name, kind="InputLayer", config=config, calls=((),)))
    for entry in entries:
        sources = (Source(layers[-1].name, 0, 0),) if layers else ()
        layers.append(_layer(entry, (sources,), level))
    return Architecture(
        layers=tuple(layers), inputs=(Source(layers[0].name, 0, 0),), outputs=(Source(layers[-1].name, 0, 0),)
    )


def _functional(config: dict[str, Any], level: int) -> Architecture:
    layers = []
    for entry in config["layers"]:
        calls = tuple(_call(node) for node in entry.get("inbound_nodes", ()))
        layers.append(_layer(entry, calls or ((),), level))
    inputs, outputs = (tuple(_triples(config[key])) for key in ("input_layers", "output_layers"))
    output_layers = config["output_layers"]
    names = tuple(map(str, output_layers)) if isinstance(output_layers, dict) else ()
    return _renumbered(layers, inputs, outputs, names)


def _layer(entry: dict[str, Any], calls: tuple[tuple[Source, ...], ...], level: int) -> Layer:
    config = entry["config"] if isinstance(entry["config"], dict) else {"layers": entry["config"]}
    kind = str(entry["class_name"])
    inner = read_architecture(entry, level + 1) if kind in (_SEQUENTIAL, *_FUNCTIONAL) else None
    name = entry.get("name") or config.get("name") or kind
    return Layer(name=str(name), kind=kind, config=config, calls=calls, inner=inner)


def _call(node: Any) -> tuple[Source, ...]:
    """The sources of one call. Only a mask or `training` may be passed besides."""
    if isinstance(node, dict):
        extra = {key for key, value in node["kwargs"].items() if value is not None} - {"training"}
        if extra or any(_constant(argument) for argument in node["args"]):
            raise NotUnderstoodError("a layer is called with arguments of its own")
        return tuple(_triples(node["args"]))
    extra = {key for _, _, _, *rest in node for kwargs in rest for key in kwargs} - {"training", "mask"}
    if extra:
        raise NotUnderstoodError("a layer is called with arguments of its own")
    return tuple(Source(str(layer), int(call), int(output)) for layer, call, output, *_ in node)


def _constant(argument: Any) -> bool:
    if isinstance(argument, list):
        return any(_constant(each) for each in argument)
    return not (isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__")


def _triples(value: Any) -> Iterator[Source]:
    """The sources in nested lists and dictionaries, in order."""
    if isinstance(value, dict):
        history = value.get("config", {}).get("keras_history") if value.get("class_name") else None
        yield from _triples(history if history is not None else list(value.values()))
    elif isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str):
            yield Source(value[0], int(value[1]), int(value[2]))
        else:
            for each in value:
                yield from _triples(each)


def _renumbered(
    layers: list[Layer], inputs: tuple[Source, ...], outputs: tuple[Source, ...], output_names: tuple[str, ...]
) -> Architecture:
    """Calls numbered from 0. For a nested model, older files count its creation as a call."""
    used: dict[str, set[int]] = {}
    for source in (*outputs, *(source for layer in layers for call in layer.calls for source in call)):
        used.setdefault(source.layer, set()).add(source.call)
    shift = {layer.name: max(0, max(used.get(layer.name, {0})) - len(layer.calls) + 1) for layer in layers}

    def moved(sources: tuple[Source, ...]) -> tuple[Source, ...]:
        return tuple(Source(each.layer, each.call - shift.get(each.layer, 0), each.output) for each in sources)

    return Architecture(
        layers=tuple(
            Layer(
                name=layer.name,
                kind=layer.kind,
                config=layer.config,
                calls=tuple(moved(call) for call in layer.calls),
                inner=layer.inner,
            )
            for layer in layers
        ),
        inputs=inputs,
        outputs=moved(outputs),
        output_names=output_names if len(output_names) == len(outputs) else (),
    )
