"""What every kind of generator is once it is loaded: a network with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Port, Structure

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Network:
    """A loaded model in inference mode."""

    structure: Structure
    #: Tensors of the inputs, by name, to those of the outputs, by name.
    call: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]
    #: What must live as long as the network does: the model that owns the weights.
    owner: Any = None


def port_of(path: Path, name: str, spec: Any, value_range: tuple[float, float] | None = None) -> Port:
    """A tensor, or the description of one, as a port. Raises GeneratorError unless its batch is open."""
    if spec.shape.rank is None or spec.shape.rank < 1:
        raise GeneratorError(f"generator {path}: {name!r} has no dimension for the batch")
    if spec.shape[0] is not None:
        raise GeneratorError(f"generator {path}: {name!r} has a fixed batch of {spec.shape[0]}: it must be open")
    return Port(name=name, shape=tuple(spec.shape[1:]), dtype=spec.dtype.name, value_range=value_range)


def first_line(error: BaseException) -> str:
    """An error of somebody else's in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
