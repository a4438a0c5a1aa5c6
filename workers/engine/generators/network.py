"""A loaded generator of any kind: a network with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Port, Structure

if TYPE_CHECKING:
    import tensorflow as tf


#: Maps tensors of the inputs, by name, to those of the outputs, by name.
Call = Callable[[Mapping[str, "tf.Tensor"]], Mapping[str, "tf.Tensor"]]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A loaded model in inference mode."""

    structure: Structure
    call: Call
    #: The model that owns the weights, kept alive as long as the network.
    owner: Any = None


def fixed_batch(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> int | None:
    """The fixed batch of a network, from the shapes of its tensors; None if it is open."""
    sizes = {spec.shape[0] for spec in outputs.values() if spec.shape.rank}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if any(spec.shape.rank and spec.shape[0] == size for spec in inputs.values()) else None


def in_batches_of(batch: int | None, structure: Structure, call: Call) -> Call:
    """Calls a network with a fixed batch for any number of samples: batch after batch, the last one padded.

    If `batch` is None, returns `call` itself.
    """
    if batch is None:
        return call
    batched = {port.name for port in structure.inputs if port.batched}

    def each_in_turn(tensors: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        import tensorflow as tf  # Loaded already.

        [count] = {tensors[name].shape[0] for name in batched}
        if count == batch:
            return call(tensors)
        turns = -(-count // batch)

        def cut(rows: tf.Tensor) -> tf.Tensor:
            padded = tf.pad(rows, [[0, turns * batch - count]] + [[0, 0]] * (rows.shape.rank - 1))
            return tf.reshape(padded, (turns, batch, *rows.shape[1:]))

        alike = {name: tensor for name, tensor in tensors.items() if name not in batched}
        answers = tf.map_fn(
            lambda turn: dict(call({**alike, **turn})),
            {name: cut(tensors[name]) for name in batched},
            fn_output_signature={port.name: tf.as_dtype(port.dtype) for port in structure.outputs},
        )
        return {
            port.name: tf.reshape(answers[port.name], (turns * batch, *answers[port.name].shape[2:]))[:count]
            for port in structure.outputs
        }

    return each_in_turn


def port_of(
    path: Path, name: str, spec: Any, value_range: tuple[float, float] | None = None, batch: int | None = None
) -> Port:
    """A tensor, or the description of one, as a port. Raises GeneratorError unless its batch is open, or this one."""
    if spec.shape.rank is None or spec.shape.rank < 1:
        raise GeneratorError(f"generator {path}: {name!r} has no dimension for the batch")
    if spec.shape[0] not in (None, batch):
        raise GeneratorError(f"generator {path}: {name!r} has a fixed batch of {spec.shape[0]}: it must be open")
    return Port(name=name, shape=tuple(spec.shape[1:]), dtype=spec.dtype.name, value_range=value_range)


def input_port(path: Path, name: str, spec: Any, batch: int | None) -> Port:
    """An input as a port. An input without a batch dimension, such as a scalar, is the same for all samples."""
    if batch is not None and spec.shape.rank and spec.shape[0] == batch:
        return port_of(path, name, spec, batch=batch)
    if spec.shape.rank == 0 or (spec.shape.rank is not None and spec.shape.is_fully_defined() and spec.shape[0] == 1):
        return Port(name=name, shape=tuple(spec.shape), dtype=spec.dtype.name, batched=False)
    return port_of(path, name, spec)


def first_line(error: BaseException) -> str:
    """An error of another library as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
