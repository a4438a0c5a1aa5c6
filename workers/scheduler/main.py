"""The scheduler fires due schedules and follows their runs: `python -m workers.scheduler.main`.

Celery's beat with RedBeat keeps the time, and a lock makes one of several schedulers active. A due run is not sent as a
message, which could be lost or doubled, but recorded in the book (`pipeline.schedules.book`). The steward, a thread of
the active scheduler, submits a job for it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import redis
from celery import Celery
from celery.beat import Service
from redbeat.schedulers import RedBeatScheduler, RedBeatSchedulerEntry, get_redis

from pipeline.common.errors import LedgerError
from pipeline.common.processes import die_with_parent, exit_on_error, stop_signals
from pipeline.common.settings import Settings, load_settings
from pipeline.fleet.launch import SchedulerConfig, scheduler_from_environment
from pipeline.jobs.connection import redis_errors
from pipeline.jobs.ledger import Ledger
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.recurrence import Recurrence
from pipeline.schedules.schedule import Schedule
from workers.scheduler.steward import Steward
from workers.telemetry.logs import call_until_redis_responds, set_up_logging
from workers.telemetry.metrics_server import SchedulerCollector, serve

log = logging.getLogger("noisemill")

#: Poll interval of the book, seconds: the longest that a new schedule waits.
_LOOP_S = 1
#: A scheduler that has not extended its lock for this long counts as dead, seconds.
_LOCK_S = 10


class _Entry(RedBeatSchedulerEntry):  # type: ignore[misc]  # RedBeat has no types.
    """RedBeat's entry of one schedule, due by its recurrence, in its own time zone."""

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(**self.kwargs["recurrence"])

    @property
    def due_at(self) -> datetime:
        return datetime.fromtimestamp(self.recurrence.next_after(self.last_run_at.timestamp()), UTC)

    def is_due(self) -> tuple[bool, float]:
        """Whether it is due, and the seconds until the next check."""
        wait_s = self.due_at.timestamp() - time.time()
        return self.enabled and wait_s <= 0, max(0.01, wait_s) if self.enabled else float(_LOOP_S)


class _BookScheduler(RedBeatScheduler):  # type: ignore[misc]  # RedBeat has no types.
    """RedBeat's scheduler on top of the book: the book is the record, RedBeat's entries are made from it."""

    Entry = _Entry
    # Nothing is sent, so there is no broker to connect to.
    _maybe_due_kwargs: dict[str, Any] = {}  # noqa: RUF012 - what it replaces is an attribute of the class too
    _steward: Steward | None = None
    #: The schedules that RedBeat's entries were last made from.
    _entered: dict[str, Schedule] | None = None
    #: The last warnings about unreadable schedules.
    _unreadable: list[str] | None = None

    @property
    def book(self) -> ScheduleBook:
        book: ScheduleBook = self.app.conf["noisemill_book"]
        return book

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Fires due entries; returns the seconds until the next tick."""
        if self.lock is None:  # Celery ignores errors while acquiring it.
            raise LedgerError("the scheduler could not wait for its turn: is Redis up?")
        self.lock.extend(self.lock_timeout)
        self.book.announce(f"{socket.gethostname()}-{os.getpid()}")
        self._enter()
        wait_s: float = super().tick(*arguments, **options)
        if self._steward is None:
            self._steward = Steward(self.book)
            self._steward.start()
            self.app.conf["noisemill_active"].set()
            log.info("this scheduler is active")
        return wait_s

    def maybe_due(self, entry: _Entry, **_: Any) -> float:
        """Fires a due entry: first in the book, where it counts once, then in RedBeat."""
        due, wait_s = entry.is_due()
        if due:
            now = time.time()
            moment = entry.recurrence.last_due(entry.last_run_at.timestamp(), now)
            if moment is not None:
                fired = self.book.fire(entry.name, moment, now)
                if fired.run is not None:
                    log.info("schedule %s: run %d is due", entry.name, fired.run.number)
                elif fired.skipped is not None and fired.skipped.times == 1:
                    log.info("schedule %s: skipped, %s", entry.name, fired.skipped.reason)
                entry.reschedule(datetime.fromtimestamp(moment, UTC))
            wait_s = 0.01
        return wait_s

    def close(self) -> None:
        """Lets the next scheduler take over at once."""
        if self._steward is not None:
            self._steward.stop()
            self.book.withdraw()
        super().close()

    def _enter(self) -> None:
        """Makes RedBeat's entries from the book, including those that Redis has lost."""
        unreadable: list[str] = []
        wanted = {schedule.name: schedule for schedule in self.book.schedules(unreadable)}
        if unreadable != self._unreadable:
            for problem in unreadable:
                log.warning("%s", problem)
            self._unreadable = unreadable
        client = get_redis(self.app)
        present = set(client.zrange(self.app.redbeat_conf.schedule_key, 0, -1))
        keys = {name: self.Entry.generate_key(self.app, name) for name in wanted}
        for key in present - set(keys.values()):
            client.zrem(self.app.redbeat_conf.schedule_key, key)
            client.delete(key)
        for name, schedule in wanted.items():
            if keys[name] not in present or schedule != (self._entered or {}).get(name):
                self._enter_one(schedule)
        self._entered = wanted

    def _enter_one(self, schedule: Schedule) -> None:
        settled = datetime.fromtimestamp(self.book.fired_until(schedule), UTC)
        entry = self.Entry(
            name=schedule.name,
            task="noisemill.schedule",
            # For RedBeat's own tools; `_Entry` uses the recurrence.
            schedule=float(schedule.recurrence.every_s or 60),
            kwargs={"recurrence": asdict(schedule.recurrence)},
            enabled=not schedule.paused,
            app=self.app,
        )
        entry.last_run_at = settled
        entry.save().reschedule(settled)


def _application(settings: Settings, book: ScheduleBook, active: threading.Event) -> Celery:
    app = Celery("noisemill-scheduler", set_as_current=False)
    app.conf.update(
        enable_utc=True,
        timezone="UTC",
        result_expires=None,  # Else Celery adds a task of its own that deletes results.
        beat_max_loop_interval=_LOOP_S,
        beat_enable_remote_control=False,
        redbeat_redis_url=settings.redis_url,
        redbeat_key_prefix=f"{settings.key_prefix}:redbeat:",
        redbeat_lock_timeout=_LOCK_S,
        redbeat_redis_options={"socket_timeout": 5, "socket_connect_timeout": 5, "health_check_interval": 25},
        noisemill_book=book,
        noisemill_active=active,
    )
    return app


def run(config: SchedulerConfig) -> int:
    """Runs the scheduler until it is told to stop; returns the exit code."""
    set_up_logging(config.log_level, config.log_format)
    # If Redis goes away while Celery waits for the lock, it logs a traceback; the first tick reports it in one line.
    logging.getLogger("celery.utils.dispatch.signal").setLevel(logging.CRITICAL)
    settings = load_settings(redis_url=config.redis_url)
    book, active = ScheduleBook(settings), threading.Event()
    if config.metrics_port:
        serve(SchedulerCollector(book, active.is_set), settings.metrics_host, config.metrics_port)
    call_until_redis_responds(Ledger(settings).ping, log, "the scheduler")
    service = Service(
        _application(settings, book, active),
        scheduler_cls=_BookScheduler,
        max_interval=_LOOP_S,
    )
    log.info("the scheduler is up; if another is active, it waits")
    try:
        with redis_errors(settings.redis_url):
            service.start()
    except redis.exceptions.LockError as error:
        raise LedgerError(f"the scheduler has lost its turn: {error}") from error
    return 0


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
