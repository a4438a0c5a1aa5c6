"""Starts a worker around one generator on one device: `python -m workers.worker.main`.

This process, the parent, consumes messages and reconciles. TensorFlow runs in its one child, which is started before
this one imports Celery.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from pipeline.common.errors import NoisemillError
from pipeline.common.processes import ERROR_PREFIX, die_with_parent
from pipeline.common.scratch import scratch_folder
from pipeline.fleet.launch import (
    RUN_FOLDER_VARIABLE,
    WORKER_ID_VARIABLE,
    WorkerConfig,
    config_from_environment,
    config_from_stdin,
)
from workers.telemetry.logs import set_up_logging
from workers.worker.child_process import ChildProcess
from workers.worker.identity import METRICS_FOLDER_VARIABLE, new_worker_id

log = logging.getLogger("noisemill")


def run(config: WorkerConfig) -> int:
    """Runs the worker until it is told to stop; returns the exit code."""
    if config.embedded:
        # Its private Valkey ends with the client too, so there is nothing to give back.
        die_with_parent(signal.SIGKILL)
    identity = os.environ[WORKER_ID_VARIABLE] = new_worker_id()
    set_up_logging(config.log_level, config.log_format, worker=identity)
    with scratch_folder("worker") as run_folder:
        os.environ[RUN_FOLDER_VARIABLE] = str(run_folder)
        metrics = {METRICS_FOLDER_VARIABLE: str(run_folder)} if config.metrics_port else {}
        with ChildProcess({**os.environ, **metrics}) as child:
            from workers.worker import parent  # Celery takes half a second to import, while the child starts.

            whole = config if config.generator else config_from_stdin()
            if whole is None:
                return 0
            child.configure(whole)
            return parent.run(whole, child, identity, run_folder)


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
