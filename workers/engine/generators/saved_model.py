"""Loads generators in TensorFlow's SavedModel format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Structure
from workers.engine.generators.network import Network, first_line, fixed_batch, in_batches_of, input_port, port_of
from workers.engine.generators.operations import check_operations

if TYPE_CHECKING:
    import tensorflow as tf

#: Names of signatures to try, in this order.
_SIGNATURES = ("serving_default", "serve", "call")
#: Operations with another result at each call: they draw random numbers or change the model's state.
_CHANGING = (
    "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "Multinomial", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "RngReadAndSkip", "StatefulStandardNormalV2",
    "StatefulUniform", "TruncatedNormal",
)  # fmt: skip


def load_saved_model(path: Path, signature: str | None = None) -> Network:
    """The network of a SavedModel's signature, by default the usual one. Raises GeneratorError."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    check_operations(path)  # First, since loading runs initializers.
    try:
        model = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow may raise any error.
        raise GeneratorError(f"generator {path} cannot be loaded: {first_line(error)}") from error
    function = _signature(path, model, signature)
    operations = set(_operations(function))
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if not isinstance(outputs, dict):
        raise GeneratorError(f"generator {path}: its signature does not name its outputs")

    def call(tensors: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        answer: Mapping[str, tf.Tensor] = function(**tensors)
        return answer

    batch = fixed_batch(inputs, outputs)
    changing = ", ".join(sorted(operations & set(_CHANGING)))
    note = f"not reproducible: the model draws random numbers, or changes itself with each call ({changing})"
    structure = Structure(
        inputs=tuple(input_port(path, name, spec, batch) for name, spec in sorted(inputs.items())),
        outputs=tuple(port_of(path, name, spec, batch=batch) for name, spec in sorted(outputs.items())),
        parameters=sum(math.prod(variable.shape) for variable in function.variables),
        notes=(note,) if changing else (),
    )
    return Network(structure=structure, call=in_batches_of(batch, structure, call), owner=model)


def _signature(path: Path, model: Any, wanted: str | None) -> Any:
    signatures = dict(model.signatures)
    for name in _SIGNATURES if wanted is None else (wanted,):
        if name in signatures:
            return signatures[name]
    if len(signatures) == 1 and wanted is None:
        return next(iter(signatures.values()))
    told = f"the signatures {', '.join(sorted(signatures))}"
    if not signatures:
        raise GeneratorError(f"generator {path} has no signature: export it with one, as model.export(...) does")
    raise GeneratorError(f"generator {path} has {told}: say which one in generator.toml, signature = ...")


def _operations(function: Any) -> Iterator[str]:
    """The operations of a function and of all functions that it calls."""
    graph = function.graph.as_graph_def()
    yield from (node.op for node in graph.node)
    for inner in graph.library.function:
        yield from (node.op for node in inner.node_def)
