"""What the two networks are taught by. Every function returns a float32 scalar, the mean over the batch."""

import keras
import tensorflow as tf


def discriminator_loss(real_scores: tf.Tensor, fake_scores: tf.Tensor) -> tf.Tensor:
    """Relativistic pairing loss (Jolicoeur-Martineau, 2018): a real should outscore the fake beside it.

    Both scores have shape (n,), and pair i shares a class, so only differences within a class count.
    """
    return tf.reduce_mean(tf.nn.softplus(fake_scores - real_scores))


def generator_loss(real_scores: tf.Tensor, fake_scores: tf.Tensor) -> tf.Tensor:
    """The same game from the other side."""
    return discriminator_loss(fake_scores, real_scores)


def class_loss(labels: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Cross entropy of logits (n, 10) against labels (n,), smoothed so that no image is pushed from every boundary."""
    targets = tf.one_hot(labels, logits.shape[-1]) * (1.0 - smoothing) + smoothing / logits.shape[-1]
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def gradient_penalty(discriminator: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Squared length of the score's gradient (Mescheder et al., 2018): R1 on real images, R2 on fakes."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores, _ = discriminator([images, labels], training=True)
        total = tf.reduce_sum(scores)
    gradient = tape.gradient(total, images)
    return tf.reduce_mean(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]))
