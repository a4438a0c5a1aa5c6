"""A TensorFlow.js layers model: `model.json` with topology and manifest, and its weight files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.common.files import read_regular
from pipeline.generators.architecture import Architecture, NotUnderstoodError, read_architecture
from pipeline.generators.architecture_file import is_architecture
from pipeline.generators.archive import MOST_CONFIG_BYTES
from pipeline.generators.inspection import survey
from pipeline.generators.structure import Structure

#: Bytes per number in the file.
_ITEM_BYTES = {"float32": 4, "int32": 4, "bool": 1, "uint8": 1, "uint16": 2, "float16": 2}
_QUANTISED = ("uint8", "uint16", "float16")


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight in the manifest."""

    #: Its name in TensorFlow.js: layer/kernel.
    name: str
    shape: tuple[int, ...]
    #: Type after dequantization.
    dtype: str
    #: Type in the file; differs if it is quantized.
    stored: str
    #: Value of a quantized 0, and of each step; None if values are not quantized.
    affine: tuple[float, float] | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _ITEM_BYTES[self.stored]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Consecutive weights in a group of files."""

    files: tuple[Path, ...]
    weights: tuple[StoredWeight, ...]


@dataclass(frozen=True, kw_only=True)
class LayersModel:
    """The checked content of `model.json`."""

    architecture: Architecture
    structure: Structure
    groups: tuple[Group, ...]
    #: (layer, weight) -> name in the manifest.
    places: dict[tuple[str, str], str]

    @property
    def files(self) -> tuple[Path, ...]:
        """All weight files, in the manifest's order."""
        return tuple(file for group in self.groups for file in group.files)


def read_topology(path: Path, data: dict[str, Any], key: str = "modelTopology") -> Architecture:
    """The architecture in `model.json`. Raises GeneratorError."""
    topology = data.get(key)
    if not isinstance(topology, dict):
        if is_architecture(path):
            raise GeneratorError(
                f"generator {path} is an architecture without weights: put them beside it and name their file "
                f"(model.save_weights('{path.stem}.weights.h5') where it was trained)"
            )
        raise GeneratorError(f"generator {path} has no {key}")
    try:
        return read_architecture(topology.get("model_config", topology))
    except NotUnderstoodError as error:
        raise GeneratorError(f"generator {path}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of limited size. Raises GeneratorError."""
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise GeneratorError(f"generator {path} has more than {MOST_CONFIG_BYTES:,} bytes: that is no description")
        data = json.loads(read_regular(path))
    except OSError as error:
        raise GeneratorError(f"generator {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise GeneratorError(f"generator {path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise GeneratorError(f"generator {path} describes no model")
    return data


def read_layers_model(path: Path) -> LayersModel:
    """Reads and checks everything but the weights' values. Raises GeneratorError."""
    data = read_json(path)
    form = data.get("format", "layers-model")
    if form != "layers-model":
        raise GeneratorError(
            f"generator {path} is a TensorFlow.js {str(form)[:40]}: only layers models and graph models can be loaded"
        )
    architecture = read_topology(path, data)
    try:
        structure, found = survey(architecture)
    except NotUnderstoodError as error:
        raise GeneratorError(f"generator {path}: {error}") from None
    groups = read_groups(path, data.get("weightsManifest"))
    wanted = {(layer, name): shape for layer, weights in found.weights.items() for name, shape in weights.items()}
    places = _places(path, wanted, [weight for group in groups for weight in group.weights])
    return LayersModel(architecture=architecture, structure=structure, groups=groups, places=places)


def read_groups(path: Path, manifest: Any) -> tuple[Group, ...]:
    """The weights in a manifest, and their files. Raises GeneratorError if they do not match."""
    if not isinstance(manifest, list):
        raise GeneratorError(f"generator {path} has no weightsManifest: its weights are missing")
    try:
        groups = tuple(
            Group(
                files=tuple(_file(path, name) for name in group["paths"]),
                weights=tuple(_stored_weight(entry) for entry in group["weights"]),
            )
            for group in manifest
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GeneratorError(f"generator {path}: its weightsManifest is malformed: {error}") from None
    for group in groups:
        _check_sizes(path, group)
    return groups


def _file(path: Path, name: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or ":" in name:
        raise ValueError(f"the path {name[:80]!r} would leave the model's folder")
    return path.parent / parts


def _check_sizes(path: Path, group: Group) -> None:
    wanted = sum(weight.size_bytes for weight in group.weights)
    found = 0
    for file in group.files:
        if not file.is_file():
            raise GeneratorError(f"generator {path}: the weights {file.name} are missing")
        found += file.stat().st_size
    if found != wanted:
        names = ", ".join(file.name for file in group.files)[:120]
        raise GeneratorError(f"generator {path}: {names} have {found:,} bytes, the manifest tells {wanted:,}")


def _stored_weight(entry: dict[str, Any]) -> StoredWeight:
    dtype = stored = entry["dtype"]
    affine = None
    if entry.get("quantization") is not None:
        packing = entry["quantization"]
        stored = packing["dtype"]
        dtype = packing.get("original_dtype", dtype)
        if stored not in _QUANTISED:
            raise ValueError(f"quantization to {stored!r} is not supported")
        if stored != "float16":
            affine = (float(packing["min"]), float(packing["scale"]))
    if dtype not in ("float32", "int32", "bool") or stored not in _ITEM_BYTES:
        raise ValueError(f"weights of the type {dtype!r} are not supported")
    shape = tuple(int(size) for size in entry["shape"])
    if any(size < 0 for size in shape):
        raise ValueError(f"a weight of the shape {shape}")
    return StoredWeight(name=str(entry["name"]), shape=shape, dtype=dtype, stored=stored, affine=affine)


def _places(
    path: Path, wanted: dict[tuple[str, str], tuple[int, ...]], stored: list[StoredWeight]
) -> dict[tuple[str, str], str]:
    """Matches the weights of the manifest to those of the layers; each exactly once, with the right shape."""
    by_end: dict[tuple[str, str], StoredWeight] = {}
    for weight in stored:
        if by_end.setdefault(_end(weight.name), weight) is not weight:
            raise GeneratorError(f"generator {path}: the manifest holds the weights {weight.name!r} twice")
    for layer, name in wanted:
        # The name of DepthwiseConv2D's kernel before Keras 3.
        if name == "kernel" and (layer, name) not in by_end and (layer, "depthwise_kernel") in by_end:
            by_end[layer, name] = by_end.pop((layer, "depthwise_kernel"))
    for (layer, name), shape in wanted.items():
        weight_found = by_end.get((layer, name))
        if weight_found is None:
            raise GeneratorError(f"generator {path}: the weights {layer}/{name} are missing from the manifest")
        if weight_found.shape != shape:
            raise GeneratorError(
                f"generator {path}: the weights {layer}/{name} have the shape {weight_found.shape}, "
                f"the layer takes {shape}"
            )
    if surplus := [weight.name for end, weight in by_end.items() if end not in wanted]:
        raise GeneratorError(f"generator {path}: the weights {surplus[0]!r} belong to no layer")
    return {key: by_end[key].name for key in wanted}


def _end(name: str) -> tuple[str, str]:
    """Layer and weight in a weight's name. Converters add scopes before it, TensorFlow.js a number after it."""
    layer, _, weight = name.removesuffix(":0").rpartition("/")
    return layer.rpartition("/")[2], re.sub(r"_\d+$", "", weight)
