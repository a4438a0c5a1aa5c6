"""Runs processes and starts those that die again: `python -m workers.supervisor N`.

One worker per GPU or one for the CPU (N of them, 0 for as many as fit, "none" for none), and the scheduler where the
environment carries its configuration.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.errors import UsageError
from pipeline.launch import (
    ERROR_PREFIX,
    SchedulerConfig,
    WorkerConfig,
    config_from_environment,
    scheduler_from_environment,
    share_cores,
)
from workers.devices import list_gpus
from workers.logs import set_up_logging

log = logging.getLogger("noisemill")

#: Pause before a process is started again: doubled at each quick death, up to the longest, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: One that lived so long was well: its pause begins anew, seconds.
_WELL_S = 120.0
_LEAVE_S = 60.0


_Config = TypeVar("_Config", WorkerConfig, SchedulerConfig)


@dataclass
class _Seat(Generic[_Config]):
    """The place of one process, whoever fills it."""

    config: _Config
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float = 0.0

    def start(self) -> None:
        self.process = subprocess.Popen(self.config.command(), env=self.config.environment(), start_new_session=True)
        self.started_at = time.monotonic()

    def look(self) -> None:
        """Starts the process, or starts it again when its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            self.pause_s = _FIRST_PAUSE_S if now - self.started_at > _WELL_S else self.pause_s
            self.restart_at = now + self.pause_s
            log.warning("%s ended with %d, again in %.0f s", self.config.title, code, self.pause_s)
            self.pause_s = min(_LONGEST_PAUSE_S, self.pause_s * 2)
        if self.process is None and now >= self.restart_at:
            self.start()


def seats(config: WorkerConfig, wanted: int) -> list[_Seat[WorkerConfig]]:
    """`per_gpu` seats for each GPU, or as many as are wanted; without GPUs on the CPU, cores shared evenly.

    Raises UsageError where more are wanted than the GPUs take.
    """
    gpus = len(list_gpus())
    room = gpus * config.per_gpu
    if wanted > room > 0:
        raise UsageError(
            f"{wanted} workers are too many for {gpus} GPUs with {config.per_gpu} each: raise --per-gpu, if they fit"
        )
    if gpus:
        return [_Seat(replace(config, device=f"gpu:{number % gpus}")) for number in range(wanted or room)]
    log.info("no GPU that could be used: workers use the CPU")
    return [_Seat(one) for one in share_cores([replace(config, device="cpu")] * (wanted or 1))]


def with_ports(places: list[_Seat[WorkerConfig]], first: int) -> list[_Seat[WorkerConfig]]:
    """Each seat with a port of its own for metrics, from `first` on; 0 serves none."""
    if first:
        for number, place in enumerate(places):
            place.config = replace(place.config, metrics_port=first + number)
    return places


def supervise(places: Sequence[_Seat[WorkerConfig] | _Seat[SchedulerConfig]]) -> None:
    """Keeps processes up until SIGTERM or Ctrl-C, then lets them finish their batch."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        for place in places:
            place.look()
        stop.wait(0.5)
    running = [place.process for place in places if place.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _LEAVE_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    """Exit code 0 after an orderly stop."""
    places: list[_Seat[WorkerConfig] | _Seat[SchedulerConfig]] = []
    scheduler = scheduler_from_environment()
    if scheduler is not None:
        set_up_logging(scheduler.log_level, scheduler.log_format)
        places.append(_Seat(scheduler))
    if sys.argv[1] != "none":
        config = config_from_environment()
        set_up_logging(config.log_level, config.log_format)
        try:
            places += with_ports(seats(config, int(sys.argv[1])), config.metrics_port)
        except UsageError as error:
            print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
            sys.exit(error.exit_code)
    supervise(places)


if __name__ == "__main__":
    main()
