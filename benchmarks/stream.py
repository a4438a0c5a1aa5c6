"""A stream against the bare forward pass: what it costs to have samples where they are used, without files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import noisemill
from benchmarks.bare import described, fastest
from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.generators import find_generator
from pipeline.jobs.request import JobRequest
from workers.engine.devices import pin_device

GENERATOR = "fashion"
_SAMPLES = 8_192
_BATCH = 256
#: Batches that are used up before each measurement, more than are made ahead; and the time to make those, seconds.
_AHEAD, _PAUSE_S = 16, 1.0


def run(effort: Effort) -> Result:
    """Samples per second of both, interleaved, each time the other one waits; the ratio."""
    generator, device = find_generator(GENERATOR), pin_device("auto")
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned.

    with folder() as place:
        engines = CalibratedEngines(generator, device, place)
        bare, tried = fastest(engines, effort)
        spec, _ = JobRequest(count=10_000_000, batch=bare.engine.batch).resolve(generator)
        rates, ratios = [], []
        with noisemill.stream(spec, batch_size=_BATCH) as stream:
            batches = iter(stream)
            next(batches)
            for _ in range(effort.rounds + 2):
                time.sleep(_PAUSE_S * effort.share)
                before = bare.rate(effort.samples(_SAMPLES))
                rates.append(_rate(batches, effort.samples(_SAMPLES)))
                time.sleep(_PAUSE_S * effort.share)
                after = bare.rate(effort.samples(_SAMPLES))
                ratios.append(2 * rates[-1] / (before + after))
    figures = [Figure(case="stream, float32", against="bare forward pass", values=ratios, rates=rates, reach=0.95)]
    engine = f"{bare.engine.engine} in batches of {bare.engine.batch}"
    note = f"`{GENERATOR}`, batches of {_BATCH} as numpy arrays in this process; both by {engine}."
    details = {**described(engines, bare), "bare_rates": tried}
    return Result(title="A stream against the bare forward pass", figures=figures, notes=[note], details=details)


def _rate(batches: Iterator[Any], samples: int) -> float:
    """Samples per second of the stream, once what was made ahead is used up."""
    for _ in range(_AHEAD):
        next(batches)
    start, made = time.perf_counter(), 0
    while made < samples:
        made += len(next(batches)[0])
    return made / (time.perf_counter() - start)
