"""Runs worker processes and restarts those that die: `python -m workers.supervisor`.

It runs the groups of workers configured by the environment (without a number, one worker per GPU or one for the CPU),
and the scheduler if it is configured.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.common.errors import UsageError
from pipeline.common.processes import exit_on_error, stop_signals
from pipeline.fleet.launch import (
    SchedulerConfig,
    WorkerConfig,
    WorkerGroup,
    divide_cores,
    groups_from_environment,
    scheduler_from_environment,
)
from workers.engine.devices import list_gpus
from workers.telemetry.logs import set_up_logging

log = logging.getLogger("noisemill")

#: Pause before a process is restarted: doubled at each early death, up to the longest, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: After this life time a death is not early: the pause is reset, seconds.
_WELL_S = 120.0
#: Longest time that processes get to finish, seconds.
_LEAVE_S = 60.0

_Config = TypeVar("_Config", WorkerConfig, SchedulerConfig)


@dataclass
class _Seat(Generic[_Config]):
    """One process and its restarts."""

    config: _Config
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float = 0.0

    def start(self) -> None:
        self.process = subprocess.Popen(self.config.command(), env=self.config.environment(), start_new_session=True)
        self.started_at = time.monotonic()

    def move_port(self, by: int) -> None:
        """Shifts the port of its metrics, if it serves any."""
        if self.config.metrics_port:
            self.config = replace(self.config, metrics_port=self.config.metrics_port + by)

    def poll(self) -> None:
        """Starts the process, or restarts it when its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            self.pause_s = _FIRST_PAUSE_S if now - self.started_at > _WELL_S else self.pause_s
            self.restart_at = now + self.pause_s
            log.warning("%s ended with %d, again in %.0f s", self.config.title, code, self.pause_s)
            self.pause_s = min(_LONGEST_PAUSE_S, self.pause_s * 2)
        if self.process is None and now >= self.restart_at:
            self.start()


def seats(groups: Sequence[WorkerGroup]) -> list[_Seat[WorkerConfig]]:
    """A seat for each worker of each group: at most `per_gpu` per GPU; on the CPU, cores are divided evenly.

    A group without a number gets one worker per GPU, or `per_gpu` if no other group uses them; on the CPU it gets one.
    Raises UsageError if GPUs would have more workers than allowed.
    """
    gpus = len(list_gpus())
    load = [0] * gpus
    on_gpus = [group for group in groups if gpus and group.config.device != "cpu"]
    placed: list[WorkerConfig] = []
    for group in groups:
        config, name = group.config, group.config.device
        if name.startswith("gpu:"):
            choice = [int(name.partition(":")[2])]
            if choice[0] >= gpus:
                raise UsageError(f"device {name!r} of {config.generator} is not there: this machine shows {gpus} GPUs")
        elif name == "gpu" and not gpus:
            raise UsageError(f"device 'gpu' of {config.generator} is not there: this machine shows no GPU")
        else:
            choice = list(range(gpus)) if group in on_gpus else []
        alone = config.per_gpu if len(on_gpus) == 1 else 1
        for _ in range(group.count or len(choice) * alone or 1):
            if choice:
                number = min(choice, key=lambda gpu: load[gpu])
                load[number] += 1
                config = replace(config, device=f"gpu:{number}")
            else:
                config = replace(config, device="cpu")
            placed.append(config)
    most = max((group.config.per_gpu for group in groups), default=1)
    if any(count > most for count in load):
        raise UsageError(
            f"{sum(load)} workers are too many for {gpus} GPUs that take {most} each: "
            "raise --per-gpu (per_gpu in the file) where they fit, or name a device for each generator"
        )
    if not gpus and any(group.config.device == "auto" for group in groups):
        log.info("no usable GPU: workers use the CPU")
    shared = iter(divide_cores([config for config in placed if config.device == "cpu"]))
    return [_Seat(next(shared) if config.device == "cpu" else config) for config in placed]


def assign_ports(places: Sequence[_Seat[WorkerConfig] | _Seat[SchedulerConfig]]) -> None:
    """Gives each seat that serves metrics its own port: the configured one plus the seat's number."""
    for number, place in enumerate(places):
        place.move_port(number)


def supervise(places: Sequence[_Seat[WorkerConfig] | _Seat[SchedulerConfig]]) -> None:
    """Keeps processes up until SIGTERM, Ctrl-C or the end of the terminal; then lets them finish their batch.

    A second signal ends them at once.
    """
    stop, hurry = threading.Event(), threading.Event()
    for number in stop_signals():
        signal.signal(number, lambda *_: hurry.set() if stop.is_set() else stop.set())
    while not stop.is_set():
        for place in places:
            place.poll()
        stop.wait(0.5)
    _leave([place.process for place in places if place.process is not None], hurry)


def _leave(running: list[subprocess.Popen[bytes]], hurry: threading.Event) -> None:
    for process in running:
        process.terminate()
    deadline, hurried = time.monotonic() + _LEAVE_S, False
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        if hurry.is_set() and not hurried:
            hurried = True
            for process in running:
                process.terminate()
        time.sleep(0.05)
    for process in running:
        if process.poll() is None:
            process.kill()


def main() -> None:
    """Exit code 0 after an orderly stop."""
    places: list[_Seat[WorkerConfig] | _Seat[SchedulerConfig]] = []
    groups, scheduler = groups_from_environment(), scheduler_from_environment()
    if scheduler is not None:
        set_up_logging(scheduler.log_level, scheduler.log_format)
    if groups:
        set_up_logging(groups[0].config.log_level, groups[0].config.log_format)
    with exit_on_error():
        places += seats(groups)
    if scheduler is not None:
        places.append(_Seat(scheduler))
    assign_ports(places)
    supervise(places)


if __name__ == "__main__":
    main()
