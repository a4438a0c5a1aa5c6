"""The one Celery task, as the worker's child process runs it."""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import Any

from celery import shared_task, signals

from pipeline.common.processes import die_with_parent
from pipeline.fleet.launch import WORKER_ID_VARIABLE, config_from_environment
from pipeline.jobs.broker import SLICE_TASK, Wakeup
from workers.making.slices import SliceWorker
from workers.telemetry.logs import set_up_logging
from workers.worker.child import start_child


@cache
def slice_worker() -> SliceWorker:
    """The child's worker, made when the process starts."""
    return start_child(config_from_environment())


@signals.worker_process_init.connect
def _on_child_start(**_: Any) -> None:
    """Loads TensorFlow and the generator before the first wake-up is taken."""
    config = config_from_environment()
    if config.embedded:
        die_with_parent(signal.SIGKILL)
    set_up_logging(config.log_level, config.log_format, worker=os.environ[WORKER_ID_VARIABLE])
    slice_worker()


@signals.worker_process_shutdown.connect
def _on_child_end(**_: Any) -> None:
    """Waits for the background. The parent waits too, and kills the child at the second signal."""
    if slice_worker.cache_info().currsize:
        slice_worker().background.wait()


@shared_task(name=SLICE_TASK)
def spend_slice(**arguments: Any) -> None:
    """Carries out one wake-up, which `workers.worker.intake` has checked."""
    wakeup = Wakeup(**arguments)
    slice_worker().run(job=wakeup.job, token=wakeup.token, serial=wakeup.serial)
