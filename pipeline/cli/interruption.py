"""Ctrl-C, SIGTERM and a terminal that closes: the work ends cleanly, and the user hears how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from pipeline.cli.output import warn
from pipeline.common.processes import stop_signals


@contextmanager
def interruptible(way_on: str) -> Iterator[None]:
    """Ends with exit code 130 where it is interrupted, saying the way on."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Python does for SIGINT what `interrupt` does, unless it is ignored.
    heeded = [number for number in stop_signals() if number != signal.SIGINT]
    previous = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    except KeyboardInterrupt:
        warn(f"interrupted; {way_on}")
        raise click.exceptions.Exit(130) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
