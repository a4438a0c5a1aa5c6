"""A worker without its queue: all that happens to a job between submit and done, in this process.

Real ledger on a private Valkey, real slices, mill, formats, stores, receipts, contact sheet and manifest.
The files at the destinations stay until the rig is closed: files that are deleted between two runs make the
next ones slower on some file systems (docs/decisions/0051-many-files-are-flushed-and-placed-at-once.md).
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.common.settings import load_settings
from pipeline.common.version import VERSION
from pipeline.datasets.destination import prepare
from pipeline.fleet.local import private_server
from pipeline.generators import Generator
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.queueing import enqueue
from pipeline.jobs.request import JobRequest
from pipeline.jobs.worker_info import WorkerInfo

if TYPE_CHECKING:
    from workers.engine.calibration import CalibratedEngines, Calibration
    from workers.making.slices import SliceWorker


@dataclass(frozen=True)
class Run:
    """One job."""

    samples: int
    #: From the wake-up until the job is done, seconds.
    seconds: float
    destination: str
    #: Seconds that each stage was busy.
    stages: dict[str, float]

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds


class Rig:
    """Runs jobs of one generator with one calibration."""

    def __init__(self, generator: Generator, worker: SliceWorker) -> None:
        self._generator, self._worker = generator, worker
        self._numbers = itertools.count()

    def run(self, root: str, count: int, **request: Any) -> Run:
        """Makes a dataset below `root`, of another seed each time."""
        number = next(self._numbers)
        spec, uploads = JobRequest(count=count, seed=number, **request).resolve(self._generator)
        store = prepare(spec, f"{root}/{uuid.uuid4().hex[:8]}", uploads)
        handle = enqueue(spec, store.url, self._worker.ledger)
        start = time.perf_counter()
        self._worker.run(job=handle.id, token=0, serial=1)
        self._worker.background.wait()
        seconds = time.perf_counter() - start
        state = handle.status()
        if state.state != "done":
            raise RuntimeError(f"{handle.id} is {state.state}: {state.error or state.errors}")
        return Run(count, seconds, store.url, dict(state.stage_seconds))


@contextmanager
def rig(generator: Generator, engines: Any, calibration: Calibration, roots: list[str]) -> Iterator[Rig]:
    """A rig that may write below `roots`; `engines` are CalibratedEngines, or stand in for them."""
    from workers.making.slices import SliceWorker  # TensorFlow comes with it, after the device is pinned.

    with private_server() as url:
        settings = replace(load_settings(redis_url=url), slice_s=3600.0)
        ledger = Ledger(settings)
        interface = generator.interface
        info = WorkerInfo(
            id="bench", host="here", pid=os.getpid(), generator=generator.name, digest=generator.digest,
            latent_shape=interface.latent_shape, sample_shape=interface.sample_shape, classes=interface.classes,
            device="cpu", engine=calibration.engine, batch=calibration.batch, rate=calibration.rate,
            output_roots=tuple(roots), started_at=time.time(), version=VERSION,
        )  # fmt: skip
        wakeups = Wakeups(settings, ledger)
        engines = cast("CalibratedEngines", engines)
        worker = SliceWorker(
            settings, ledger, wakeups, engines, {("float32", generator.sampler): calibration}, info, threading.Event()
        )
        yield Rig(generator, worker)


@contextmanager
def folder(where: str | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="noisemill-bench-", dir=where))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def memory_folder() -> str | None:
    """Where a file system in memory is mounted; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
