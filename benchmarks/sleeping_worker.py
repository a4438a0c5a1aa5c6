"""Workers whose device is imitated by sleeping: all else is the real thing.

A worker is a thread with the real `SliceWorker`: ledger, leases, mill, store, receipts. It takes real messages of
Celery from the real queue, by kombu as Celery's consumer does: one at a time, by priority, acknowledged at the end of
the slice. Only Celery's own process is left out, and TensorFlow. Several share a process, since sixteen of noisemill's
own would be sixteen imports of TensorFlow on two cores.

    python -m benchmarks.sleeping_worker REDIS_URL ROOT NAME... --sample-s 0.001 --slice-s 20
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from queue import Empty
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.free_generator import FreeEngine, Ready
from pipeline.common.settings import Settings, load_settings
from pipeline.common.version import VERSION
from pipeline.generators import find_generator
from pipeline.jobs.broker import Wakeups, celery_app, queue_name, read_wakeup
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo
from workers.engine.calibration import Calibration
from workers.making.slices import SliceWorker
from workers.worker.reconciler import Reconciler

if TYPE_CHECKING:
    from workers.engine.calibration import CalibratedEngines

GENERATOR = "article-28"
BATCH = 64
_ANNOUNCE_S = 5.0
#: How often an empty queue is looked at, seconds.
_LOOK_S = 0.02


@dataclass
class SleepingEngine(FreeEngine):
    """Takes this number of seconds per sample, as a device would: the processor is free meanwhile."""

    sample_s: float = 0.0

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Ready:
        """Samples that are there already, after a while."""
        time.sleep(self.sample_s * len(latents))
        return super().predict(latents, labels)


class SleepingEngines:
    """Stands in for `workers.engine.calibration.CalibratedEngines`."""

    def __init__(self, sample_s: float) -> None:
        self._images = np.random.default_rng(0).uniform(-1, 1, (4 * BATCH, 28, 28, 1)).astype(np.float32)
        self._sample_s = sample_s
        self.generator = find_generator(GENERATOR)

    def engine(
        self, engine: str, batch: int, precision: str = "float32", settings: Any = (), sampler: Any = None
    ) -> Any:
        """An engine that sleeps."""
        return SleepingEngine(self._images, batch, sample_s=self._sample_s)

    def compare(self, engine: Any, rate: float) -> None:
        """Nothing was promised."""

    def is_reproducible(self) -> bool:
        """Its samples are always the same."""
        return True


def worker_info(name: str, root: str) -> WorkerInfo:
    """What such a worker announces."""
    generator = find_generator(GENERATOR)
    interface = generator.interface
    return WorkerInfo(
        id=name, host="here", pid=os.getpid(), generator=generator.name, digest=generator.digest,
        latent_shape=interface.latent_shape, sample_shape=interface.sample_shape, classes=interface.classes,
        device="cpu", engine="tf", batch=BATCH, rate=1000.0, output_roots=(root,), started_at=time.time(),
        version=VERSION,
    )  # fmt: skip


def serve(settings: Settings, name: str, root: str, sample_s: float, stop: threading.Event | None = None) -> None:
    """Takes one wake-up after the other, until `stop` is set: then it gives its shards back and is no longer listed."""
    stop = stop or threading.Event()
    ledger, info = Ledger(settings), worker_info(name, root)
    wakeups = Wakeups(settings, ledger)
    engines = cast("CalibratedEngines", SleepingEngines(sample_s))
    calibration = Calibration(engine="tf", batch=BATCH, rate=1000.0)
    worker = SliceWorker(settings, ledger, wakeups, engines, {("float32", None): calibration}, info, stop)
    threading.Thread(target=_announce, args=(worker,), daemon=True).start()
    reconciler = Reconciler(ledger, wakeups, info.id, settings.reconcile_s)
    reconciler.start()
    with celery_app(settings).connection_for_read() as connection:
        channel: Any = connection.default_channel
        queue = queue_name(info.digest)
        while not stop.is_set():
            try:
                message = channel.basic_get(queue)
            except Empty:
                message = None
            if message is None:
                time.sleep(_LOOK_S)
                continue
            wakeup = read_wakeup(_envelope(message))
            worker.run(job=wakeup.job, token=wakeup.token, serial=wakeup.serial)
            message.ack()
    worker.background.wait()
    reconciler.stop()
    ledger.withdraw(info.id)


def _envelope(message: Any) -> dict[str, Any]:
    """The message as it lay in Redis: kombu has undone its base64."""
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    return {
        "content-type": message.content_type,
        "headers": message.headers,
        "body": base64.b64encode(body).decode(),
    }


def _announce(worker: SliceWorker) -> None:
    while not worker.stop.is_set():
        worker.ledger.announce(replace(worker.info, job=worker.job, samples=worker.samples))
        time.sleep(_ANNOUNCE_S)


def main(arguments: list[str]) -> None:
    """So many workers, until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("root")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--sample-s", type=float, required=True)
    parser.add_argument("--slice-s", type=float, required=True)
    options = parser.parse_args(arguments)
    settings = replace(load_settings(redis_url=options.redis_url), slice_s=options.slice_s)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threads = [
        threading.Thread(target=serve, args=(settings, name, options.root, options.sample_s, stop), daemon=True)
        for name in options.names
    ]
    for thread in threads:
        thread.start()
    print(json.dumps({"up": options.names}), flush=True)
    # Its end is the end of who started this.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
