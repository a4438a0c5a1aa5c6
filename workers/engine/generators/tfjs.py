"""Loads TensorFlow.js generators: layers models and graph models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.tfjs import Group, StoredWeight, read_json, read_layers_model
from pipeline.generators.tfjs_graph import read_graph_model
from workers.engine.generators.build import build_model, set_weights
from workers.engine.generators.graph import graph_network
from workers.engine.generators.keras_model import keras_network
from workers.engine.generators.network import Network, first_line


def load_tfjs(path: Path) -> Network:
    """The network of a `model.json`. Raises GeneratorError."""
    data = read_json(path)
    if data.get("format") == "graph-model":
        graph = read_graph_model(path, data)
        return graph_network(path, graph, read_weights(graph.groups))
    read = read_layers_model(path)
    values = read_weights(read.groups)
    try:
        model = build_model(read.architecture, read.structure, "tfjs")
    except GeneratorError:
        raise
    except Exception as error:  # Keras may raise any error of its layers.
        raise GeneratorError(f"generator {path} cannot be rebuilt in Keras: {first_line(error)}") from error
    set_weights(model, {place: values[name] for place, name in read.places.items()}, str(path))
    return keras_network(model)


def read_weights(groups: Iterable[Group]) -> dict[str, NDArray[Any]]:
    """All weights by their names in the manifest, dequantized if necessary."""
    values = {}
    for group in groups:
        data = b"".join(file.read_bytes() for file in group.files)
        first = 0
        for weight in group.weights:
            values[weight.name] = _unpack(weight, data[first : first + weight.size_bytes])
            first += weight.size_bytes
    return values


def _unpack(weight: StoredWeight, data: bytes) -> NDArray[Any]:
    """A weight, dequantized as in TensorFlow.js: in float32 by value * scale + min."""
    stored = np.frombuffer(data, dtype=np.dtype(weight.stored).newbyteorder("<")).reshape(weight.shape)
    if weight.affine is None:
        return stored.astype(weight.dtype)
    least, step = weight.affine
    unpacked = stored.astype(np.float64) * step + least
    return (unpacked if weight.dtype == "float32" else np.rint(unpacked)).astype(weight.dtype)
