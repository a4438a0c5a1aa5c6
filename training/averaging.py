"""The weights that ship: an average of the trained ones, with batch statistics of its own where there are any."""

import keras
import tensorflow as tf


class WeightAverage:
    """An exponential moving average of a model's weights, kept in a second model of the same shape."""

    def __init__(self, source: keras.Model, average: keras.Model, decay: float) -> None:
        self._pairs = list(zip(source.trainable_variables, average.trainable_variables, strict=True))
        self._decay = decay
        for weight, mean in self._pairs:
            mean.assign(weight)

    def update(self, step: tf.Tensor) -> None:
        """Move the average towards the weights after step `step`; young averages move faster."""
        age = tf.cast(step, tf.float32)
        rate = 1.0 - tf.minimum(self._decay, (1.0 + age) / (10.0 + age))
        for weight, mean in self._pairs:
            mean.assign_add(rate * (weight - mean))


def measure_batch_norms(generator: keras.Model, batches: int, size: int = 500, seed: int = 0) -> None:
    """Set every batch norm's moving mean and variance to those of fresh samples, classes in equal numbers.

    Averaged weights never ran over the batches that the moving statistics were taken from.
    One layer after another, since a layer's input depends on the statistics of those before it.
    """
    norms = [layer for layer in generator.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        _measure(generator, norm, batches, size, seed)


def _measure(generator: keras.Model, norm: keras.layers.BatchNormalization, batches: int, size: int, seed: int) -> None:
    trunk = keras.Model(generator.inputs, norm.input)
    forward = tf.function(lambda latents, labels: trunk([latents, labels], training=False))
    means, squares = [], []
    for batch in range(batches):
        latents = tf.random.stateless_normal((size, generator.inputs[0].shape[1]), seed=(seed, batch))
        activations = tf.cast(forward(latents, tf.range(size) % 10), tf.float32)
        axes = list(range(activations.shape.rank - 1))
        means.append(tf.reduce_mean(activations, axes))
        squares.append(tf.reduce_mean(tf.square(activations), axes))
    mean = tf.add_n(means) / batches
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(tf.add_n(squares) / batches - tf.square(mean))
