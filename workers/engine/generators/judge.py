"""Loads judges, which score candidates (`pipeline.generators.judge`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators import Generator
from pipeline.generators.judge import Judge
from workers.engine.generators.network import Network

if TYPE_CHECKING:
    import tensorflow as tf

#: Samples (n, *sample_shape) float32 and labels (n,) int32, or None, to ranks (n,) float32: the higher the better.
Rank = Callable[["tf.Tensor", "tf.Tensor | None"], "tf.Tensor"]

#: How far the sum of probabilities may be from 1.
_SUM_TOLERANCE = 1e-3
#: Least probability that counts as more than 0.
_LEAST = 1e-37


def wire_judge(network: Network, judge: Judge, generator: Generator) -> Rank:
    """Ranks a generator's samples. Raises GeneratorError if the network is not the one that `judge` describes.

    The rank of a classifier is the log-odds of the wanted label, log(p / (1 - p)): in the same order as the probability
    p, but it still tells candidates apart whose p float32 rounds to 1. Rows of its output that are no probabilities
    (a negative number, or a sum other than 1) are logits. The rank of any other judge is its number.
    """
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    interface, layout = generator.interface, judge.layout(generator.interface)
    ports = {port.name: port for port in network.structure.inputs}
    names = {judge.image.name, *([judge.label.name] if judge.label else [])}
    if set(ports) != names or judge.output.name not in [port.name for port in network.structure.outputs]:
        raise GeneratorError(f"judge {judge.reference} has other inputs or outputs than it had when it was named")
    classes = len(interface.classes or ())

    def images_of(samples: tf.Tensor) -> tf.Tensor:
        if judge.value_range is not None and interface.value_range not in (None, judge.value_range):
            assert interface.value_range is not None
            (low, high), (bottom, top) = interface.value_range, judge.value_range
            samples = (samples - low) * ((top - bottom) / (high - low)) + bottom
        if layout == "first":
            samples = tf.transpose(samples, (0, 3, 1, 2))
        if layout == "flat":
            samples = tf.reshape(samples, (-1, *judge.image.shape))
        return tf.cast(samples, judge.image.dtype)

    def rank(samples: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        fed = {judge.image.name: images_of(samples)}
        if judge.label is not None:
            width = judge.label.shape[-1] if judge.label.shape else 1
            told = tf.one_hot(labels, classes) if width not in (None, 1) else labels
            shape = (-1, *(size or 1 for size in judge.label.shape))
            fed[judge.label.name] = tf.cast(tf.reshape(told, shape), judge.label.dtype)
        scores = tf.cast(network.call(fed)[judge.output.name], tf.float32)
        if judge.width == 1:
            return tf.reshape(scores, (-1,))
        wanted = tf.one_hot(labels, classes, on_value=True, off_value=False, dtype=tf.bool)
        if not judge.is_classifier:
            return tf.reduce_sum(tf.where(wanted, scores, 0.0), axis=1)
        if judge.softmax is None:
            total = tf.reduce_sum(scores, axis=1, keepdims=True)
            sums_to_1 = tf.abs(total - 1.0) <= _SUM_TOLERANCE
            is_probability = sums_to_1 & (tf.reduce_min(scores, axis=1, keepdims=True) >= 0.0)
            # The logarithms of probabilities are logits too.
            scores = tf.where(is_probability, tf.math.log(tf.maximum(scores, _LEAST)), scores)
        own = tf.reduce_sum(tf.where(wanted, scores, 0.0), axis=1)
        return own - tf.reduce_logsumexp(tf.where(wanted, -np.inf, scores), axis=1)

    return rank


def scores_of(ranks: NDArray[np.float32], judge: Judge) -> NDArray[np.float64]:
    """The scores that ranks stand for: a classifier's probability of the wanted label, or any other judge's number."""
    wide = ranks.astype(np.float64)
    if not judge.is_classifier:
        return wide
    with np.errstate(over="ignore"):
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-wide))
    return probabilities
