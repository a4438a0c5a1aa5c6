"""Streams as tf.data datasets. Imports TensorFlow, which noisemill does not load in the user's process otherwise."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from noisemill import Stream


def stream_dataset(stream: Stream) -> Any:
    """A tf.data.Dataset of the stream's batches: (samples, labels), or samples alone without classes.

    Each iteration over it is one over the stream, which starts a process: with `fit`, leave the number of passes to the
    stream (`epochs=None`) and give `steps_per_epoch`.
    """
    spec = stream.spec
    samples = tf.TensorSpec((None, *spec.sample_shape), spec.dtype)
    if spec.classes is None:
        return tf.data.Dataset.from_generator(lambda: (batch for batch, _ in stream), output_signature=samples)
    labels = tf.TensorSpec((None,), tf.int32)
    return tf.data.Dataset.from_generator(lambda: iter(stream), output_signature=(samples, labels))
