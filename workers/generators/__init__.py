"""Loads generators of every kind behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.generators import Generator
from workers.generators.keras_model import load_keras

if TYPE_CHECKING:
    import tensorflow as tf

#: Latents (batch, latent_dim) float32 and labels (batch,) int32, or None, to samples (batch, *sample_shape).
Forward = Callable[["tf.Tensor", "tf.Tensor | None"], "tf.Tensor"]

_LOADERS: dict[str, Callable[[Generator], Any]] = {".keras": load_keras}


def load_generator(generator: Generator) -> Forward:
    """The forward pass of a generator, in inference mode.

    Raises GeneratorError if it cannot be loaded or is not what its interface says.
    """
    forward: Forward = _LOADERS[generator.model.suffix](generator)
    return forward
