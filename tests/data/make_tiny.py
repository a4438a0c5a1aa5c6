"""Makes tiny.keras, a conditional generator of 8x8 images that costs nothing: `python -m tests.data.make_tiny`."""

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


if __name__ == "__main__":
    build().save(Path(__file__).with_name("tiny.keras"))
