"""The small convolutional classifier that generators are judged by. Training never sees it."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from training.data import CLASS_NAMES, LabelledImages

FEATURES = 64


def train_classifier(data: LabelledImages, seed: int, epochs: int = 5) -> keras.Model:
    """A classifier fitted to `data`: images uint8 (n, 28, 28, 1) to logits (n, 10) and features (n, 64)."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((28, 28, 1), dtype="float32")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(16, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 5, strides=2, padding="same", activation="relu")(x)
    features = layers.Dense(FEATURES, activation="relu", name="features")(layers.Flatten()(x))
    logits = layers.Dense(len(CLASS_NAMES), name="logits")(layers.Dropout(0.3)(features))
    classifier = keras.Model(image, logits)
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    classifier.fit(_stream(data, seed, epochs), shuffle=False, verbose=0)  # the stream is shuffled already
    return keras.Model(image, [logits, features])


def classify(classifier: keras.Model, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The class of each image, int32 (n,), and its features, float32 (n, 64)."""
    logits, features = classifier.predict(tf.data.Dataset.from_tensor_slices(images).batch(1000), verbose=0)
    return np.argmax(logits, axis=1).astype(np.int32), features


def _stream(data: LabelledImages, seed: int, epochs: int) -> tf.data.Dataset:
    examples = tf.data.Dataset.from_tensor_slices((data.images, data.labels))
    return examples.shuffle(len(data.labels), seed=seed).repeat(epochs).batch(128, drop_remainder=True).prefetch(2)
