"""Train the built-in judge `fashion-judge`: `python -m training.judge OUT.keras --minutes 4`.

A judge chooses among candidates (`--best-of`). This one is a classifier of Fashion-MNIST: images in [-1, 1] to logits.
The learning rate follows the share of the minutes that is over.
"""

import argparse
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from training.data import DEFAULT_DATA, DataMissingError, LabelledImages, load_test, load_training
from training.loop import cosine_decay

BATCH, RATE, WEIGHT_DECAY, SMOOTHING, DECAY_FROM = 128, 3e-3, 1e-2, 0.05, 0.1
#: Images are shifted by up to this many pixels. They are not flipped: every shoe points to the left.
SHIFT = 2
#: Pixels of the square that covers a part of each image, so that no single detail decides.
COVER = 8

_REPORT_S = 10.0


def build_judge() -> keras.Model:
    """Images float32 (28, 28, 1) in [-1, 1] to logits (10,); 160,000 parameters."""
    image = x = keras.Input((28, 28, 1), name="image")
    for filters, kernel, strides in ((32, 5, 2), (64, 3, 1), (96, 3, 2), (96, 3, 1)):
        x = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.98)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, dtype="float32", name="logits")(x), name="judge")


def train(data: LabelledImages, seconds: float, seed: int, most_steps: int = sys.maxsize) -> keras.Model:
    """A judge trained for so long, in the present precision policy."""
    keras.utils.set_random_seed(seed)
    judge = build_judge()
    adam = keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY)
    adam.build(judge.trainable_variables)
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(tf.one_hot(labels, 10), judge(images, training=True))
        adam.apply(tape.gradient(loss, judge.trainable_variables), judge.trainable_variables)
        return loss

    started = reported = time.monotonic()
    steps, progress = 0, 0.0
    batches = iter(_batches(data, seed))
    while progress < 1 and steps < most_steps:
        adam.learning_rate = RATE * cosine_decay(progress, DECAY_FROM)
        loss = step(*next(batches))
        steps, now = steps + 1, time.monotonic()
        progress = (now - started) / seconds
        if now - reported >= _REPORT_S:
            print(f"step {steps:6d}  loss {float(loss):.3f}  {(1 - progress) * seconds / 60:5.1f} min left", flush=True)
            reported = now
    return judge


def _batches(data: LabelledImages, seed: int) -> tf.data.Dataset:
    """Shuffled batches without end, shifted and covered at random: float32 in [-1, 1]."""

    def vary(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        padded = tf.pad(tf.cast(images, tf.float32) / 127.5 - 1, [[0, 0], [SHIFT] * 2, [SHIFT] * 2, [0, 0]],
                        constant_values=-1.0)  # fmt: skip
        corners = tf.random.uniform((BATCH, 1, 2), 0, 2 * SHIFT + 1, tf.int32)
        pixels = corners + tf.range(28)[None, :, None]
        shifted = tf.gather(tf.gather(padded, pixels[:, :, 0], batch_dims=1), pixels[:, :, 1], axis=2, batch_dims=1)
        first = tf.random.uniform((BATCH, 1, 2), -COVER, 28, tf.int32)
        inside = (tf.range(28)[None, :, None] >= first) & (tf.range(28)[None, :, None] < first + COVER)
        covered = inside[:, :, None, 0] & inside[:, None, :, 1]
        return tf.where(covered[..., None], -1.0, shifted), labels

    examples = tf.data.Dataset.from_tensor_slices((data.images, data.labels))
    shuffled = examples.shuffle(len(data.labels), seed=seed).repeat()
    return shuffled.batch(BATCH, drop_remainder=True).map(vary).prefetch(4)


def accuracy(judge: keras.Model, data: LabelledImages) -> float:
    """Share of images that it assigns to their class."""
    logits = judge.predict(data.images.astype(np.float32) / 127.5 - 1, batch_size=500, verbose=0)
    return float(np.mean(np.argmax(logits, axis=1) == data.labels))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.judge", description=__doc__)
    parser.add_argument("out", type=Path, help="model file to write, ending in .keras")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data set's four idx files")
    parser.add_argument("--float32", action="store_true", help="don't compute in bfloat16")
    options = parser.parse_args(arguments)
    try:
        training, test = load_training(options.data), load_test(options.data)
    except DataMissingError as error:
        sys.exit(str(error))
    if not options.float32:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    trained = train(training, options.minutes * 60, options.seed)
    keras.mixed_precision.set_global_policy("float32")
    judge = build_judge()
    judge.set_weights(trained.get_weights())
    judge.save(options.out)
    print(f"{options.out}: {accuracy(judge, test):.4f} of the test images are assigned to their class")


if __name__ == "__main__":
    main()
