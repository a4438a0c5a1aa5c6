"""The denoiser that ships: a small U-Net that predicts the data at the end of a straight path from noise."""

import keras
import numpy as np
from keras import layers

IMAGE_SHAPE = (28, 28, 1)
#: The label that means none, for classifier-free guidance.
NO_CLASS = 10
_CONDITION = 128
_WIDTH_14, _WIDTH_7 = 64, 128


def build_network() -> keras.Model:
    """Map `image` (n, 28, 28, 1), `time` (n, 1) and `label` (n,) to the expected data, (n, 28, 28, 1) in [-1, 1].

    `image` and `time` are float32, time from 0 (noise) to 1 (data); `label` is int32, 0 to 9 or NO_CLASS.
    Half of all pixels are black background: as data they are a constant; a predicted velocity would leave noise there.
    The network never computes at 28x28: its first convolution halves the size, its last doubles it again.
    """
    image = keras.Input(IMAGE_SHAPE, dtype="float32", name="image")
    time = keras.Input((1,), dtype="float32", name="time")
    label = keras.Input((), dtype="int32", name="label")
    condition = _condition(time, label)
    skip = layers.Conv2D(_WIDTH_14, 4, 2, padding="same", name="patches")(image)
    x = layers.Conv2D(_WIDTH_7, 2, 2, name="to_7")(skip)
    for number in range(2):
        x = _block(x, condition, f"middle_7_{number}")
    x = layers.Conv2DTranspose(_WIDTH_14, 2, 2, name="to_14")(x)
    x = layers.Add(name="skip")([x, skip])
    x = _block(x, condition, "up_14")
    x = layers.Activation("silu", name="head_silu")(x)
    x = layers.Conv2DTranspose(1, 4, 2, padding="same", kernel_initializer="zeros", dtype="float32", name="head")(x)
    denoised = layers.Activation("tanh", dtype="float32", name="denoised")(x)
    return keras.Model([image, time, label], denoised, name="fashion_flow")


def _condition(time: keras.KerasTensor, label: keras.KerasTensor) -> keras.KerasTensor:
    """One vector of time and label. Time enters as random Fourier features (Tancik et al., 2020), which are learned.

    In float32, since bfloat16 cannot represent times near one accurately.
    """
    waves = layers.Dense(
        64,
        kernel_initializer=keras.initializers.RandomNormal(stddev=10.0),
        bias_initializer=keras.initializers.RandomUniform(-np.pi, np.pi),
        dtype="float32",
        name="time_waves",
    )(time)
    x = layers.Dense(_CONDITION, activation="silu", dtype="float32", name="time_code")(keras.ops.sin(waves))
    x = layers.Dense(_CONDITION, dtype="float32", name="time_condition")(x)
    code = layers.Embedding(NO_CLASS + 1, _CONDITION, dtype="float32", name="label_condition")(label)
    x = layers.Add(dtype="float32", name="condition")([x, code])
    return layers.Activation("silu", dtype="float32", name="condition_silu")(x)


def _block(x: keras.KerasTensor, condition: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Add two convolutions of the normalised input; the condition is added between them."""
    width = x.shape[-1]
    shift = layers.Dense(width, name=f"{name}_condition")(condition)
    shift = layers.Reshape((1, 1, width), name=f"{name}_shift")(shift)
    y = layers.GroupNormalization(8, name=f"{name}_norm")(x)
    y = layers.Activation("silu", name=f"{name}_silu_1")(y)
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv_1")(y)
    y = layers.Add(name=f"{name}_shifted")([y, shift])
    y = layers.Activation("silu", name=f"{name}_silu_2")(y)
    y = layers.Conv2D(width, 3, padding="same", kernel_initializer="zeros", name=f"{name}_conv_2")(y)
    return layers.Add(name=f"{name}_out")([x, y])
