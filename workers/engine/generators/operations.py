"""Checks the operations of a SavedModel in its protobuf before it is loaded, since loading runs its initializers.

A graph may contain operations that read and write files, call Python, or wait for other processes. Allowed are the
operations that TensorFlow's registry calls stateless, except those with side effects, and the stateful ones that models
need: variables, tables, random numbers, control flow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError
from workers.engine.generators.network import first_line

#: Stateful operations without effects outside the model: regular expressions for whole names.
_ALLOWED = re.compile(
    "|".join((
        # Variables, and tables in memory.
        "VarHandleOp", "ReadVariableOp", "Assign(Add|Sub)?VariableOp", "VarIsInitializedOp", "VariableV?2?",
        "Resource(Gather|GatherNd|Scatter.*|StridedSliceAssign)", "DisableCopyOnRead", "DestroyResourceOp",
        "(Mutable|Anonymous|AnonymousMutable)?HashTable(V2)?",
        "LookupTable(Find|Import|Insert|Size|Export|Remove)(V2)?",
        "InitializeTableV?2?",
        # Control flow and its values.
        "(Stateful)?PartitionedCall", "If", "While", "Case", "Assert",
        "TensorArray(Grad|Write|Read|Gather|Scatter|Size|Concat|Split|Close)?(V2|V3)?",
        "Stack(Push|Pop|Close)?(V2)?",
        # Random numbers: allowed, and reported (`saved_model._CHANGING`).
        "Multinomial", "Random(Shuffle|StandardNormal|Uniform|UniformInt|Gamma|Poisson|PoissonV2)",
        "(Parameterized)?TruncatedNormal", "RngReadAndSkip", "RngSkip",
        "AnonymousSeedGenerator", "NonDeterministicInts",
        "Stateful(StandardNormalV?2?|TruncatedNormal|Uniform|UniformFullInt|UniformInt|RandomBinomial)",
        # Compiled modules, as exported by JAX.
        "XlaCallModule",
    ))
)  # fmt: skip

#: Operations with effects outside the model, although the registry calls them stateless.
_REACHING_OUT = re.compile(
    "ReadFile|MatchingFiles|PyFuncStateless|ImmutableConst|EncodeProto.*|DecodeProto.*|.*Dataset.*|Debug.*|.*Summary.*"
)

#: Further operations that the saver of a checkpoint may run.
_SAVING = frozenset(("SaveV2", "MergeV2Checkpoints", "RestoreV2"))


def check_operations(folder: Path) -> None:
    """Raises GeneratorError if loading or calling the SavedModel in a folder could have effects outside the model."""
    for graph in _read(folder).meta_graphs:
        bad = sorted(name for name in _operations(graph) if not _is_allowed(name))
        if bad:
            raise GeneratorError(f"generator {folder} is refused: {bad[0]} reaches out of the model, to code or files")


def check_graph(graph: Any, what: str) -> None:
    """Raises GeneratorError if running a GraphDef could have outside effects, or TensorFlow lacks an operation."""
    from tensorflow.python.framework import op_def_registry

    functions = {function.signature.name for function in graph.library.function}
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    names = sorted({node.op for node in nodes} - functions)
    unknown = [name for name in names if op_def_registry.get(name) is None]
    if unknown:
        raise GeneratorError(f"generator {what} has operations that TensorFlow does not: {', '.join(unknown)}")
    bad = [name for name in names if not _is_allowed(name)]
    if bad:
        raise GeneratorError(f"generator {what} is refused: {bad[0]} reaches out of the model, to code or files")


def _read(folder: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    try:
        message.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise GeneratorError(f"generator {folder} cannot be loaded: {first_line(error)}") from error
    return message


def _operations(graph: Any) -> set[str]:
    """The operations that loading or calling a graph can run: those of all its nodes and functions.

    The saver reads and writes files, but nothing is saved here, and the loader restores variables by itself. So the
    saver's own part is left out, unless other parts depend on it.
    """
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    saver = _ancestors(nodes, [graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name])
    own = saver - _ancestors(nodes, _starts(graph))
    saving = {name for node in own for name in _called(nodes[node], functions)} - _named_objects(graph)
    waiting = [name for name in functions if name not in saving]
    while waiting:
        called = {each for node in functions[waiting.pop()].node_def for each in _called(node, functions)}
        waiting += saving & called
        saving -= called
    operations = {node.op for name, node in nodes.items() if not (name in own and node.op in _SAVING)}
    operations |= {node.op for name in functions.keys() - saving for node in functions[name].node_def}
    return operations - functions.keys()


def _called(node: Any, functions: Mapping[str, Any]) -> set[str]:
    """The functions that a node names."""
    called = {value.func.name for value in node.attr.values() if value.HasField("func")}
    called |= {each.name for value in node.attr.values() for each in value.list.func}
    return (called | {node.op}) & functions.keys()


def _starts(graph: Any) -> list[str]:
    """Nodes that loading or calling runs: outputs of signatures, initializers of variables, tables and the model."""
    from tensorflow.core.framework import variable_pb2

    names = [tensor.name for signature in graph.signature_def.values() for tensor in signature.outputs.values()]
    for collection in graph.collection_def.values():
        names += collection.node_list.value
        for data in collection.bytes_list.value:
            with contextlib.suppress(Exception):  # The collection contains other things.
                variable = variable_pb2.VariableDef.FromString(data)
                names += [variable.initializer_name, variable.initial_value_name, variable.snapshot_name]
    return names


def _named_objects(graph: Any) -> set[str]:
    """The functions of the objects in a TensorFlow 2 export."""
    objects = graph.object_graph_def
    names = set(objects.concrete_functions)
    for node in objects.nodes:
        names |= {*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name}
    return names


def _ancestors(nodes: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """The names of these nodes and of all nodes that they depend on."""
    waiting = list(names)
    found: set[str] = set()
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]
        if name not in found and name in nodes:
            found.add(name)
            waiting += nodes[name].input
    return found


def _is_allowed(operation: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    if _ALLOWED.fullmatch(operation):
        return True
    known = op_def_registry.get(operation)
    return known is not None and not known.is_stateful and not _REACHING_OUT.fullmatch(operation)
