"""The worker's child process: `python -m workers.worker.child`. Holds TensorFlow, and carries out wake-ups.

It imports TensorFlow first, while its parent connects to Redis and starts Celery. All that takes time to import comes
after that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pipeline.common.errors import NoisemillError
from pipeline.common.processes import die_with_parent
from pipeline.common.settings import load_settings
from pipeline.fleet.launch import WORKER_ID_VARIABLE, WorkerConfig, config_from_environment, config_from_json
from workers.engine.devices import Device, pin_own_device
from workers.engine.tensorflow_start import start_tensorflow
from workers.telemetry.logs import set_up_logging
from workers.worker.child_process import Message, connection_of_child, receive_message, send_message

if TYPE_CHECKING:
    from workers.making.slices import SliceWorker

log = logging.getLogger("noisemill")


class ParentConnection:
    """The connection to the parent, for several threads. After the parent has gone, messages are dropped."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def receive(self) -> Message | None:
        """The next message, for which it waits; None if the parent has gone."""
        return receive_message(self._connection)

    def tell(self, message: Message) -> None:
        """Sends a message."""
        with self._lock, contextlib.suppress(OSError):
            send_message(self._connection, message)

    def send(self, job_id: str, digest: str, priority: int, token: int, serial: int) -> None:
        """Lets the parent put a wake-up into the queue."""
        wakeup = {"job_id": job_id, "digest": digest, "priority": priority, "token": token, "serial": serial}
        self.tell({"send": wakeup})


def run(config: WorkerConfig, parent: ParentConnection) -> int:
    """Loads the generator, then carries out wake-ups until the parent ends that; returns the exit code.

    `config` names the device. The parent sends the whole configuration later.
    """
    try:
        device = pin_own_device(config, load_settings().lock_dir)
        start_tensorflow()
        message = parent.receive()
        if message is None:
            return 0
        worker = _load(config_from_json(message), device, parent)
    except Exception as error:
        if not isinstance(error, NoisemillError):
            log.exception("the worker could not start")
        parent.tell({"fatal": str(error) or type(error).__name__})
        return 1
    parent.tell({"ready": True})
    serve(worker, parent)
    return 0


def _load(config: WorkerConfig, device: Device, parent: ParentConnection) -> SliceWorker:
    from workers.worker.loading import load_worker, start_announcing  # After TensorFlow.

    worker = load_worker(config, device, parent)
    signal.signal(signal.SIGUSR2, lambda *_: worker.stop.set())
    start_announcing(worker)
    return worker


def serve(worker: SliceWorker, parent: ParentConnection) -> None:
    """Carries out the wake-ups that the parent sends, until it sends `stop` or has gone; then waits for the rest."""
    while (wakeup := parent.receive()) is not None and "stop" not in wakeup:
        try:
            worker.run(job=wakeup["job"], token=wakeup["token"], serial=wakeup["serial"])
        except Exception:
            log.exception("a slice failed with an unexpected error")
        parent.tell({"done": True})
    worker.background.wait()


def main() -> None:
    """Runs the child of a worker that the environment configures."""
    # Whatever kills the parent ends it too; of signals for the whole terminal, the parent tells it.
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    config = config_from_environment()
    set_up_logging(config.log_level, config.log_format, worker=os.environ[WORKER_ID_VARIABLE])
    sys.exit(run(config, ParentConnection(connection_of_child())))


if __name__ == "__main__":
    main()
