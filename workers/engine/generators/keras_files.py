"""Loads generators saved by Keras: `.keras` by Keras itself if possible, and `.h5` by the table of layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.archive import EXPORT, WAYS_OUT, read_config
from pipeline.generators.hdf5 import StoredModel, keras_of, read_hdf5_model, read_keras_archive, read_values
from pipeline.generators.keras_notes import notes_of
from workers.engine.generators.build import build_model, set_weights
from workers.engine.generators.keras_model import keras_network
from workers.engine.generators.network import Network, first_line


def load_keras(path: Path) -> Network:
    """The model in a file, loaded in safe mode. Raises GeneratorError."""
    import keras  # Takes seconds, and only after the device is pinned.

    config = read_config(path)  # Refuses damaged or dangerous files before Keras opens them.
    if keras_of(path) < 3 and (stored := _in_the_table(path)) is not None:
        return _rebuilt(stored)  # Keras 3 would read it as a file of Keras 3, if at all.
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras may raise any error of its layers.
        if (stored := _in_the_table(path)) is not None:
            return _rebuilt(stored)
        raise GeneratorError(f"generator {path} cannot be loaded: {why_not(read_config(path), error)}") from error
    if not getattr(model, "inputs", None):
        raise GeneratorError(f"generator {path} cannot be loaded: it was never called, so its input is unknown")
    network = keras_network(model)
    return replace(network, structure=replace(network.structure, notes=notes_of(config, 3)))


def _in_the_table(path: Path) -> StoredModel | None:
    """The model by the table of layers; None if a layer is not in it."""
    try:
        return read_keras_archive(path)
    except GeneratorError:
        return None


def load_hdf5(path: Path) -> Network:
    """The network of a `.h5` file. Raises GeneratorError."""
    return _rebuilt(read_hdf5_model(path))


def _rebuilt(stored: StoredModel) -> Network:
    """The network of a model that was read from HDF5. Raises GeneratorError."""
    values = read_values(stored)
    try:
        model = build_model(stored.architecture, stored.structure, "keras 3" if stored.keras == 3 else "keras 2")
    except GeneratorError:
        raise
    except Exception as error:  # Keras may raise any error of its layers.
        raise GeneratorError(f"generator {stored.path} cannot be rebuilt in Keras: {first_line(error)}") from error
    set_weights(model, dict(values), str(stored.path))
    return keras_network(model)


def why_not(description: Any, error: Exception) -> str:
    """Why Keras did not load a model with this description, in one line that says what to do."""
    if "Lambda" in str(error) or "safe_mode" in str(error):
        return "it holds a Lambda layer or other code, which could do anything on load; use layers instead"
    if own := _own_classes(description):
        told = ", ".join(sorted(own)[:5])
        return f"it has classes of its author's own ({told}), whose code is not here: {WAYS_OUT}"
    if "could not be deserialized" in str(error) or "deserialize" in str(error):
        return f"this Keras cannot read it; {EXPORT}"
    return first_line(error)


def _own_classes(description: Any) -> set[str]:
    """Names of the classes in a description that are not, or no longer, part of Keras."""
    import keras  # Loaded already.

    found = set()
    waiting = [description]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            name, module = each.get("class_name"), each.get("module")
            # Classes registered by their author have no module.
            foreign = module is None and each.get("registered_name")
            foreign = foreign or (isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins"))
            unknown = module == "keras.layers" and not hasattr(keras.layers, str(name))
            if isinstance(name, str) and (foreign or unknown):
                found.add(name[:60])
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
    return found
