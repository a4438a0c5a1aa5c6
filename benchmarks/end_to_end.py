"""End to end against the bare forward pass, in one process, interleaved: see `benchmarks.rig`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from benchmarks.bare import described, fastest
from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder, memory_folder, rig
from pipeline.generators import find_generator
from workers.engine.devices import pin_device

#: The article's network, trained: 28x28, 90 MFLOP a sample.
GENERATOR = "fashion"
#: Samples of a job: four shards, a quarter of a minute. At its two ends the device waits, 0.1 to 0.4 s.
SAMPLES = 32_768
_BARE_SAMPLES = 4_096

LOCAL, MEMORY, S3 = "local disk", "memory", "S3 on loopback"
#: What is made, where, and what share of the bare forward pass is to be reached.
CASES: list[tuple[str, str, dict[str, Any], float | None]] = [
    ("npy float32", LOCAL, {"format": "npy"}, 0.97),
    ("npy uint8", LOCAL, {"format": "npy", "dtype": "uint8"}, None),
    ("npy float32", S3, {"format": "npy"}, 0.95),
    ("png", LOCAL, {"format": "png"}, 0.90),
    ("png", MEMORY, {"format": "png"}, None),
    ("tar", LOCAL, {"format": "tar"}, 0.90),
    ("null", LOCAL, {"format": "null"}, None),
]


def run(effort: Effort) -> Result:
    """Ratios of each case to the bare forward passes just before and after it."""
    generator, device = find_generator(GENERATOR), pin_device("auto")
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned.

    with ExitStack() as stack:
        places = _places(stack)
        engines = CalibratedEngines(generator, device, stack.enter_context(folder()) / "cache")
        calibration = engines.calibrate()
        bare, tried = fastest(engines, effort)
        runs = stack.enter_context(rig(generator, engines, calibration, list(places.values())))
        cases = [case for case in CASES if case[1] in places]
        ratios: dict[tuple[str, str], list[float]] = {case[:2]: [] for case in cases}
        rates: dict[tuple[str, str], list[float]] = {case[:2]: [] for case in cases}
        stages: dict[str, dict[str, float]] = {}
        bare_samples = effort.samples(_BARE_SAMPLES)
        before = bare.rate(bare_samples)
        for _ in range(effort.rounds):
            for name, place, request, _ in cases:
                made = runs.run(places[place], effort.samples(SAMPLES), **request)
                after = bare.rate(bare_samples)
                ratios[name, place].append(made.rate / ((before + after) / 2))
                rates[name, place].append(made.rate)
                stages[f"{name}, {place}"] = made.stages
                before = after
    figures = [
        Figure(
            case=f"{name}, {place}", against="bare forward pass", values=ratios[name, place],
            rates=rates[name, place], reach=reach,
        )
        for name, place, _, reach in cases
    ]  # fmt: skip
    note = (
        f"`{GENERATOR}`, {effort.samples(SAMPLES):,} samples a job; bare: {bare.engine.engine} in batches of "
        f"{bare.engine.batch}, worker: {calibration.engine} in batches of {calibration.batch}."
    )
    details = {**described(engines, bare), "bare_rates": tried, "calibration": vars(calibration), "stages": stages}
    return Result(title="End to end against the bare forward pass", figures=figures, notes=[note], details=details)


def _places(stack: ExitStack) -> dict[str, str]:
    places = {LOCAL: str(stack.enter_context(folder()))}
    if memory_folder() is not None:
        places[MEMORY] = str(stack.enter_context(folder(memory_folder())))
    server = s3_server(stack)
    if server is not None:
        places[S3] = server
    return places


def s3_server(stack: ExitStack) -> str | None:
    """A bucket on loopback, with boto3's environment set for it; None where no server can be started."""
    from tests.servers import RcloneS3  # boto3 comes with it.

    try:
        server = stack.enter_context(RcloneS3())
    except (RuntimeError, ImportError):
        return None
    os.environ.update(server.environment)
    return server.destination()
