"""Makes tiny.keras, a conditional generator of 8x8 images that costs nothing, and tiny_judge.keras, which judges them.

`python -m tests.data.make_tiny`
"""

from pathlib import Path

import keras

LATENT, CLASSES = 8, 4


def build() -> keras.Model:
    """Latent (8,) and label to (8, 8, 1) in [-1, 1]; the weights are random, from a fixed seed."""
    keras.utils.set_random_seed(7)
    latent = keras.Input((LATENT,), name="latent")
    label = keras.Input((), dtype="int32", name="label")
    joined = keras.layers.Concatenate()([latent, keras.layers.Embedding(CLASSES, 4)(label)])
    hidden = keras.layers.Dense(4 * 4 * 4, activation="relu")(joined)
    image = keras.layers.Reshape((4, 4, 4))(hidden)
    sample = keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="tanh", name="sample")(image)
    return keras.Model([latent, label], sample, name="tiny")


def build_judge() -> keras.Model:
    """Images (8, 8, 1) to logits (4,); the weights are random, from a fixed seed."""
    keras.utils.set_random_seed(8)
    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    logits = keras.layers.Dense(CLASSES, name="logits")(keras.layers.Flatten()(hidden))
    return keras.Model(image, logits, name="tiny_judge")


if __name__ == "__main__":
    build().save(Path(__file__).with_name("tiny.keras"))
    build_judge().save(Path(__file__).with_name("tiny_judge.keras"))
