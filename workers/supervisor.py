"""Runs one worker per GPU (or one for the CPU), and starts those that die again: `python -m workers.supervisor N`."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

from pipeline.launch import WorkerConfig, config_from_environment
from workers.devices import list_gpus
from workers.logs import set_up_logging

log = logging.getLogger("noisemill")

#: Pause before a worker is started again: doubled at each quick death, up to the longest, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: A worker that lived so long was well: its pause begins anew, seconds.
_WELL_S = 120.0
_LEAVE_S = 60.0


@dataclass
class _Seat:
    """The place of one worker, whoever fills it."""

    config: WorkerConfig
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float = 0.0

    def start(self) -> None:
        self.process = subprocess.Popen(self.config.command(), env=self.config.environment(), start_new_session=True)
        self.started_at = time.monotonic()

    def look(self) -> None:
        """Starts the worker, or starts it again when its pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            self.pause_s = _FIRST_PAUSE_S if now - self.started_at > _WELL_S else self.pause_s
            self.restart_at = now + self.pause_s
            log.warning("worker on %s ended with %d, again in %.0f s", self.config.device, code, self.pause_s)
            self.pause_s = min(_LONGEST_PAUSE_S, self.pause_s * 2)
        if self.process is None and now >= self.restart_at:
            self.start()


def seats(config: WorkerConfig, wanted: int) -> list[_Seat]:
    """One seat per GPU, in turn where more are wanted; for the CPU, cores shared evenly."""
    gpus = len(list_gpus())
    if gpus:
        return [_Seat(replace(config, device=f"gpu:{number % gpus}")) for number in range(wanted or gpus)]
    workers = wanted or 1
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
    return [_Seat(replace(config, device="cpu", threads=threads)) for _ in range(workers)]


def with_ports(places: list[_Seat], first: int) -> list[_Seat]:
    """Each seat with a port of its own for metrics, from `first` on; 0 serves none."""
    if first:
        for number, place in enumerate(places):
            place.config = replace(place.config, metrics_port=first + number)
    return places


def supervise(config: WorkerConfig, wanted: int) -> None:
    """Keeps workers up until SIGTERM or Ctrl-C, then lets them finish their batch."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    places = with_ports(seats(config, wanted), config.metrics_port)
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
    config = config_from_environment()
    set_up_logging(config.log_level, config.log_format)
    supervise(config, int(sys.argv[1]))


if __name__ == "__main__":
    main()
