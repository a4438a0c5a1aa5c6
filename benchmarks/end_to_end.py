"""End to end against the bare forward pass, in one process, interleaved.

The job goes the whole way but for the queue: real ledger on a private Valkey, real slices, mill, store,
receipts and manifest. The bare forward pass is the fastest engine and batch of this process.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.broker import Wakeups
from pipeline.client import enqueue, prepare
from pipeline.embedded import private_server
from pipeline.generators import find_generator
from pipeline.ledger import Ledger, WorkerInfo
from pipeline.request import JobRequest
from pipeline.settings import load_settings
from pipeline.version import VERSION
from workers.devices import pin_device

SAMPLES = 8_192
ROUNDS = 3
CASES: dict[str, dict[str, Any]] = {
    "npy float32": {"format": "npy"},
    "npy uint8": {"format": "npy", "dtype": "uint8"},
    "png": {"format": "png"},
    "tar": {"format": "tar"},
    "null": {"format": "null"},
}


def run(reference: str = "fashion") -> dict[str, Any]:
    """Ratios of each case to the bare forward pass that ran beside it; prints them."""
    generator = find_generator(reference)
    device = pin_device("auto")
    from workers.engine import EngineRoom  # After the device is pinned.
    from workers.slices import SliceWorker

    folder = Path(tempfile.mkdtemp(prefix="noisemill-bench-"))
    rooms = EngineRoom(generator, device, folder / "cache")
    calibration = rooms.calibrate()
    engine = rooms.engine(calibration.engine, calibration.batch)
    print(f"{reference} on {device.model}: {calibration.engine}, batch {calibration.batch}")
    latents = np.random.default_rng(0).standard_normal((engine.batch, generator.interface.latent_dim), np.float32)
    labels = (np.arange(engine.batch) % 10).astype(np.int32) if generator.interface.classes else None

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(SAMPLES // engine.batch):
            engine.predict(latents, labels).samples()
        return SAMPLES / (time.perf_counter() - start)

    with private_server() as url:
        settings = replace(load_settings(redis_url=url), slice_s=3600.0)
        ledger = Ledger(settings)
        info = WorkerInfo(
            id="bench", host="here", pid=os.getpid(), generator=generator.name, digest=generator.digest,
            latent_shape=generator.interface.latent_shape, sample_shape=generator.interface.sample_shape,
            classes=generator.interface.classes, device=device.name, engine=calibration.engine,
            batch=calibration.batch, rate=calibration.rate, output_roots=(str(folder),),
            started_at=time.time(), version=VERSION,
        )  # fmt: skip
        wakeups = Wakeups(settings, ledger)
        worker = SliceWorker(settings, ledger, wakeups, rooms, calibration, info, threading.Event())

        def job(case: str, number: int) -> tuple[float, float]:
            """Samples per second until the manifest lies there, and until the last shard does."""
            spec, _ = JobRequest(count=SAMPLES, seed=number, **CASES[case]).resolve(generator)
            store = prepare(spec, folder / f"{case.replace(' ', '-')}-{number}", [])
            handle = enqueue(spec, store.url, settings, ledger)
            start = time.perf_counter()
            worker.run(job=handle.id, token=0, serial=1)
            elapsed = time.perf_counter() - start
            state = handle.status()
            if state.state != "done":
                raise RuntimeError(f"{handle.id} is {state.state}: {state.error or state.errors}")
            shutil.rmtree(store.url)
            return SAMPLES / elapsed, sum(state.stage_seconds.values())

        ratios: dict[str, list[float]] = {case: [] for case in CASES}
        rates: dict[str, list[float]] = {case: [] for case in CASES}
        before = bare()
        for number in range(ROUNDS):
            for case in CASES:
                rate, _ = job(case, number)
                after = bare()
                ratios[case].append(rate / ((before + after) / 2))
                rates[case].append(rate)
                before = after
    shutil.rmtree(folder)
    print(f"{'case':<14}{'samples/s':>12}{'of the bare forward pass, median (least to most)':>52}")
    for case in CASES:
        middle = statistics.median(ratios[case])
        spread = f"{middle:.3f} ({min(ratios[case]):.3f} to {max(ratios[case]):.3f})"
        print(f"{case:<14}{statistics.median(rates[case]):>12,.0f}{spread:>52}")
    return {"calibration": calibration.__dict__, "device": device.model, "ratios": ratios, "rates": rates}
