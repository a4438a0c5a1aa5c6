"""The scheduler fires due schedules and follows their runs: `python -m workers.scheduler.main`.

A lock in Redis makes one of several schedulers active. It records a due run in the book (`pipeline.schedules.book`),
which fires each time once; a message could be lost or doubled. The steward, in threads of the active scheduler,
submits a job for it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import redis

from pipeline.common.errors import LedgerError
from pipeline.common.processes import die_with_parent, exit_on_error, stop_signals
from pipeline.common.settings import load_settings
from pipeline.fleet.launch import SchedulerConfig, scheduler_from_environment
from pipeline.jobs.connection import connect, redis_errors
from pipeline.jobs.ledger import Ledger
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.schedule import Schedule, UnreadableScheduleError
from workers.scheduler.steward import Steward
from workers.telemetry.logs import call_until_redis_responds, set_up_logging
from workers.telemetry.metrics_server import SchedulerCollector, serve

log = logging.getLogger("noisemill")

#: Poll interval of the book, seconds: the longest that a new schedule waits. Also that of the lock.
_LOOP_S = 1.0
#: A scheduler that has not extended its lock for this long counts as dead, seconds.
_LOCK_S = 10.0


class Timekeeper:
    """Fires what is due in a book."""

    def __init__(self, book: ScheduleBook) -> None:
        self._book = book
        #: By name: a schedule, and when it is due next, Unix time.
        self._due: dict[str, tuple[Schedule, float]] = {}
        self._warned: list[str] = []

    def fire_due(self, now: float) -> float:
        """Fires all schedules that are due at `now`; returns when the next one is due, Unix time (`inf` for never)."""
        unreadable: list[str] = []
        schedules = [schedule for schedule in self._book.schedules(unreadable) if not schedule.paused]
        self._due = {each.name: self._due[each.name] for each in schedules if each.name in self._due}
        for schedule in schedules:
            try:
                if self._due_at(schedule) <= now:
                    self._fire(schedule, now)
            except UnreadableScheduleError as error:
                unreadable.append(f"schedule {schedule.name}: {error}")
        if unreadable != self._warned:
            for problem in unreadable:
                log.warning("%s", problem)
            self._warned = unreadable
        return min((due_at for _, due_at in self._due.values()), default=float("inf"))

    def _due_at(self, schedule: Schedule) -> float:
        """When it is due next. Computed again only if the schedule has changed."""
        known, due_at = self._due.get(schedule.name, (None, 0.0))
        if known != schedule:
            due_at = schedule.recurrence.next_after(self._book.fired_until(schedule))
            self._due[schedule.name] = schedule, due_at
        return due_at

    def _fire(self, schedule: Schedule, now: float) -> None:
        """Fires the latest due time only, however many were missed."""
        moment = schedule.recurrence.last_due(self._book.fired_until(schedule), now)
        if moment is not None:
            fired = self._book.fire(schedule.name, moment, now)
            if fired.run is not None:
                log.info("schedule %s: run %d is due", schedule.name, fired.run.number)
            elif fired.skipped is not None and fired.skipped.times == 1:
                log.info("schedule %s: skipped, %s", schedule.name, fired.skipped.reason)
        del self._due[schedule.name]
        self._due_at(schedule)


def run(config: SchedulerConfig) -> int:
    """Runs the scheduler until it is told to stop; returns the exit code."""
    set_up_logging(config.log_level, config.log_format)
    settings = load_settings(redis_url=config.redis_url)
    book, active = ScheduleBook(settings), threading.Event()
    if config.metrics_port:
        serve(SchedulerCollector(book, active.is_set), settings.metrics_host, config.metrics_port)
    call_until_redis_responds(Ledger(settings).ping, log, "the scheduler")
    lock = connect(settings.redis_url).lock(f"{settings.key_prefix}:schedules:lock", timeout=_LOCK_S, sleep=_LOOP_S)
    log.info("the scheduler is up; if another is active, it waits")
    try:
        with redis_errors(settings.redis_url), lock:
            _keep_time(book, active, lambda: lock.extend(_LOCK_S, replace_ttl=True))
    except redis.exceptions.LockError as error:
        raise LedgerError(f"the scheduler has lost its turn: {error}") from error
    return 0


def _keep_time(book: ScheduleBook, active: threading.Event, extend_lock: Callable[[], object]) -> None:
    """Fires what is due, until an exception ends it: of a signal, of Redis, or of a lost lock."""
    timekeeper, steward = Timekeeper(book), Steward(book)
    try:
        while True:
            extend_lock()
            book.announce(f"{socket.gethostname()}-{os.getpid()}")
            due_at = timekeeper.fire_due(time.time())
            if not active.is_set():
                steward.start()
                active.set()
                log.info("this scheduler is active")
            time.sleep(min(_LOOP_S, max(0.01, due_at - time.time())))
    finally:
        # The next scheduler takes over at once.
        if active.is_set():
            steward.stop()
        book.withdraw()


def main() -> None:
    """Runs the scheduler configured by the environment. Exit code 0 after an orderly stop, 1 otherwise."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in stop_signals():
        signal.signal(number, leave)
    die_with_parent()
    config = scheduler_from_environment()
    assert config is not None
    with exit_on_error():
        sys.exit(run(config))


if __name__ == "__main__":
    main()
