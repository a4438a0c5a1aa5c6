"""Jobs of a denoiser against the same loop by hand in TensorFlow, and against a loop in Python as in Keras' example."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder, rig
from pipeline.generators import find_generator
from workers.engine.devices import pin_device

_SAMPLES = 1_024
_STEPS = 10
_SIDECAR = f"""
[sampler]
predicts = "velocity"
none = 10
method = "euler"
steps = {_STEPS}
guidance = 2.0
[sampler.time]
input = "time"
as = "fraction"
[sampler.schedule]
kind = "flow"
"""

#: Makes this number of samples.
_Make = Callable[[int], None]


def run(effort: Effort) -> Result:
    """Ratios of a job to both loops, just before and after it."""
    device = pin_device("auto")
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned.

    with folder() as place:
        model = _save_network(place / "model")
        generator = find_generator(str(place / "model"))
        engines = CalibratedEngines(generator, device, place / "cache")
        calibration = engines.calibrate()
        loops = {
            "the same loop in one tf.function": _by_hand(model, calibration.batch, calibration.engine == "xla"),
            "a loop in Python, as in Keras' DDIM example": _in_python(model, calibration.batch),
        }
        count = effort.samples(_SAMPLES)
        counts = dict(zip(loops, (count, count // 8), strict=True))  # The loop in Python is the slowest by far.
        rates: list[float] = []
        others: dict[str, list[float]] = {name: [_rate(make, counts[name])] for name, make in loops.items()}
        with rig(generator, engines, calibration, [str(place)]) as runs:
            for _ in range(effort.rounds):
                rates.append(runs.run(str(place), count, format="null").rate)
                for name, make in loops.items():
                    others[name].append(_rate(make, counts[name]))
    figures = [
        Figure(
            case=f"a job, against {name}",
            against=name,
            values=[
                rate / ((before + after) / 2)
                for rate, before, after in zip(rates, others[name][:-1], others[name][1:], strict=True)
            ],
            rates=rates,
            reach=reach,
        )
        for name, reach in zip(loops, (0.97, 1.0), strict=True)
    ]
    note = (
        f"An untrained network for 28x28, {(generator.structure.flop or 0) / 1e6:.0f} MFLOP per evaluation; "
        f"{_STEPS} steps of Euler's method with guidance, {count:,} samples per run, everywhere in batches of "
        f"{calibration.batch}, by {calibration.engine}."
    )
    details = {"calibration": vars(calibration), "rates": {"job": rates, **others}}
    return Result(title="Samplers against loops by hand", figures=figures, notes=[note], details=details)


def _save_network(place: Path) -> Any:
    """An untrained network that predicts a velocity; saved with its sidecar."""
    import keras

    keras.utils.set_random_seed(0)
    image, time_ = keras.Input((28, 28, 1), name="image"), keras.Input((1,), name="time")
    label = keras.Input((), dtype="int32", name="label")
    condition = keras.layers.Concatenate()([keras.layers.Dense(8)(time_), keras.layers.Embedding(11, 8)(label)])
    spread = keras.layers.UpSampling2D(28)(keras.layers.Reshape((1, 1, 16))(condition))
    x = keras.layers.Concatenate()([image, spread])
    for width in (16, 16):
        x = keras.layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    model = keras.Model([image, time_, label], keras.layers.Conv2D(1, 3, padding="same")(x))
    place.mkdir()
    model.save(place / "model.keras")
    (place / "generator.toml").write_text(_SIDECAR)
    return model


def _by_hand(model: Any, batch: int, jit_compile: bool) -> _Make:
    """Noise, and all steps of all its batches, each batch by one call of one compiled function."""
    import tensorflow as tf

    def guided(x: Any, at: Any, labels: Any) -> Any:
        times, no_class = tf.fill((2 * batch, 1), at), tf.fill((batch,), 10)
        both = model([tf.concat([x, x], 0), times, tf.concat([labels, no_class], 0)], training=False)
        with_label, without = tf.split(both, 2)
        return without + 2.0 * (with_label - without)

    def sample(noise: Any, labels: Any) -> Any:
        def step(number: Any, x: Any) -> Any:
            return number + 1, x + guided(x, tf.cast(number, tf.float32) / _STEPS, labels) / _STEPS

        return tf.while_loop(lambda number, _: number < _STEPS, step, (0, noise))[1]

    compiled = tf.function(sample, jit_compile=jit_compile, autograph=False)
    return _batches(batch, compiled)


def _in_python(model: Any, batch: int) -> _Make:
    """As `reverse_diffusion` in keras.io/examples/generative/ddim: the network is called by Python, step by step."""
    import tensorflow as tf

    def sample(noise: Any, labels: Any) -> Any:
        x, no_class = tf.constant(noise), tf.fill((batch,), 10)
        for number in range(_STEPS):
            times = tf.fill((2 * batch, 1), number / _STEPS)
            both = model([tf.concat([x, x], 0), times, tf.concat([labels, no_class], 0)], training=False)
            with_label, without = tf.split(both, 2)
            x += (without + 2.0 * (with_label - without)) / _STEPS
        return x

    return _batches(batch, sample)


def _batches(batch: int, sample: Callable[[Any, Any], Any]) -> _Make:
    """Samples by the batch, to their last value."""
    random = np.random.default_rng(0)
    labels = (np.arange(batch) % 10).astype(np.int32)

    def make(count: int) -> None:
        for _ in range(-(-count // batch)):
            sample(random.standard_normal((batch, 28, 28, 1), np.float32), labels).numpy()

    make(batch)
    return make


def _rate(make: _Make, count: int) -> float:
    """Samples per second."""
    start = time.perf_counter()
    make(count)
    return count / (time.perf_counter() - start)
