"""From latents and labels to a network's inputs, and from its outputs to samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.common.errors import GeneratorError
from pipeline.generators import Generator, Interface
from pipeline.generators.structure import Port
from workers.engine.generators.network import Network

if TYPE_CHECKING:
    import tensorflow as tf

#: Latents (batch, latent_dim) float32 and labels (batch,) int32, or None, to samples (batch, *sample_shape).
Forward = Callable[["tf.Tensor", "tf.Tensor | None"], "tf.Tensor"]


def wire(network: Network, generator: Generator) -> Forward:
    """The forward pass of a network, as the generator's interface says.

    Raises GeneratorError where the network has other inputs or outputs than the interface speaks of.
    """
    import tensorflow as tf  # Seconds; and the device must be pinned before.

    interface = generator.interface
    ports = {port.name: port for port in network.structure.inputs}
    outputs = [port.name for port in network.structure.outputs]
    wanted = {interface.latent_input, *(name for name, _ in interface.constants)}
    wanted |= {interface.label_input} if interface.label_input else set()
    if set(ports) != wanted or interface.output not in outputs:
        raise GeneratorError(
            f"generator {generator.reference} has the inputs {', '.join(ports)} and the outputs {', '.join(outputs)}; "
            f"its interface speaks of {', '.join(sorted(wanted))} and {interface.output}"
        )

    def forward(latents: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        fed = _inputs(interface, ports, latents, labels) | _constants(interface, ports, latents)
        samples = network.call({name: tf.cast(tensor, ports[name].dtype) for name, tensor in fed.items()})
        return _samples(interface, samples[interface.output])

    return forward


def _inputs(
    interface: Interface, ports: dict[str, Port], latents: tf.Tensor, labels: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Tensors for the network's inputs, by name."""
    import tensorflow as tf  # Seconds; and the device must be pinned before.

    if len(interface.latent_shape) != 1:
        latents = tf.reshape(latents, (-1, *interface.latent_shape))
    if labels is None or interface.classes is None:
        return {interface.latent_input: latents}
    if interface.label_encoding != "integer":
        labels = tf.one_hot(labels, len(interface.classes))
    elif interface.label_input is not None and ports[interface.label_input].shape:
        labels = tf.reshape(labels, (-1, *(1 for _ in ports[interface.label_input].shape)))
    if interface.label_input is None:
        return {interface.latent_input: tf.concat([latents, labels], axis=-1)}
    return {interface.latent_input: latents, interface.label_input: labels}


def _constants(interface: Interface, ports: dict[str, Port], latents: tf.Tensor) -> dict[str, tf.Tensor]:
    """What other inputs are fed, by name."""
    import tensorflow as tf  # Seconds; and the device must be pinned before.

    fed = {}
    for name, values in interface.constants:
        shape = tuple(size or 1 for size in ports[name].shape)
        tensor = tf.fill(shape, values[0]) if len(values) == 1 else tf.reshape(tf.constant(values), shape)
        fed[name] = tf.broadcast_to(tensor, (tf.shape(latents)[0], *shape)) if ports[name].batched else tensor
    return fed


def _samples(interface: Interface, samples: tf.Tensor) -> tf.Tensor:
    """Samples with channels last, in the shape that the interface tells."""
    import tensorflow as tf  # Seconds; and the device must be pinned before.

    if interface.channels_first:
        return tf.transpose(samples, (0, 2, 3, 1))
    if tuple(samples.shape[1:]) != interface.sample_shape and None not in samples.shape[1:]:
        return tf.reshape(samples, (-1, *interface.sample_shape))
    return samples
