"""Derives a structure from an architecture: shapes, size, work and the range of its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.generators.architecture import Architecture, Layer, NotUnderstoodError, Source, evaluate, input_shape
from pipeline.generators.layers import Weights, known_kind, output_of, range_after, settings_of, weights_of
from pipeline.generators.structure import Port, Shape, Structure


@dataclass
class Survey:
    """Data collected while following an architecture."""

    #: Shapes of every layer's weights, by the layer's name and the weight's.
    weights: dict[str, Weights] = field(default_factory=dict)
    multiplications: int = 0


def structure_of(architecture: Architecture) -> Structure:
    """The structure. Raises NotUnderstoodError that names the unsupported layer."""
    return survey(architecture)[0]


def survey(architecture: Architecture) -> tuple[Structure, Survey]:
    """The structure, and the weights that it needs."""
    _check_names(architecture)
    inputs = tuple(_input(architecture, source) for source in architecture.inputs)
    found = Survey()
    shapes = _follow(architecture, [port.shape for port in inputs], found)
    outputs = tuple(
        Port(
            name=name,
            shape=shape,
            value_range=_range(architecture, source),
            channels_first=_layer(architecture, source.layer).config.get("data_format") == "channels_first",
        )
        for source, shape, name in zip(
            architecture.outputs,
            shapes,
            architecture.output_names or [source.layer for source in architecture.outputs],
            strict=True,
        )
    )
    parameters = sum(math.prod(shape) for weights in found.weights.values() for shape in weights.values())
    return Structure(inputs=inputs, outputs=outputs, parameters=parameters, flop=2 * found.multiplications), found


def _check_names(architecture: Architecture) -> None:
    """Raises NotUnderstoodError if two layers have one name, since weights are assigned by name."""
    seen: dict[str, Layer] = {}
    for layer in architecture.all_layers():
        if layer.kind != "InputLayer" and seen.setdefault(layer.name, layer) is not layer:
            raise NotUnderstoodError(f"two layers are called {layer.name!r}")


def _follow(architecture: Architecture, shapes: list[Shape], found: Survey) -> list[Shape]:
    def apply(layer: Layer, given: list[Shape]) -> list[Shape]:
        if layer.inner is not None:
            return _follow(layer.inner, given, found)
        out = output_of(layer, given)
        found.weights[layer.name] = weights_of(layer, given)
        if None not in out and None not in given[0]:
            found.multiplications += known_kind(layer).multiplications(settings_of(layer), given, out)
        return [out]

    return evaluate(architecture, shapes, apply)


def _layer(architecture: Architecture, name: str) -> Layer:
    for layer in architecture.layers:
        if layer.name == name:
            return layer
    raise NotUnderstoodError(f"layer {name!r} does not exist")


def _input(architecture: Architecture, source: Source) -> Port:
    layer = _layer(architecture, source.layer)
    shape = input_shape(layer.config)
    if layer.kind != "InputLayer" or shape is None:
        raise NotUnderstoodError(f"input {source.layer!r} has no shape")
    return Port(
        name=source.layer,
        shape=shape,
        dtype=_dtype(layer.config.get("dtype")),
        classes=_embedded(architecture, source),
    )


def _embedded(architecture: Architecture, source: Source) -> int | None:
    """The size of the embedding that an input feeds, perhaps after reshaping; None if there is none."""
    for layer in architecture.layers:
        for number, call in enumerate(layer.calls):
            if source not in call:
                continue
            if layer.kind == "Embedding":
                return int(settings_of(layer)["input_dim"])
            if layer.inner is not None:
                found = _embedded(layer.inner, layer.inner.inputs[call.index(source)])
            elif layer.kind in ("Flatten", "Reshape"):
                found = _embedded(architecture, Source(layer.name, number, 0))
            else:
                continue
            if found is not None:
                return found
    return None


def _dtype(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("config", {}).get("name", "float32"))
    return str(value or "float32")


def _range(architecture: Architecture, source: Source) -> tuple[float, float] | None:
    """Follows a chain of layers with one input each back to an activation that bounds the values."""
    chain: list[Layer] = []
    while True:
        layer = _layer(architecture, source.layer)
        if layer.inner is not None:
            ends = _range(layer.inner, layer.inner.outputs[source.output])
            break
        if layer.kind == "InputLayer" or len(layer.calls[source.call]) != 1:
            ends = None
            break
        chain.append(layer)
        source = layer.calls[source.call][0]
    for layer in reversed(chain):
        ends = range_after(layer, ends)
    return ends
