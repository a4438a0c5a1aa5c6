"""What every kind of generator is once it is loaded: a network with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.generators.structure import Structure

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


def first_line(error: BaseException) -> str:
    """An error of somebody else's in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
