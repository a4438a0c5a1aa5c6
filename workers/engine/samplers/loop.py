"""The loop over a sampler's passes, as a part of the compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from workers.engine.samplers.methods import COLUMNS, Table
from workers.engine.samplers.noise import normal

if TYPE_CHECKING:
    import tensorflow as tf

#: What the network predicts of noisy samples (batch, ...) at a time, a scalar: the same shape as the samples, float32.
Predict = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]


def sampled(table: Table, predict: Predict, latents: tf.Tensor, keys: tf.Tensor, disturbance: float = 0.0) -> tf.Tensor:
    """What the last pass ends in, of the shape of the latents, float32; nothing else leaves the device.

    `keys` are the samples' (`pipeline.spec.latents.noise_keys`), of which fresh noise is made. To measure how errors
    add up, each prediction can be disturbed at random: by this share of its largest value, as standard deviation.
    """
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    times = tf.constant(table.times.astype(np.float32))
    coefficients = tf.constant(table.coefficients.astype(np.float32))
    size, passes = latents.shape[1:].num_elements(), len(table.times)

    def one_pass(number: tf.Tensor, x: tf.Tensor, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        c = dict(zip(COLUMNS, tf.unstack(coefficients[number]), strict=True))
        predicted = predict(x, times[number])
        if disturbance:
            largest = tf.reduce_max(tf.abs(predicted), axis=list(range(1, len(x.shape))), keepdims=True)
            # Numbers of their own, beyond those of the passes.
            errors = tf.reshape(normal(keys, passes + number, size), tf.shape(x))
            predicted += disturbance * largest * errors
        moved = c["x_x"] * x + c["x_f"] * predicted
        if table.remembers:
            moved += c["x_m"] * memory
            memory = c["m_x"] * x + c["m_f"] * predicted
        if table.adds_noise:
            moved += c["noise"] * tf.reshape(normal(keys, number, size), tf.shape(x))
        return number + 1, tf.ensure_shape(moved, x.shape), memory

    start = latents * tf.constant(table.latent_scale, tf.float32)
    memory = tf.zeros_like(start) if table.remembers else tf.zeros(())
    _, x, _ = tf.while_loop(
        lambda number, *_: number < passes,
        one_pass,
        (tf.constant(0), start, memory),
        maximum_iterations=passes,
        parallel_iterations=1,
    )
    return x
