"""Samples from the network in plain TensorFlow, for the recipe to draw and evaluate."""

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.data import to_uint8
from training.flow.network import IMAGE_SHAPE, NO_CLASS


def sample(
    network: keras.Model,
    labels: NDArray[np.int32],
    *,
    seed: int,
    steps: int,
    guidance: float,
    second_order: bool = False,
    batch: int = 500,
) -> NDArray[np.uint8]:
    """One image per label, uint8 (n, 28, 28, 1), from noise that depends on seed alone.

    Follows the velocity from time 0 to 1 in equal steps: Euler's, or, if `second_order`, Heun's, of two evaluations
    each but for the last. `guidance` is the weight of the label's prediction over that of NO_CLASS (Ho & Salimans,
    2022); 1 leaves the latter out.
    """

    def velocity(images: tf.Tensor, time: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        times = tf.fill((len(images), 1), time)
        if guidance == 1:
            return (network([images, times, labels], training=False) - images) / (1.0 - time)
        twice, none = tf.concat([images, images], 0), tf.fill(tf.shape(labels), NO_CLASS)
        both = network([twice, tf.concat([times, times], 0), tf.concat([labels, none], 0)], training=False)
        with_label, without = tf.split(both, 2)
        return (without + guidance * (with_label - without) - images) / (1.0 - time)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def flow(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        step_size = 1 / steps
        for step in tf.range(steps):
            time = tf.cast(step, tf.float32) * step_size
            slope = velocity(images, time, labels)
            if second_order and step < steps - 1:
                slope = (slope + velocity(images + step_size * slope, time + step_size, labels)) / 2
            images += step_size * slope
        return images

    noise = np.random.default_rng(seed).standard_normal((len(labels), *IMAGE_SHAPE), np.float32)
    parts = [
        flow(tf.constant(noise[first : first + batch]), tf.constant(labels[first : first + batch])).numpy()
        for first in range(0, len(labels), batch)
    ]
    return to_uint8(np.concatenate(parts))
