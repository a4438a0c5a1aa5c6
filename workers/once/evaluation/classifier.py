"""The small convolutional classifier that evaluates samples. It was not used in training any generator."""

from __future__ import annotations

import math
import os
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from pipeline.datasets.evaluation.real_data import Labelled

FEATURES = 64

#: Increase it when the network or its training changes, so that cached classifiers are not used any more.
_VERSION = 1
#: Least and most passes over the data, the number of steps to reach, and the batch.
_EPOCHS, _MOST_EPOCHS, _STEPS, _BATCH = 5, 60, 1500, 128
#: Convolutions halve the image until its sides are at most this long.
_SIDE = 8


def train_classifier(data: Labelled, classes: int, seed: int) -> keras.Model:
    """A classifier fitted to `data`: images uint8 (n, h, w, c) to logits (n, classes) and features (n, 64)."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(data.images.shape[1:], dtype="float32")
    x = layers.Rescaling(1 / 255)(image)
    for halving in range(max(1, math.ceil(math.log2(max(data.images.shape[1:3]) / _SIDE)))):
        x = layers.Conv2D(min(64, 16 << halving), 5, strides=2, padding="same", activation="relu")(x)
    features = layers.Dense(FEATURES, activation="relu", name="features")(layers.Flatten()(x))
    logits = layers.Dense(classes, name="logits")(layers.Dropout(0.3)(features))
    classifier = keras.Model(image, logits)
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    classifier.fit(_stream(data, seed), shuffle=False, verbose=0)  # the stream is shuffled already
    return keras.Model(image, [logits, features])


def kept_classifier(data: Labelled, data_sha256: str, classes: int, seed: int, cache_dir: Path) -> keras.Model:
    """The classifier of this data, from the cache or newly trained."""
    key = sha256(f"{_VERSION} {data_sha256} {classes} {seed} {tf.__version__}".encode()).hexdigest()[:24]
    path = cache_dir / "classifiers" / f"{key}.keras"
    if path.exists():
        try:
            return keras.saving.load_model(path, safe_mode=True)
        except (OSError, ValueError):
            path.unlink(missing_ok=True)  # Truncated, or written by another Keras.
    classifier = train_classifier(data, classes, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{os.getpid()}-{path.name}")
    classifier.save(draft)
    draft.replace(path)
    return classifier


def classify(classifier: keras.Model, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The class of each image, int32 (n,), and its features, float32 (n, 64)."""
    logits, features = classifier.predict(tf.data.Dataset.from_tensor_slices(images).batch(1000), verbose=0)
    return np.argmax(logits, axis=1).astype(np.int32), features


def _stream(data: Labelled, seed: int) -> tf.data.Dataset:
    count = len(data.labels)
    batch = min(_BATCH, count)
    epochs = min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_STEPS * batch / count)))
    examples = tf.data.Dataset.from_tensor_slices((data.images, data.labels))
    return examples.shuffle(count, seed=seed).repeat(epochs).batch(batch, drop_remainder=True).prefetch(2)
