"""A diffusion model from training to a dataset: the network of Keras' DDIM example, smaller.

    python examples/diffusion.py

Training takes about a minute on two cores, so the samples are rough. Real data: Fashion-MNIST, from Debian's package
dataset-fashion-mnist. With EXAMPLE_SMALL=1 it trains for seconds. Cells (`# %%`) are those of an editor that runs
Python by the cell.
"""

# %% Settings
import os
from pathlib import Path

SMALL = bool(os.environ.get("EXAMPLE_SMALL"))
TRAINING_STEPS, BATCH = (5, 16) if SMALL else (600, 64)
SAMPLES, STEPS = (20, 3) if SMALL else (1_000, 10)
MODEL = Path(os.environ.get("EXAMPLE_MODEL", "diffusion"))
DESTINATION = os.environ.get("EXAMPLE_DESTINATION", "diffusion-samples")
MIN_SIGNAL_RATE, MAX_SIGNAL_RATE = 0.02, 0.95

# %% The network: noisy images and the variance of their noise in, the noise out (keras.io/examples/generative/ddim)
from workers.engine.tensorflow_start import start_tensorflow

start_tensorflow()
from typing import Any

import keras
import numpy as np
from keras import layers, ops


def sinusoidal_embedding(x: Any, dims: int = 16, highest: float = 1000.0) -> Any:
    """A noise variance as sines and cosines of growing frequencies."""
    scaling = layers.Dense(dims // 2, use_bias=False, trainable=False)
    angles = scaling(x)
    scaling.set_weights([2 * np.pi * np.exp(np.linspace(0, np.log(highest), dims // 2))[None]])
    return layers.Concatenate()([ops.sin(angles), ops.cos(angles)])


def residual_block(x: Any, width: int) -> Any:
    """Two convolutions beside a shortcut."""
    shortcut = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), shortcut])


def build_network(size: int, widths: tuple[int, ...] = (16, 32, 48)) -> keras.Model:
    """A U-Net: down to a quarter of the size, and up again beside what was seen on the way down."""
    noisy_images = keras.Input((size, size, 1), name="noisy_images")
    noise_variances = keras.Input((1, 1, 1), name="noise_variances")
    embedded = layers.UpSampling2D(size)(sinusoidal_embedding(noise_variances))
    x, skips = layers.Concatenate()([layers.Conv2D(widths[0], 1)(noisy_images), embedded]), []
    for width in widths[:-1]:
        skips.append(residual_block(x, width))
        x = layers.AveragePooling2D(2)(skips[-1])
    x = residual_block(residual_block(x, widths[-1]), widths[-1])
    for width in reversed(widths[:-1]):
        x = layers.Concatenate()([layers.UpSampling2D(2, interpolation="bilinear")(x), skips.pop()])
        x = residual_block(x, width)
    return keras.Model([noisy_images, noise_variances], layers.Conv2D(1, 1, kernel_initializer="zeros")(x))


# %% Training: the noise is predicted from images that are noisy to any degree
import gzip

import tensorflow as tf

DATA = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
images = np.frombuffer(gzip.decompress(DATA.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28, 1) / np.float32(255)
mean, deviation = float(images.mean()), float(images.std())

network = build_network(28)
optimizer = keras.optimizers.AdamW(2e-3, weight_decay=1e-4, use_ema=True, ema_momentum=0.98)
first_angle, last_angle = np.arccos([MAX_SIGNAL_RATE, MIN_SIGNAL_RATE])


@tf.function(autograph=False)  # type: ignore[untyped-decorator]
def train_step(batch: tf.Tensor) -> tf.Tensor:
    """One step of the optimizer; returns the mean absolute error of the noise."""
    noise, time = tf.random.normal(tf.shape(batch)), tf.random.uniform((tf.shape(batch)[0], 1, 1, 1))
    angle = first_angle + time * (last_angle - first_angle)
    with tf.GradientTape() as tape:
        predicted = network([tf.cos(angle) * batch + tf.sin(angle) * noise, tf.sin(angle) ** 2], training=True)
        loss = tf.reduce_mean(tf.abs(noise - predicted))
    optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
    return loss


batches = tf.data.Dataset.from_tensor_slices((images - mean) / deviation).shuffle(10_000, seed=1).repeat().batch(BATCH)
for step, batch in enumerate(batches.take(TRAINING_STEPS), start=1):
    loss = train_step(batch)
    if step % 100 == 0 or step == TRAINING_STEPS:
        print(f"step {step}: error of the noise {float(loss):.3f}")

optimizer.finalize_variable_values(network.trainable_variables)  # The averages of the weights.

# %% Save the network alone, and say what it does
MODEL.mkdir(exist_ok=True)
network.save(MODEL / "model.keras")
(MODEL / "generator.toml").write_text(f"""summary = "Clothes of Fashion-MNIST, a diffusion model"

[output]
range = [0.0, 1.0]

[sampler]
predicts = "noise"
mean = {mean}
scale = {deviation}
method = "ddim"
steps = 20

[sampler.time]
input = "noise_variances"
as = "noise_variance"

[sampler.schedule]
kind = "cosine"
min_signal_rate = {MIN_SIGNAL_RATE}
max_signal_rate = {MAX_SIGNAL_RATE}
""")

# %% A dataset: 20 steps of DDIM by default; here 10 of DPM-Solver++
import noisemill

dataset = noisemill.generate(str(MODEL), DESTINATION, count=SAMPLES, dtype="uint8", sampler="dpm++2m", steps=STEPS)
print(f"{len(dataset)} samples of {dataset[0][0].shape} in {dataset.url}, made by {dataset.spec.sampler}")

# %% Look at it
print(f"contact sheet: {Path(DESTINATION) / 'preview.png'}")
