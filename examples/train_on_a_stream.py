"""Train on samples that are never stored, and stop and continue in the middle.

    python examples/train_on_a_stream.py

A process of its own makes the samples while Keras trains on those before. It takes minutes on two cores, seconds with
EXAMPLE_SMALL=1. Cells (`# %%`) are those of an editor that runs Python by the cell.
"""

# %% Settings
import os

SMALL = bool(os.environ.get("EXAMPLE_SMALL"))
SAMPLES = 2_000 if SMALL else 60_000
BATCH = 128

# %% The stream: nothing is written
import noisemill

stream = noisemill.stream("fashion", count=SAMPLES, seed=11, dtype="uint8", batch_size=BATCH, drop_last=True)
classes = stream.spec.classes or ()

# %% A small classifier
import keras
from keras import layers

classifier = keras.Sequential(
    [
        keras.Input(stream.spec.sample_shape),
        layers.Rescaling(1 / 255),
        layers.Conv2D(16, 5, strides=2, activation="relu"),
        layers.Conv2D(32, 5, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(len(classes)),
    ]
)
classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])

# %% Train on the first half, by hand
with stream:
    for images, labels in stream:
        classifier.train_on_batch(images, labels)
        if stream.position >= SAMPLES // 2:
            break
print(f"stopped at sample {stream.position:,}")

# %% Continue where that stopped, as tf.data
from noisemill.tensorflow import stream_dataset

# The spec and the position are all that has to be kept.
rest = noisemill.stream(stream.spec, first=stream.position, batch_size=BATCH, drop_last=True)
history = classifier.fit(stream_dataset(rest), verbose=0)
print(f"trained on {rest.position:,} samples, none of them stored; accuracy {history.history['accuracy'][0]:.3f}")
