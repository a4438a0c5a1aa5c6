"""What the worker's child does before its first wake-up, once TensorFlow is there."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

from pipeline.common.errors import NoisemillError
from pipeline.common.settings import load_settings
from pipeline.common.version import VERSION
from pipeline.datasets.receipts import NOT_REPRODUCIBLE
from pipeline.fleet.launch import RUN_FOLDER_VARIABLE, WORKER_ID_VARIABLE, WorkerConfig
from pipeline.generators import find_generator, find_judge, judge_names
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo
from pipeline.spec.sampler import parse_sampler
from workers.engine.calibration import CalibratedEngines
from workers.engine.devices import Device
from workers.making.slices import SliceWorker, WakeupSender
from workers.telemetry import metrics
from workers.telemetry.logs import Repeated, call_until_redis_responds
from workers.worker.identity import messages_refused

log = logging.getLogger("noisemill")

_ANNOUNCE_S = 5.0


def load_worker(config: WorkerConfig, device: Device, wakeups: WakeupSender) -> SliceWorker:
    """Loads and warms up the generator. Raises NoisemillError."""
    settings = load_settings(redis_url=config.redis_url)
    generator = find_generator(config.generator)
    engines = CalibratedEngines(generator, device, settings.cache_dir)
    sampler = parse_sampler(config.sampler) if config.sampler else generator.sampler
    calibration = engines.calibrate(sampler=sampler, batch=config.batch, samples=config.samples)
    engines.engine(calibration.engine, calibration.batch, sampler=sampler)
    if not engines.is_reproducible():
        log.warning("generator %s: %s", generator.name, NOT_REPRODUCIBLE)
    ledger = Ledger(settings)
    info = WorkerInfo(
        id=os.environ[WORKER_ID_VARIABLE],
        host=socket.gethostname(),
        pid=os.getppid(),
        generator=generator.name,
        digest=generator.digest,
        latent_shape=generator.interface.latent_shape,
        sample_shape=generator.interface.sample_shape,
        classes=generator.interface.classes,
        device=engines.device.name,
        engine=calibration.engine,
        batch=calibration.batch,
        rate=calibration.rate,
        evaluations=sampler.evaluations if sampler else 1,
        output_roots=config.output_roots,
        started_at=time.time(),
        version=VERSION,
    )
    log.info(
        "worker %s holds %s (%s) on %s: %s, batch %d, %.0f samples/s",
        info.id, info.generator, info.digest[:19], engines.device.name, info.engine, info.batch, info.rate,
    )  # fmt: skip
    metrics.started(info)
    # Give back the leases of the process before this one.
    call_until_redis_responds(lambda: ledger.release_worker(info.id), log, "the worker")
    # Searching the objects of the model and of what came after TensorFlow would stop all threads for a while.
    gc.collect()
    gc.freeze()
    return SliceWorker(
        settings=settings,
        ledger=ledger,
        wakeups=wakeups,
        engines=engines,
        calibrations={("float32", sampler): calibration},
        info=info,
        stop=threading.Event(),
        judges={judge.digest: judge for judge in map(find_judge, (*judge_names(), *config.judges))},
        client=config.client,
    )


def start_announcing(worker: SliceWorker) -> None:
    """Lists the worker in Redis, from a thread, until it stops."""
    threading.Thread(target=_keep_announcing, args=(worker,), name="announcer", daemon=True).start()


def _keep_announcing(worker: SliceWorker) -> None:
    repeated = Repeated(log)
    run_folder = Path(os.environ[RUN_FOLDER_VARIABLE])
    began, listed = time.monotonic(), False
    while not worker.stop.is_set():
        try:
            up_s, refused = round(time.monotonic() - began, 1), messages_refused(run_folder)
            is_new = worker.ledger.announce(
                replace(
                    worker.info,
                    job=worker.job,
                    samples=worker.samples,
                    messages_refused=refused,
                    unreachable=worker.unreachable,
                    up_s=up_s,
                )
            )
            if is_new and listed:
                log.warning("this worker was no longer listed in Redis, which was emptied or unreachable for a while")
            repeated.clear()
            listed = True
        except NoisemillError as error:
            repeated.warn(error)
        worker.stop.wait(_ANNOUNCE_S)
