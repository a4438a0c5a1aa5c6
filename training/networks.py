"""The generator that ships, and the discriminator that teaches it."""

import keras
from keras import layers

LATENT_DIM = 100
IMAGE_SHAPE = (28, 28, 1)
CLASS_COUNT = 10


def _normal() -> keras.initializers.Initializer:
    """The article's initialiser: DCGAN's standard deviation, truncated at two of them."""
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_norm")(x)
    return layers.LeakyReLU(negative_slope=0.2, name=f"{name}_relu")(x)


def _upsample(x: keras.KerasTensor, filters: int, strides: int, name: str) -> keras.KerasTensor:
    upsample = layers.Conv2DTranspose(filters, 3, strides, padding="same", kernel_initializer=_normal(), name=name)
    return upsample(x)


def build_generator() -> keras.Model:
    """Map `latent`, float32 (n, 100), and `label`, int32 (n,), to images, float32 (n, 28, 28, 1) in [-1, 1]."""
    latent = keras.Input((LATENT_DIM,), dtype="float32", name="latent")
    label = keras.Input((), dtype="int32", name="label")
    # One hot, times five: a latent's length is ten, beside which a label of length one would not be heard.
    code = layers.Embedding(
        CLASS_COUNT, CLASS_COUNT, embeddings_initializer=keras.initializers.Identity(gain=5.0), name="code"
    )(label)
    x = layers.Concatenate(name="latent_and_code")([latent, code])
    x = layers.Dense(7 * 7 * 256, use_bias=False, kernel_initializer=_normal(), name="dense")(x)
    x = _normalised(x, "dense")
    x = layers.Reshape((7, 7, 256), name="reshape")(x)
    x = _normalised(_upsample(x, 256, 1, "conv_7"), "conv_7")
    x = _normalised(_upsample(x, 128, 2, "conv_14"), "conv_14")
    x = _upsample(x, 1, 2, "conv_28")
    image = layers.Activation("tanh", dtype="float32", name="image")(x)
    return keras.Model([latent, label], image, name="fashion")


def build_discriminator() -> keras.Model:
    """Map images (n, 28, 28, 1) and labels (n,) to realness (n,) and class logits (n, 10), both float32.

    Realness is conditioned by projection (Miyato & Koyama, 2018): an inner product of features and label.
    """
    image = keras.Input(IMAGE_SHAPE, dtype="float32", name="image")
    label = keras.Input((), dtype="int32", name="label")
    x = image
    for filters, size in ((64, 4), (128, 4), (256, 3)):
        x = layers.Conv2D(filters, size, strides=2, padding="same", kernel_initializer="he_normal")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Flatten()(x)
    features = layers.Dense(256, kernel_initializer="he_normal", name="features")(x)
    features = layers.LeakyReLU(negative_slope=0.2, dtype="float32")(features)
    realness = layers.Dense(1, dtype="float32", name="realness")(features)
    code = layers.Embedding(CLASS_COUNT, 256, embeddings_initializer="zeros", dtype="float32", name="projection")(label)
    match = layers.Dot(axes=1, dtype="float32", name="match")([features, code])
    realness = layers.Add(dtype="float32")([realness, match])
    realness = layers.Reshape((), dtype="float32", name="score")(realness)
    logits = layers.Dense(CLASS_COUNT, dtype="float32", name="class_logits")(features)
    return keras.Model([image, label], [realness, logits], name="discriminator")
