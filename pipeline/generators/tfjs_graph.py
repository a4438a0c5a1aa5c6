"""A TensorFlow.js graph model: `model.json` with a graph of TensorFlow operations, and its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Port, Shape, Structure
from pipeline.generators.tfjs import Group, read_groups

#: Operation -> range of its values.
_RANGES = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Relu6": (0.0, 6.0)}
#: Operations that do not change the values of their first input.
_MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "ExpandDims", "StopGradient", "ResizeNearestNeighbor")


@dataclass(frozen=True, kw_only=True)
class GraphModel:
    """The checked content of `model.json`."""

    #: The graph, as JSON of a GraphDef.
    topology: dict[str, Any]
    #: Tensors of the graph by the names of inputs and of outputs: {"z": "z:0"}.
    inputs: dict[str, str]
    outputs: dict[str, str]
    groups: tuple[Group, ...]
    #: None if the signature leaves shapes open that only TensorFlow can determine.
    structure: Structure | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All weight files, in the manifest's order."""
        return tuple(file for group in self.groups for file in group.files)


def read_graph_model(path: Path, data: dict[str, Any]) -> GraphModel:
    """Reads and checks everything but the weights' values. Raises GeneratorError."""
    try:
        topology = data["modelTopology"]
        nodes = {str(node["name"]): node for node in topology["node"]}
        signature = data.get("signature") or data.get("userDefinedMetadata", {}).get("signature") or {}
        inputs = _tensors(signature.get("inputs")) or _placeholders(nodes)
        outputs = _tensors(signature.get("outputs")) or _ends(nodes)
        groups = read_groups(path, data.get("weightsManifest"))
        structure = _structure(nodes, inputs, outputs, groups)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"[:120]
        raise GeneratorError(f"generator {path}: its graph is malformed: {reason}") from None
    return GraphModel(
        topology=topology,
        inputs={name: tensor for name, (tensor, _, _) in inputs.items()},
        outputs={name: tensor for name, (tensor, _, _) in outputs.items()},
        groups=groups,
        structure=structure,
    )


#: Tensor, shape with the batch (None if unknown) and dtype.
_Tensor = tuple[str, Shape | None, str]


def _tensors(tensors: dict[str, Any] | None) -> dict[str, _Tensor]:
    """The tensors of a signature, sorted by name."""
    found = {}
    for name, each in sorted((tensors or {}).items()):
        found[name] = (str(each["name"]), _shape(each.get("tensorShape")), _dtype(each.get("dtype")))
    return found


def _placeholders(nodes: dict[str, Any]) -> dict[str, _Tensor]:
    found = {}
    for name, node in nodes.items():
        if node["op"] == "Placeholder":
            attributes = node.get("attr", {})
            shape = _shape(attributes.get("shape", {}).get("shape"))
            found[name] = (f"{name}:0", shape, _dtype(attributes.get("dtype", {}).get("type")))
    return found


def _ends(nodes: dict[str, Any]) -> dict[str, _Tensor]:
    used = {each.removeprefix("^").partition(":")[0] for node in nodes.values() for each in node.get("input", ())}
    return {name: (f"{name}:0", None, "float32") for name in nodes if name not in used}


def _shape(shape: dict[str, Any] | None) -> Shape | None:
    if not shape or shape.get("unknownRank") or "dim" not in shape:
        return None
    sizes = [int(dim.get("size", 0)) for dim in shape["dim"]]
    return tuple(None if size < 0 else size for size in sizes)


def _dtype(dtype: Any) -> str:
    known = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_BOOL": "bool", "DT_INT64": "int64", "DT_HALF": "float16"}
    return known.get(str(dtype), "float32") if dtype is not None else "float32"


def _structure(
    nodes: dict[str, Any], inputs: dict[str, _Tensor], outputs: dict[str, _Tensor], groups: tuple[Group, ...]
) -> Structure | None:
    if any(not shape or shape[0] is not None for _, shape, _ in [*inputs.values(), *outputs.values()]):
        return None
    weights = [weight for group in groups for weight in group.weights if weight.dtype == "float32"]
    return Structure(
        inputs=tuple(
            Port(name=name, shape=(shape or ())[1:], dtype=dtype) for name, (_, shape, dtype) in inputs.items()
        ),
        outputs=tuple(
            Port(name=name, shape=(shape or ())[1:], dtype=dtype, value_range=range_of(nodes, tensor))
            for name, (tensor, shape, dtype) in outputs.items()
        ),
        parameters=sum(math.prod(weight.shape) for weight in weights),
    )


def range_of(nodes: dict[str, Any], tensor: str) -> tuple[float, float] | None:
    """The range of values of a tensor, if its last operations bound them."""
    for _ in range(20):
        node = nodes.get(tensor.partition(":")[0])
        if node is None:
            return None
        if node["op"] in _RANGES:
            return _RANGES[node["op"]]
        if node["op"] not in _MOVES or not node.get("input"):
            return None
        tensor = node["input"][0]
    return None
