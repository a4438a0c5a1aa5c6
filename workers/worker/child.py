"""The worker's child process: holds TensorFlow, the generator and its engines, and carries out slices."""

from __future__ import annotations

import gc
import logging
import os
import signal
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
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo
from pipeline.spec.sampler import parse_sampler
from workers.making.slices import SliceWorker
from workers.telemetry import metrics
from workers.telemetry.logs import Repeated, call_until_redis_responds
from workers.worker.identity import FATAL
from workers.worker.intake import messages_refused

log = logging.getLogger("noisemill")

#: File with a byte for each time that the child began to load its generator and did not finish.
_LOADS = "loads"
#: After this number of crashes while it loads, a generator is given up.
_MOST_LOADS = 3

_ANNOUNCE_S = 5.0


def start_child(config: WorkerConfig) -> SliceWorker:
    """Pins the device, loads and warms up the generator, announces the worker.

    If that fails it does not return, but leaves the reason for the parent and tells it to stop.
    """
    run_folder = Path(os.environ[RUN_FOLDER_VARIABLE])
    try:
        _count_load(run_folder)
        worker = _load(config)
    except Exception as error:
        if not isinstance(error, NoisemillError):
            log.exception("the worker could not start")
        _stop_parent(run_folder, str(error) or type(error).__name__)
        raise
    (run_folder / _LOADS).unlink(missing_ok=True)
    signal.signal(signal.SIGUSR2, lambda *_: worker.stop.set())
    threading.Thread(target=_keep_announcing, args=(worker,), name="announcer", daemon=True).start()
    return worker


def _count_load(run_folder: Path) -> None:
    """Raises NoisemillError if earlier children died while they loaded."""
    loads = run_folder / _LOADS
    tries = len(loads.read_bytes()) if loads.exists() else 0
    if tries >= _MOST_LOADS:
        raise NoisemillError(f"the process died {tries} times while it loaded the generator: is it too large?")
    with loads.open("ab") as file:
        file.write(b".")


def _stop_parent(run_folder: Path, reason: str) -> None:
    stopping = (run_folder / FATAL).exists()
    (run_folder / FATAL).write_text(reason, encoding="utf-8")
    if not stopping:
        # A second SIGTERM would make the parent exit at once, before it has reported the reason.
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)  # If it exited, the pool would start another child. The parent ends this one.


def _load(config: WorkerConfig) -> SliceWorker:
    settings = load_settings(redis_url=config.redis_url)
    generator = find_generator(config.generator)

    # The device must be pinned before TensorFlow is imported, as the engines do.
    from workers.engine.devices import pin_own_device

    device = pin_own_device(config, settings.lock_dir)
    from workers.engine.calibration import CalibratedEngines

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
    # Exclude the objects of TensorFlow and Keras: searching them for garbage would stop all threads for 0.15 s.
    gc.collect()
    gc.freeze()
    return SliceWorker(
        settings=settings,
        ledger=ledger,
        wakeups=Wakeups(settings, ledger),
        engines=engines,
        calibrations={("float32", sampler): calibration},
        info=info,
        stop=threading.Event(),
        judges={judge.digest: judge for judge in map(find_judge, (*judge_names(), *config.judges))},
        client=config.client,
    )


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
