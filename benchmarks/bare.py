"""The bare forward pass: what a device can do at most with a generator, and nothing else."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figures import Effort
from pipeline.common.errors import GeneratorError

if TYPE_CHECKING:
    from workers.engine.calibration import CalibratedEngines
    from workers.engine.engine import Engine

#: More than a worker tries, so that what it settles for is compared with the best there is.
BATCHES = (64, 128, 256, 512, 1024)
_TRY_S = 0.2


class Bare:
    """One engine on the same latents again and again: no noise, no copy, no statistics."""

    def __init__(self, engine: Engine, classes: int | None, row_dim: int) -> None:
        self.engine = engine
        self._latents = np.random.default_rng(0).standard_normal((engine.batch, row_dim), np.float32)
        self._labels = None if classes is None else (np.arange(engine.batch) % classes).astype(np.int32)

    def once(self) -> None:
        """One batch, to its last value."""
        self.engine.predict(self._latents, self._labels).samples()

    def rate(self, samples: int) -> float:
        """Samples per second over this number of samples, rounded up to whole batches."""
        batches = -(-samples // self.engine.batch)
        start = time.perf_counter()
        for _ in range(batches):
            self.once()
        return batches * self.engine.batch / (time.perf_counter() - start)


def fastest(engines: CalibratedEngines, effort: Effort) -> tuple[Bare, dict[str, float]]:
    """The fastest of `tf.function` and XLA over batch sizes; the median rate of each, "xla 256" and so on."""
    interface = engines.generator.interface
    candidates: dict[str, Bare] = {}
    for engine in ("xla", "tf"):
        for batch in BATCHES if effort.share else BATCHES[:1]:
            try:
                found = engines.engine(engine, batch)
            except GeneratorError:  # XLA does not take every network.
                continue
            classes = None if interface.classes is None else len(interface.classes)
            candidates[f"{engine} {batch}"] = Bare(found, classes, interface.row_dim)
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(2 * effort.rounds + 1):
        for name, bare in candidates.items():
            rates[name].append(_tried(bare, effort))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return candidates[max(medians, key=lambda name: medians[name])], medians


def _tried(bare: Bare, effort: Effort) -> float:
    start, batches = time.perf_counter(), 0
    while not batches or time.perf_counter() - start < _TRY_S * effort.share:
        bare.once()
        batches += 1
    return batches * bare.engine.batch / (time.perf_counter() - start)


def described(engines: CalibratedEngines, bare: Bare) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "generator": engines.generator.name,
        "device": engines.device.model,
        "engine": bare.engine.engine,
        "batch": bare.engine.batch,
    }
