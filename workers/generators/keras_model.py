"""Generators in Keras 3's own format, `.keras`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import GeneratorError
from pipeline.generators import Generator, Interface

if TYPE_CHECKING:
    import tensorflow as tf


def read_keras(path: str) -> Any:
    """The Keras model in a file, loaded in safe mode. Raises GeneratorError in one line."""
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its layers raise.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "Lambda" in str(error) or "safe_mode" in str(error):
            reason = "it holds a Lambda layer or other code, which could do anything on load; use layers instead"
        raise GeneratorError(f"generator {path} cannot be loaded: {reason}") from error


def load_keras(generator: Generator) -> Any:
    """The forward pass of a `.keras` model, wired up as its interface says."""
    import tensorflow as tf

    model = read_keras(str(generator.model))
    interface = generator.interface
    names = [tensor.name for tensor in model.inputs]
    wanted = {interface.latent_input} | ({interface.label_input} if interface.label_input else set())
    if set(names) != wanted:
        raise GeneratorError(
            f"generator {generator.model} has the inputs {', '.join(names)}; "
            f"its interface speaks of {', '.join(sorted(wanted))}"
        )
    dtypes = {tensor.name: tensor.dtype for tensor in model.inputs}

    def forward(latents: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        fed = _inputs(interface, latents, labels)
        tensors = [tf.cast(fed[name], dtypes[name]) for name in names]
        return model(tensors[0] if len(tensors) == 1 else tensors, training=False)

    return forward


def _inputs(interface: Interface, latents: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
    """Tensors for the model's inputs, by name."""
    import tensorflow as tf

    if len(interface.latent_shape) != 1:
        latents = tf.reshape(latents, (-1, *interface.latent_shape))
    if labels is None or interface.classes is None:
        return {interface.latent_input: latents}
    if interface.label_encoding != "integer":
        labels = tf.one_hot(labels, len(interface.classes))
    if interface.label_input is None:
        return {interface.latent_input: tf.concat([latents, labels], axis=-1)}
    return {interface.latent_input: latents, interface.label_input: labels}
