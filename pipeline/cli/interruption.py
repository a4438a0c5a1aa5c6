"""Handles Ctrl-C, SIGTERM and a closing terminal: work ends cleanly, and a message says how to continue."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from pipeline.cli.output import warn
from pipeline.common.processes import stop_signals


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Exits with code 130 if interrupted, with a message that says how to continue."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # For SIGINT, Python's own handler does the same as `interrupt`, unless SIGINT is ignored.
    heeded = [number for number in stop_signals() if number != signal.SIGINT]
    previous = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    except KeyboardInterrupt:
        warn(f"interrupted; {advice}")
        raise click.exceptions.Exit(130) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
