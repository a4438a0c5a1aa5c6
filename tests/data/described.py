"""`.keras` files without weights: what can be told of them without TensorFlow is true, and nothing else."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any


def write_described(
    path: Path, latent: list[int], output: list[int], *, name: str = "latent", label: bool = False
) -> None:
    """A model from a latent (and a whole number for the label) through one dense layer to an output."""
    inputs = [_layer("InputLayer", name, {"batch_shape": [None, *latent], "dtype": "float32"}, [])]
    if label:
        inputs.append(_layer("InputLayer", "label", {"batch_shape": [None, 1], "dtype": "int32"}, []))
    names = [layer["name"] for layer in inputs]
    layers = [
        *inputs,
        *([_layer("Concatenate", "joined", {"axis": -1}, names)] if label else []),
        _layer("Dense", "dense", {"units": math.prod(output)}, ["joined" if label else name]),
        _layer("Reshape", "output", {"target_shape": output}, ["dense"]),
    ]
    ends = {"input_layers": [[each, 0, 0] for each in names], "output_layers": [["output", 0, 0]]}
    config = {"class_name": "Functional", "config": {"name": "described", "layers": layers, **ends}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"none")


def _layer(kind: str, name: str, config: dict[str, Any], sources: list[str]) -> dict[str, Any]:
    tensors: list[Any] = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}} for source in sources
    ]
    arguments = [tensors] if len(tensors) > 1 else tensors
    nodes: list[Any] = [{"args": arguments, "kwargs": {}}] if sources else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}
