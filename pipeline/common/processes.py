"""Child processes: starting and ending them, and reporting their errors."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common.errors import NoisemillError

_PR_SET_PDEATHSIG = 1

#: Prefix of error messages on stderr.
ERROR_PREFIX = "noisemill: "


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules in a new process of this Python.

    `-P` keeps the working folder off its path: a numpy.py or a workers/ in it must neither run nor replace ours. The
    user's PYTHONPATH still counts.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends this process with the exit code of an error, and prints the error for `error_from_stderr`."""
    try:
        yield
    except NoisemillError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(error.exit_code)


def error_from_stderr(stderr: str) -> str:
    """Why a process of `workers` ended: its error without the prefix, else the last line of its output."""
    lines = stderr.strip().splitlines()
    errors = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
    return (errors or lines or ["the reason is unknown"])[-1]


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to stop: SIGTERM, SIGINT, and SIGHUP unless it is ignored, as under nohup."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def open_missing_streams() -> None:
    """Opens /dev/null for those of stdin, stdout and stderr that are closed, as under some daemons.

    Otherwise the next opened file gets that number, and output goes into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest free number, which is this one.
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Makes the kernel send this process a signal when its parent dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
