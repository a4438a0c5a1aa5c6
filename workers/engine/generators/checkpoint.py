"""TensorFlow 2 checkpoints (weights saved by Keras 2, `tf.train.Checkpoint`) with the architecture beside them.

A checkpoint contains a graph of objects: models, layers, variables. It defines which variable is which weight; names of
variables do not, since a variable may be listed under an optimizer. No code in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.architecture import Architecture, Layer, NotUnderstoodError, read_architecture
from pipeline.generators.architecture_file import architecture_beside, major_version
from pipeline.generators.archive import EXPORT
from pipeline.generators.inspection import survey
from pipeline.generators.layers import Weights
from pipeline.generators.tfjs import read_json
from workers.engine.generators.build import WeightValues, build_model, set_weights
from workers.engine.generators.keras_model import keras_network
from workers.engine.generators.network import Network, first_line

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
#: Layers of a model by their position, as Keras 2 called them.
_LAYER = re.compile(r"layer-(\d+)")


def load_checkpoint(path: Path) -> Network:
    """The network of a `NAME.index` with its values and an architecture beside it. Raises GeneratorError."""
    beside = architecture_beside(path)
    description = read_json(beside)
    try:
        architecture = read_architecture(description)
        structure, found = survey(architecture)
    except NotUnderstoodError as error:
        raise GeneratorError(f"generator {beside}: {error}; {EXPORT}") from None
    values = _read(path, beside.stem, architecture, found.weights)
    keras = major_version(str(description.get("keras_version", "")), "3")
    try:
        model = build_model(architecture, structure, "keras 3" if keras == 3 else "keras 2")
    except GeneratorError:
        raise
    except Exception as error:  # Keras raises whatever its layers raise.
        raise GeneratorError(f"generator {beside} cannot be rebuilt in Keras: {first_line(error)}") from error
    set_weights(model, values, str(path))
    return replace(keras_network(model), structure=structure)


def _read(path: Path, name: str, architecture: Architecture, wanted: dict[str, Weights]) -> WeightValues:
    """All weights, of the model in a checkpoint that fits; of several, the one called `name`."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.
    from google.protobuf.message import DecodeError

    try:
        checkpoint = _Checkpoint(tf.train.load_checkpoint(str(path.with_suffix(""))))
        models = list(checkpoint.models())
        fitting, misfits = {}, {}
        for place, node in models:
            try:
                fitting[place] = dict(checkpoint.weights(node, architecture, wanted))
            except _MisfitError as error:
                misfits[place] = str(error)
        chosen = fitting if len(fitting) == 1 else {place: each for place, each in fitting.items() if place == name}
        for keys in chosen.values():
            return {weight: checkpoint.value(key) for weight, key in keys.items()}
    except _MisfitError as error:
        raise GeneratorError(f"generator {path}: {error}; {EXPORT}") from None
    except (tf.errors.OpError, DecodeError, IndexError, ValueError, RuntimeError) as error:
        raise GeneratorError(f"generator {path} is no whole checkpoint: {first_line(error)}") from error
    if fitting:
        told = ", ".join(fitting)
        raise GeneratorError(
            f"generator {path} holds several models of this architecture ({told}): rename {name}.json after the "
            f"one to use"
        )
    if not misfits:
        raise GeneratorError(f"generator {path} contains no Keras model; {EXPORT}")
    told = "; ".join(f"{place or 'the model'}: {why}" for place, why in misfits.items())
    raise GeneratorError(f"generator {path} does not fit the architecture in {name}.json: {told[:300]}")


class _MisfitError(Exception):
    """A model in a checkpoint does not have the architecture in the file beside it."""


@dataclass(frozen=True)
class _Variable:
    key: str
    shape: tuple[int, ...]


class _Checkpoint:
    """The graph of objects in a checkpoint, and the values of its variables."""

    def __init__(self, reader: Any) -> None:
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

        self._reader = reader
        self._shapes = reader.get_variable_to_shape_map()
        if _OBJECT_GRAPH not in self._shapes:
            raise _MisfitError("a checkpoint of TensorFlow 1 does not say which variable belongs to which layer")
        self._nodes = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH)).nodes

    def value(self, key: str) -> NDArray[Any]:
        """The value of a variable."""
        value: NDArray[Any] = self._reader.get_tensor(key)
        return value

    def models(self) -> Iterator[tuple[str, int]]:
        """All models that are not layers of another, by name; the root, with the name "", first if it is a model."""
        waiting, seen = [("", 0)], {0}
        while waiting:
            place, node = waiting.pop(0)
            if self._layers(node) is not None:
                yield place, node
                continue
            for name, child in self._children(node).items():
                if child not in seen:
                    seen.add(child)
                    waiting.append((name, child))

    def weights(
        self, node: int, architecture: Architecture, wanted: dict[str, Weights]
    ) -> Iterator[tuple[tuple[str, str], str]]:
        """The key of each weight of a model. Raises _MisfitError."""
        nodes, layers = self._layers(node) or [], list(architecture.layers)
        if len(nodes) == len(layers) - 1:  # Keras 2 does not count the input of a Sequential.
            layers = layers[1:]
        if len(nodes) != len(layers):
            raise _MisfitError(f"it has {len(nodes)} layers, not {len(layers)}")
        for layer, own in zip(layers, nodes, strict=True):
            if layer.inner is not None:
                yield from self.weights(own, layer.inner, wanted)
            else:
                yield from self._of_layer(own, layer, wanted.get(layer.name, {}))

    def _of_layer(self, node: int, layer: Layer, wanted: Weights) -> Iterator[tuple[tuple[str, str], str]]:
        variables = {name.removeprefix("_"): self._variable(child) for name, child in self._children(node).items()}
        for name, shape in wanted.items():
            # The name of DepthwiseConv2D's kernel before Keras 3.
            variable = variables.get(name) or variables.get(f"depthwise_{name}")
            if variable is None or variable.shape != shape:
                stored = "nothing" if variable is None else variable.shape
                raise _MisfitError(f"layer {layer.name!r} takes {name} of {shape}, it holds {stored}")
            yield (layer.name, name), variable.key

    def _layers(self, node: int) -> list[int] | None:
        """The layers of a model in order; None if an object is not a model."""
        children = self._children(node)
        if "_functional" in children:  # A Sequential of Keras 3 contains a functional model.
            return self._layers(children["_functional"])
        if "_operations" in children:
            operations = self._children(children["_operations"])
            return [operations[name] for name in sorted(operations, key=int) if name.isdigit()]
        numbered = {int(told[1]): child for name, child in children.items() if (told := _LAYER.fullmatch(name))}
        return [numbered[number] for number in sorted(numbered)] or None

    def _children(self, node: int) -> dict[str, int]:
        return {child.local_name: child.node_id for child in self._nodes[node].children}

    def _variable(self, node: int) -> _Variable | None:
        for each in self._nodes[node].attributes:
            if each.name == _VALUE and each.checkpoint_key in self._shapes:
                return _Variable(each.checkpoint_key, tuple(self._shapes[each.checkpoint_key]))
        return None
