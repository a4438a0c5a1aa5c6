"""What one slice is about: its job, what it holds in the ledger and at the destination, and what it may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.common.errors import NoisemillError, StoreError, one_line
from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Claim, Ledger
from pipeline.spec.about import About
from pipeline.spec.job_spec import JobSpec
from pipeline.stores.lease import Lease
from workers.telemetry.logs import about


@dataclass(frozen=True)
class Clock:
    """Time as slices see it; tests bring their own."""

    #: Seconds since any moment.
    now: Callable[[], float] = time.monotonic
    #: Waits for that many seconds.
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One job for one slice of time."""

    job: str
    spec: JobSpec
    destination: str
    worker_id: str
    #: The wake-up's token, and the name under which this slice holds it.
    token: int
    holder: str
    #: The lease of the destination.
    lease: Lease
    ledger: Ledger
    settings: Settings
    #: Set when the worker has to stop.
    stop: threading.Event
    #: Called when the store fails: the job is held, and a claim is given back.
    hold: Callable[[str, StoreError, Claim | None], None]
    #: Called with the number of samples of each shard that was made.
    count: Callable[[int], None]
    #: Whether the rest of an earlier slice is still running in this process.
    is_busy: Callable[[], bool]
    #: Whether the generator makes the same sample whatever its batch is.
    is_reproducible: Callable[[], bool]
    #: License and provenance of the generator.
    about_generator: About
    clock: Clock = field(default_factory=Clock)

    def about(self, shard: int | None = None, attempt: int | None = None) -> dict[str, Any]:
        """The fields of a log line."""
        return about(self.job, shard, attempt)


def in_words(error: Exception) -> str:
    """An error as one line, for the ledger."""
    text = one_line(error)
    return text if isinstance(error, NoisemillError) else f"{type(error).__name__}: {text}"[:500]
