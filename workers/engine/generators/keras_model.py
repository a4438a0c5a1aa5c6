"""Wraps a Keras model as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Port, Structure
from workers.engine.generators.network import Network

if TYPE_CHECKING:
    import tensorflow as tf


def keras_network(model: Any) -> Network:
    """The network of a Keras model with known inputs."""
    inputs = tuple(Port(name=each.name, shape=_shape(each), dtype=str(each.dtype)) for each in model.inputs)
    outputs = tuple(
        Port(name=name, shape=_shape(tensor), dtype=str(tensor.dtype), value_range=_range(model, name))
        for name, tensor in zip(_output_names(model), model.outputs, strict=True)
    )

    struct = getattr(model, "_inputs_struct", None)  # Not public; `inputs` is flat.
    keys = list(struct) if isinstance(struct, dict) else None
    by_key = {id(tensor): key for key, tensor in struct.items()} if isinstance(struct, dict) else {}
    if keys is not None:
        keys = [by_key.get(id(each), key) for each, key in zip(model.inputs, sorted(keys), strict=True)]

    def call(tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fed = [tensors[port.name] for port in inputs]
        # A model built from a dictionary of inputs must be called with one.
        named = dict(zip(keys, fed, strict=True)) if keys is not None else fed[0] if len(fed) == 1 else fed
        answer = model(named, training=False)
        # A model may return a list or a dictionary.
        values = list(answer.values()) if isinstance(answer, dict) else _as_list(answer)
        names = list(answer) if isinstance(answer, dict) else [port.name for port in outputs]
        return dict(zip(names, values, strict=True))

    structure = Structure(inputs=inputs, outputs=outputs, parameters=int(model.count_params()))
    return Network(structure=structure, call=call, owner=model)


def lower_precision(network: Network, policy: str) -> None:
    """Sets this Keras policy for a Keras network, except for the layers that make its outputs.

    Raises GeneratorError for any other network.
    """
    import keras  # Takes seconds, and only after the device is pinned.

    model = network.owner
    if not isinstance(model, keras.Model):
        raise GeneratorError(f"{policy} takes a model of Keras or TensorFlow.js: others compute as they were saved")
    kept = {port.name for port in network.structure.outputs}
    # Not public, but `layers` leaves out layers wrapped by other layers.
    for layer in model._flatten_layers(include_self=False):
        if layer.name not in kept:
            layer.dtype_policy = policy


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(None if size is None else int(size) for size in tensor.shape[1:])


def _output_names(model: Any) -> list[str]:
    names = list(getattr(model, "output_names", ()))
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict):
        return list(structure)
    return names if len(names) == len(model.outputs) else [model.layers[-1].name]


def _range(model: Any, name: str) -> tuple[float, float] | None:
    """The range of values of a last layer's activation."""
    layer = next((layer for layer in model.layers if layer.name == name), None)
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}.get(activation)
