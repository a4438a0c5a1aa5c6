"""Ctrl-C and SIGTERM: the work ends cleanly, and the user hears how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from pipeline.cli.output import warn


@contextmanager
def interruptible(way_on: str) -> Iterator[None]:
    """Ends with exit code 130 where it is interrupted, saying the way on."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        warn(f"interrupted; {way_on}")
        raise click.exceptions.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
