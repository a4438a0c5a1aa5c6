"""Connects rows and labels of samples to a network's inputs, and its outputs to samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.common.errors import GeneratorError
from pipeline.generators import Generator, Interface
from pipeline.generators.denoiser import Denoiser
from pipeline.generators.interface import Constant, NamedShape
from pipeline.generators.structure import Port
from pipeline.spec.sampler import KEY_DIM, Sampler
from workers.engine.generators.network import Network
from workers.engine.samplers.loop import Predict, sampled
from workers.engine.samplers.methods import table

if TYPE_CHECKING:
    import tensorflow as tf

#: Rows (batch, row_dim) float32 of latent, noise, attributes and key, labels (batch,) int32, or None, what inputs are
#: fed in place of their constants, how a denoiser samples, or None, and how much its predictions are disturbed
#: (`workers.engine.samplers.loop`), to samples (batch, *sample_shape).
Forward = Callable[["tf.Tensor", "tf.Tensor | None", tuple[Constant, ...], Sampler | None, float], "tf.Tensor"]

#: Tensors of a network's inputs, by name, to its output.
_Call = Callable[[dict[str, "tf.Tensor"]], "tf.Tensor"]
#: Tensors of the inputs that rows and labels are fed to, and of the constants, by name.
_Fed = Callable[["tf.Tensor", "tf.Tensor | None"], dict[str, "tf.Tensor"]]


def wire(network: Network, generator: Generator) -> Forward:
    """The forward pass of a network, by the generator's interface.

    Raises GeneratorError if the network has other inputs or outputs than the interface.
    """
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    interface = generator.interface
    ports = {port.name: port for port in network.structure.inputs}
    outputs = [port.name for port in network.structure.outputs]
    wanted = {interface.latent_input, *(name for name, _ in (*interface.constants, *_columns(interface)))}
    wanted |= {interface.label_input} if interface.label_input else set()
    wanted |= {interface.denoiser.time_input} if interface.denoiser else set()
    if set(ports) != wanted or interface.output not in outputs:
        raise GeneratorError(
            f"generator {generator.reference} has the inputs {', '.join(ports)} and the outputs {', '.join(outputs)}; "
            f"its interface declares {', '.join(sorted(wanted))} and {interface.output}"
        )

    def call(fed: dict[str, tf.Tensor]) -> tf.Tensor:
        made = network.call({name: tf.cast(tensor, ports[name].dtype) for name, tensor in fed.items()})
        return made[interface.output]

    def forward(
        rows: tf.Tensor,
        labels: tf.Tensor | None,
        settings: tuple[Constant, ...],
        sampler: Sampler | None,
        disturbance: float,
    ) -> tf.Tensor:
        constants = dict(interface.constants) | dict(settings)

        def fed(rows: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
            return _inputs(interface, ports, rows, labels) | _constants(constants, ports, tf.shape(rows)[0])

        if interface.denoiser is None or sampler is None:
            return _samples(interface, call(fed(rows, labels)))
        predict = _prediction(interface, interface.denoiser, sampler, call, fed, rows, labels, ports)
        latents = _cut(interface, rows)[interface.latent_input]
        data = sampled(table(interface.denoiser, sampler), predict, latents, rows[:, -KEY_DIM:], disturbance)
        return _of_data(interface.denoiser, _samples(interface, data))

    return forward


def _prediction(
    interface: Interface,
    denoiser: Denoiser,
    sampler: Sampler,
    call: _Call,
    fed: _Fed,
    rows: tf.Tensor,
    labels: tf.Tensor | None,
    ports: dict[str, Port],
) -> Predict:
    """The prediction of a denoiser for noisy samples; with guidance, both halves are one batch."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    if sampler.guided:
        assert denoiser.none is not None, "guidance was checked"
        rows, labels = tf.tile(rows, (2, 1)), tf.concat([labels, tf.fill(tf.shape(labels), denoiser.none)], axis=0)
    beside, port = fed(rows, labels), ports[denoiser.time_input]
    shape = (*((tf.shape(rows)[0],) if port.batched else ()), *(size or 1 for size in port.shape))

    def predict(x: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
        noisy = tf.concat([x, x], axis=0) if sampler.guided else x
        told = {interface.latent_input: noisy, denoiser.time_input: tf.fill(shape, time)}
        predicted = tf.cast(call(beside | told), tf.float32)
        if not sampler.guided:
            return predicted
        with_label, without = tf.split(predicted, 2)
        return without + sampler.guidance * (with_label - without)

    return predict


def _of_data(denoiser: Denoiser, data: tf.Tensor) -> tf.Tensor:
    """Samples from the normalized data of the network: mean + scale * data."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    mean, scale = tf.constant(denoiser.mean, tf.float32), tf.constant(denoiser.scale, tf.float32)
    return data if denoiser.mean == (0.0,) and denoiser.scale == (1.0,) else mean + scale * data


def _columns(interface: Interface) -> Iterator[NamedShape]:
    """The inputs in a row, in order."""
    yield from interface.latent_parts or ((interface.latent_input, interface.latent_shape),)
    yield from interface.noise_inputs
    if interface.attributes_input is not None:
        yield interface.attributes_input


def _cut(interface: Interface, rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """Tensors for the inputs in rows, by name."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    tensors, first = {}, 0
    for name, shape in _columns(interface):
        size = math.prod(shape)
        columns = rows if size == interface.row_dim else rows[:, first : first + size]
        tensors[name] = columns if len(shape) == 1 else tf.reshape(columns, (-1, *shape))
        first += size
    return tensors


def _inputs(
    interface: Interface, ports: dict[str, Port], rows: tf.Tensor, labels: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Tensors for the network's inputs except constant ones, by name."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    tensors = _cut(interface, rows)
    if labels is None or interface.classes is None:
        return tensors
    if interface.label_encoding != "integer":
        labels = tf.one_hot(labels, interface.label_width)
    elif interface.label_input is not None and ports[interface.label_input].shape:
        labels = tf.reshape(labels, (-1, *(1 for _ in ports[interface.label_input].shape)))
    if interface.label_input is None:
        return tensors | {interface.latent_input: tf.concat([tensors[interface.latent_input], labels], axis=-1)}
    return tensors | {interface.label_input: labels}


def _constants(
    constants: dict[str, tuple[float, ...]], ports: dict[str, Port], count: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Tensors for the inputs that are the same for all samples, by name."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    fed = {}
    for name, values in constants.items():
        shape = tuple(size or 1 for size in ports[name].shape)
        tensor = tf.fill(shape, values[0]) if len(values) == 1 else tf.reshape(tf.constant(values), shape)
        fed[name] = tf.broadcast_to(tensor, (count, *shape)) if ports[name].batched else tensor
    return fed


def _samples(interface: Interface, samples: tf.Tensor) -> tf.Tensor:
    """Samples with channels last, in the shape of the interface."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    if interface.channels_first:
        return tf.transpose(samples, (0, 2, 3, 1))
    if tuple(samples.shape[1:]) != interface.sample_shape and None not in samples.shape[1:]:
        return tf.reshape(samples, (-1, *interface.sample_shape))
    return samples
