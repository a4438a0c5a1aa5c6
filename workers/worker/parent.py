"""The worker's parent process: runs Celery's consumer, reconciles, calls webhooks, serves metrics."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

from celery import signals
from celery.exceptions import SecurityWarning

from pipeline.common.errors import NoisemillError
from pipeline.common.processes import stop_signals
from pipeline.common.settings import Settings, load_settings
from pipeline.fleet.launch import WorkerConfig
from pipeline.generators import Generator, find_generator
from pipeline.jobs.broker import SLICE_TASK, Wakeups, celery_app, queue_name
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.webhooks import Webhooks
from workers.telemetry.metrics_server import WorkerCollector, serve
from workers.worker.child_process import ChildProcess
from workers.worker.identity import messages_refused
from workers.worker.intake import register_transport
from workers.worker.pool import ChildPool
from workers.worker.reconciler import Reconciler
from workers.worker.webhook_caller import WebhookCaller

log = logging.getLogger("noisemill")


def run(config: WorkerConfig, child: ChildProcess, identity: str, run_folder: Path) -> int:
    """Runs the worker until it is told to stop; returns the exit code. Raises NoisemillError if it cannot work."""
    # Celery warns root users of pickle. Messages here are JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # If this signal has a receiver, Celery sets up no handlers of its own.
    signals.setup_logging.connect(_keep_logging)
    settings = load_settings(redis_url=config.redis_url)
    generator = find_generator(config.generator)
    ledger = Ledger(settings)
    ledger.ping()
    wakeups = Wakeups(settings, ledger)
    reconciler = Reconciler(ledger, wakeups, identity, settings.reconcile_s)
    webhooks = WebhookCaller(Webhooks(settings), settings.reconcile_s)
    worker = _celery_worker(settings, generator, identity)
    worker.pool.serve(child, wakeups)

    shutdown = _Shutdown(worker.pool, run_folder)
    signals.worker_shutting_down.connect(shutdown, weak=False)
    hangup = _Hangup()
    signals.worker_ready.connect(hangup, weak=False)
    try:
        if config.metrics_port:
            collector = WorkerCollector(
                run_folder,
                generator.name,
                queue_depth=lambda: wakeups.waiting(generator.digest),
                sent=lambda: reconciler.sent,
                refused=lambda: messages_refused(run_folder),
            )
            serve(collector, settings.metrics_host, config.metrics_port, lambda: child.pid)
        log.info("worker %s loads %s; TensorFlow takes some seconds to start", identity, generator.name)
        reconciler.start()
        webhooks.start()
        worker.start()
    finally:
        signals.worker_shutting_down.disconnect(shutdown)
        signals.worker_ready.disconnect(hangup)
        reconciler.stop()
        webhooks.stop()
        _withdraw(ledger, identity)
    if worker.pool.fatal is not None:
        raise NoisemillError(worker.pool.fatal)
    return int(worker.exitcode or 0)


def _celery_worker(settings: Settings, generator: Generator, identity: str) -> Any:
    register_transport()
    app = celery_app(settings)
    app.task(name=SLICE_TASK)(_never_called)
    return app.Worker(
        pool=ChildPool,
        hostname=identity,
        queues=[queue_name(generator.digest)],
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )


def _never_called(**_: Any) -> None:
    """The task that Celery knows: `ChildPool` passes its arguments to the child instead of calling it."""
    raise NotImplementedError


def _keep_logging(**_: Any) -> None:
    """Receiver of Celery's signal `setup_logging`: logging is set up already."""


class _Shutdown:
    """Stops the worker's child. Celery calls it for each signal to stop, and then waits for the child."""

    def __init__(self, pool: ChildPool, run_folder: Path) -> None:
        self._pool, self._run_folder, self._begun = pool, run_folder, False

    def __call__(self, **_: Any) -> None:
        """The first time, ends the child's slice after the current batch. The second time, kills it and exits."""
        if self._begun:
            self._pool.terminate()
            shutil.rmtree(self._run_folder, ignore_errors=True)
            os._exit(1)
        self._begun = True
        self._pool.end_slice()


class _Hangup:
    """Makes SIGHUP (the terminal closes) stop the worker. Celery would restart it if stdout is not a terminal.

    It stops where it did when the worker began: `nohup` has it ignored.
    """

    def __init__(self) -> None:
        self._stops = signal.SIGHUP in stop_signals()

    def __call__(self, **_: Any) -> None:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM) if self._stops else signal.SIG_IGN)


def _withdraw(ledger: Ledger, identity: str) -> None:
    try:
        ledger.withdraw(identity)
    except NoisemillError as error:
        log.warning("%s", error)
