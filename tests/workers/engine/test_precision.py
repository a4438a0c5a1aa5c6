"""Jobs of several precisions take turns in one process: each is computed in its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.generators import find_generator
from workers.engine.calibration import CalibratedEngines
from workers.engine.devices import Device

TINY = Path(__file__).parents[2] / "data" / "tiny.keras"


def test_tf32_is_on_for_the_batches_of_its_jobs_alone(tmp_path: Path) -> None:
    """The switch can be read without a GPU that heeds it."""
    generator = find_generator(str(TINY))
    engines = CalibratedEngines(generator, Device(name="cpu", model="a CPU"), tmp_path)
    import tensorflow as tf  # Seconds; and the engines start it quietly.

    latents = np.zeros((1, generator.interface.latent_dim), np.float32)
    labels = None if generator.interface.classes is None else np.zeros(1, np.int32)
    both = [engines.engine("tf", 8, precision) for precision in ("float32", "tf32")]
    found = []
    for engine in (*both, *both):
        engine.predict(latents, labels)
        found.append(tf.config.experimental.tensor_float_32_execution_enabled())
    assert found == [False, True, False, True]
