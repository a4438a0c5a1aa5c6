"""Starts a Celery worker around one generator on one device: `python -m workers.worker.main`.

The parent process consumes messages and reconciles. TensorFlow runs in its one child, started by `spawn`, so that it
inherits no state of the parent.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import billiard
from celery import signals
from celery.exceptions import SecurityWarning

from pipeline.common.errors import NoisemillError
from pipeline.common.processes import ERROR_PREFIX, die_with_parent, stop_signals
from pipeline.common.scratch import scratch_folder
from pipeline.common.settings import Settings, load_settings
from pipeline.fleet.launch import RUN_FOLDER_VARIABLE, WORKER_ID_VARIABLE, WorkerConfig, config_from_environment
from pipeline.generators import Generator, find_generator
from pipeline.jobs.broker import Wakeups, celery_app, queue_name
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.webhooks import Webhooks
from workers.telemetry.logs import set_up_logging
from workers.telemetry.metrics_server import FOLDER_VARIABLE, WorkerCollector, serve
from workers.worker.identity import FATAL, new_worker_id
from workers.worker.intake import messages_refused, register_transport
from workers.worker.reconciler import Reconciler
from workers.worker.webhook_caller import WebhookCaller

log = logging.getLogger("noisemill")


def run(config: WorkerConfig) -> int:
    """Runs the worker until it is told to stop; returns the exit code."""
    if config.embedded:
        # Its private Valkey ends with the client too, so there is nothing to give back.
        die_with_parent(signal.SIGKILL)
    identity = os.environ[WORKER_ID_VARIABLE] = new_worker_id()
    set_up_logging(config.log_level, config.log_format, worker=identity)
    # Celery warns root users of pickle. Messages here are JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    settings = load_settings(redis_url=config.redis_url)
    generator = find_generator(config.generator)
    ledger = Ledger(settings)
    ledger.ping()
    _check_semaphores()
    with scratch_folder("worker") as run_folder:
        os.environ[RUN_FOLDER_VARIABLE] = str(run_folder)
        return _run_in(run_folder, config, settings, generator, ledger, identity)


def _check_semaphores() -> None:
    """Raises NoisemillError if Celery's process pool could not create its semaphores in /dev/shm."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise NoisemillError(
            f"no semaphores can be created in /dev/shm ({error.strerror or error}): "
            "mount a writable tmpfs there, as 'docker run --tmpfs /dev/shm' does"
        ) from error


def _run_in(
    run_folder: Path, config: WorkerConfig, settings: Settings, generator: Generator, ledger: Ledger, identity: str
) -> int:
    register_transport()
    app = celery_app(settings)
    app.conf.imports = ("workers.worker.tasks",)
    wakeups = Wakeups(settings, ledger)
    reconciler = Reconciler(ledger, wakeups, identity, settings.reconcile_s)
    webhooks = WebhookCaller(Webhooks(settings), settings.reconcile_s)
    worker = app.Worker(
        hostname=identity,
        queues=[queue_name(generator.digest)],
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )

    shutdown = _Shutdown(run_folder)
    signals.worker_shutting_down.connect(shutdown, weak=False)
    hangup = _Hangup()
    signals.worker_ready.connect(hangup, weak=False)
    try:
        if config.metrics_port:
            os.environ[FOLDER_VARIABLE] = str(run_folder)
            collector = WorkerCollector(
                run_folder,
                generator.name,
                queue_depth=lambda: wakeups.waiting(generator.digest),
                sent=lambda: reconciler.sent,
                refused=lambda: messages_refused(run_folder),
            )
            serve(collector, settings.metrics_host, config.metrics_port, lambda: next(iter(_children()), None))
        log.info("worker %s loads %s; TensorFlow takes some seconds to start", identity, generator.name)
        reconciler.start()
        webhooks.start()
        worker.start()
    finally:
        signals.worker_shutting_down.disconnect(shutdown)
        signals.worker_ready.disconnect(hangup)
        reconciler.stop()
        webhooks.stop()
        fatal = run_folder / FATAL
        reason = fatal.read_text(encoding="utf-8") if fatal.exists() else None
        _withdraw(ledger, identity)
    if reason is not None:
        raise NoisemillError(reason)
    return int(worker.exitcode or 0)


class _Shutdown:
    """Stops the worker's child. Celery calls it for each signal to stop, and then waits for the child."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder, self._begun = run_folder, False

    def __call__(self, **_: Any) -> None:
        """The first time, ends the child's slice after the current batch. The second time, kills it and exits."""
        hurry, self._begun = self._begun, True
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if hurry else signal.SIGUSR2)
        if hurry:
            shutil.rmtree(self._run_folder, ignore_errors=True)
            os._exit(1)


class _Hangup:
    """Makes SIGHUP (the terminal closes) stop the worker. Celery would restart it if stdout is not a terminal.

    It stops where it did when the worker began: `nohup` has it ignored.
    """

    def __init__(self) -> None:
        self._stops = signal.SIGHUP in stop_signals()

    def __call__(self, **_: Any) -> None:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM) if self._stops else signal.SIG_IGN)


def _children() -> list[int]:
    """Process ids of the processes of Celery's pool: the worker's one child, while it lives."""
    return [process.pid for process in billiard.active_children() if process.pid is not None]


def _withdraw(ledger: Ledger, identity: str) -> None:
    try:
        ledger.withdraw(identity)
    except NoisemillError as error:
        log.warning("%s", error)


def main() -> None:
    """Runs the worker configured by the environment. Exit code 0 after an orderly stop, 1 otherwise."""
    config = config_from_environment()
    try:
        sys.exit(run(config))
    except NoisemillError as error:
        if config.log_format == "json":
            log.critical("%s", error)
        else:
            print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
