"""The scheduler: fires what is due, and sees to the runs: `python -m workers.scheduler.main`.

Celery's beat with RedBeat holds the time and the lock: of several schedulers one is active. What is due is not sent
as a message, which could be lost or doubled, but entered in the book (`pipeline.schedules.book`); the steward, a thread
of the active scheduler, makes a job of it.
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
from workers.telemetry.logs import set_up_logging, until_redis_answers
from workers.telemetry.metrics_server import SchedulerCollector, serve

log = logging.getLogger("noisemill")

#: Longest sleep between two looks at the book, seconds: so long may a new schedule wait.
_LOOP_S = 1
#: A scheduler that did not extend its lock for so long is taken for dead, seconds.
_LOCK_S = 10


class _Entry(RedBeatSchedulerEntry):  # type: ignore[misc]  # RedBeat has no types.
    """RedBeat's entry of one schedule; due when its recurrence says so, in its own time zone."""

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(**self.kwargs["recurrence"])

    @property
    def due_at(self) -> datetime:
        return datetime.fromtimestamp(self.recurrence.next_after(self.last_run_at.timestamp()), UTC)

    def is_due(self) -> tuple[bool, float]:
        """Whether it is due, and in how many seconds to ask again."""
        wait_s = self.due_at.timestamp() - time.time()
        return self.enabled and wait_s <= 0, max(0.01, wait_s) if self.enabled else float(_LOOP_S)


class _BookScheduler(RedBeatScheduler):  # type: ignore[misc]  # RedBeat has no types.
    """RedBeat's scheduler over the book of schedules: the book is the record, RedBeat's entries follow it."""

    Entry = _Entry
    # Nothing is sent, so there is no broker to connect to.
    _maybe_due_kwargs: dict[str, Any] = {}  # noqa: RUF012 - what it replaces is an attribute of the class too
    _steward: Steward | None = None
    #: The schedules that RedBeat's entries were last made from.
    _entered: dict[str, Schedule] | None = None
    #: What was said of schedules that cannot be read.
    _unreadable: list[str] | None = None

    @property
    def book(self) -> ScheduleBook:
        book: ScheduleBook = self.app.conf["noisemill_book"]
        return book

    def tick(self, *arguments: Any, **options: Any) -> float:
        """One look at what is due; answers in how many seconds to look again."""
        if self.lock is None:  # Celery swallows what is raised while it is acquired.
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
        """Fires an entry that is due: first in the book, where it counts once, then for RedBeat."""
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
        """Makes RedBeat's entries what the book says, also where Redis has lost them."""
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
            # What RedBeat's own tools show; `_Entry` goes by the recurrence.
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
        result_expires=None,  # Else Celery enters a task of its own, that clears results away.
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
    """Runs the scheduler until it is told to stop; answers the exit code."""
    set_up_logging(config.log_level, config.log_format)
    # Celery logs a traceback where Redis goes away while the lock is waited for; the first tick says it in a line.
    logging.getLogger("celery.utils.dispatch.signal").setLevel(logging.CRITICAL)
    settings = load_settings(redis_url=config.redis_url)
    book, active = ScheduleBook(settings), threading.Event()
    if config.metrics_port:
        serve(SchedulerCollector(book, active.is_set), settings.metrics_host, config.metrics_port)
    until_redis_answers(Ledger(settings).ping, log, "the scheduler")
    service = Service(
        _application(settings, book, active),
        scheduler_cls=_BookScheduler,
        max_interval=_LOOP_S,
    )
    log.info("the scheduler is up, and waits for its turn where another is active")
    try:
        with redis_errors(settings.redis_url):
            service.start()
    except redis.exceptions.LockError as error:
        raise LedgerError(f"the scheduler has lost its turn: {error}") from error
    return 0


def main() -> None:
    """Runs the scheduler that the environment describes. Exit code 0 after an orderly stop, 1 otherwise."""

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
