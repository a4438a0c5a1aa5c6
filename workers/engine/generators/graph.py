"""Loads a graph of TensorFlow operations written by TensorFlow.js."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Structure
from pipeline.generators.tfjs_graph import GraphModel, range_of
from workers.engine.generators.network import Network, first_line, fixed_batch, in_batches_of, port_of
from workers.engine.generators.operations import check_graph

if TYPE_CHECKING:
    import tensorflow as tf

#: Fused operation, for which XLA has no kernel -> its first operation.
_FUSED = {"_FusedConv2D": "Conv2D", "_FusedMatMul": "MatMul", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative"}
#: The attributes that the first operation keeps.
_KEPT = {
    "Conv2D": ("T", "strides", "padding", "data_format", "dilations", "explicit_paddings"),
    "DepthwiseConv2dNative": ("T", "strides", "padding", "data_format", "dilations", "explicit_paddings"),
    "MatMul": ("T", "transpose_a", "transpose_b"),
}
_ACTIVATIONS = ("Relu", "Relu6", "Elu", "LeakyRelu", "Sigmoid", "Tanh")


def graph_network(path: Path, model: GraphModel, weights: Mapping[str, NDArray[Any]]) -> Network:
    """The network of a graph model with these weights, by name. Raises GeneratorError."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    graph = _graph(path, model, weights)
    check_graph(graph, str(path))
    try:
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        tensors = wrapped.graph.get_tensor_by_name
        function = wrapped.prune([tensors(name) for name in model.inputs.values()],
                                 [tensors(name) for name in model.outputs.values()])  # fmt: skip
    except Exception as error:  # TensorFlow may raise any error.
        raise GeneratorError(f"generator {path} cannot be loaded: {first_line(error)}") from error
    fed = {name: tensors(tensor) for name, tensor in model.inputs.items()}
    made = {name: tensors(tensor) for name, tensor in model.outputs.items()}
    batch = None if model.structure is not None else fixed_batch(fed, made)
    nodes = {node["name"]: node for node in model.topology["node"]}
    structure = model.structure or Structure(
        inputs=tuple(port_of(path, name, tensor, batch=batch) for name, tensor in fed.items()),
        outputs=tuple(
            port_of(path, name, tensor, range_of(nodes, model.outputs[name]), batch) for name, tensor in made.items()
        ),
        parameters=sum(value.size for value in weights.values() if value.dtype.kind == "f"),
    )

    def call(arguments: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        answers = function(*(arguments[port.name] for port in structure.inputs))
        return dict(zip(model.outputs, answers, strict=True))

    return Network(structure=structure, call=in_batches_of(batch, structure, call), owner=wrapped)


def _graph(path: Path, model: GraphModel, weights: Mapping[str, NDArray[Any]]) -> Any:
    """The GraphDef with its weights, and without fused operations."""
    import tensorflow as tf
    from google.protobuf import json_format

    try:
        told = json_format.ParseDict(model.topology, tf.compat.v1.GraphDef(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError) as error:
        raise GeneratorError(f"generator {path}: its graph is malformed: {first_line(error)}") from None
    graph = tf.compat.v1.GraphDef(library=told.library, versions=told.versions)
    for node in told.node:
        if node.op == "Const" and node.name in weights:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(weights[node.name]))
        node.device = ""
        if node.op in _FUSED:
            _unfuse(path, node, graph)
        else:
            graph.node.append(node)
    return graph


def _unfuse(path: Path, node: Any, graph: Any) -> None:
    """Adds the parts of a fused operation; the last part has its name."""
    steps = [step.decode() for step in node.attr["fused_ops"].list.s]
    unknown = [step for step in steps if step != "BiasAdd" and step not in _ACTIVATIONS]
    if unknown:
        raise GeneratorError(f"generator {path}: {node.op} fused with {', '.join(unknown)} is not supported")
    parts = [_FUSED[node.op], *steps]
    last, extra = "", list(node.input[2:])
    for number, kind in enumerate(parts):
        # A bias may have as many dimensions as its operand, which BiasAdd does not support.
        if kind == "BiasAdd" and node.attr["data_format"].s in (b"", b"NHWC"):
            kind = "AddV2"
        part = graph.node.add(op=kind, name=node.name if number == len(parts) - 1 else f"{node.name}/part{number}")
        part.attr["T"].CopyFrom(node.attr["T"])
        if number == 0:
            part.input.extend(node.input[:2])
            for name in _KEPT[kind]:
                if name in node.attr:
                    part.attr[name].CopyFrom(node.attr[name])
        elif kind == "AddV2":
            part.input.extend([last, extra.pop(0)])
        elif kind == "BiasAdd":
            part.input.extend([last, extra.pop(0)])
            part.attr["data_format"].CopyFrom(node.attr["data_format"])
        else:
            part.input.append(last)
            if kind == "LeakyRelu":
                part.attr["alpha"].f = node.attr["leakyrelu_alpha"].f
        last = part.name
