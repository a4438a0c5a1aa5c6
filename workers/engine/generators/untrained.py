"""Untrained generators: a topology, and weights drawn from a seed with the same bits on every machine."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.inspection import survey
from pipeline.generators.tfjs import read_json, read_topology
from workers.engine.generators.build import WeightValues, build_model, set_weights
from workers.engine.generators.keras_model import keras_network
from workers.engine.generators.network import Network

#: Initial values of weights that are the same in every framework, whatever initializer the topology names.
_CONSTANTS = {"bias": 0.0, "beta": 0.0, "gamma": 1.0, "moving_mean": 0.0, "moving_variance": 1.0}


def load_untrained(path: Path) -> Network:
    """The network of an `untrained.json`. Raises GeneratorError."""
    data = read_json(path)
    architecture = read_topology(path, data)
    structure, found = survey(architecture)
    configs = {layer.name: layer.config for layer in architecture.all_layers()}
    values: WeightValues = {}
    for layer, weights in found.weights.items():
        for name, shape in weights.items():
            initialiser = configs[layer].get(f"{name}_initializer", {})
            values[layer, name] = _draw(path, int(data.get("seed", 0)), f"{layer}/{name}", shape, initialiser)
    model = build_model(architecture, structure, "tfjs")
    set_weights(model, values, str(path))
    return keras_network(model)


def _draw(path: Path, seed: int, name: str, shape: tuple[int, ...], initialiser: dict[str, Any]) -> NDArray[np.float32]:
    kind = initialiser.get("class_name")
    constant = {"Zeros": 0.0, "Ones": 1.0}.get(str(kind), _CONSTANTS.get(name.rpartition("/")[2]))
    if constant is not None:
        return np.full(shape, constant, np.float32)
    if kind != "TruncatedNormal" or initialiser["config"]["mean"]:
        raise GeneratorError(f"generator {path}: weights {name} with the initialiser {kind} cannot be drawn")
    # A stream for each weight, so that none depends on the order of the others.
    stream = np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    return truncated_normal(np.random.Generator(stream), shape, float(initialiser["config"]["stddev"]))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], stddev: float) -> NDArray[np.float32]:
    """Normal, redrawn beyond two standard deviations; the same bits on every machine."""
    values = rng.standard_normal(shape, dtype=np.float32)
    outliers = np.abs(values) > 2
    while missing := int(outliers.sum()):
        values[outliers] = rng.standard_normal(missing, dtype=np.float32)
        outliers = np.abs(values) > 2
    return values * np.float32(stddev)
