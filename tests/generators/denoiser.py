"""A small denoiser: a flow of images of 4x4 pixels in three classes."""

from __future__ import annotations

from pathlib import Path

from tests.generators.suite import save_keras

#: Of the flow: no noise at time 1; labels 0 to 2, 3 is none.
SIDECAR = """
[output]
range = [-1.0, 1.0]
[sampler]
predicts = "velocity"
mean = 0.1
scale = 0.5
none = 3
method = "euler"
steps = 5
guidance = 2.0
[sampler.time]
input = "time"
as = "fraction"
[sampler.schedule]
kind = "flow"
"""


def write_flow(folder: Path) -> None:
    """Writes the network and its generator.toml into a new folder."""
    import keras

    keras.utils.set_random_seed(11)
    image, time = keras.Input((4, 4, 1), name="image"), keras.Input((1,), name="time")
    label = keras.Input((), dtype="int32", name="label")
    hour, named = keras.layers.Dense(4, activation="tanh")(time), keras.layers.Embedding(4, 4)(label)
    told = keras.layers.Reshape((1, 1, 8))(keras.layers.Concatenate()([hour, named]))
    spread = keras.layers.UpSampling2D(4)(told)
    x = keras.layers.Concatenate()([image, spread])
    x = keras.layers.Conv2D(8, 3, padding="same", activation="swish")(x)
    model = keras.Model([image, time, label], keras.layers.Conv2D(1, 3, padding="same")(x))
    save_keras(folder / "model.keras", model)
    (folder / "generator.toml").write_text(SIDECAR)
