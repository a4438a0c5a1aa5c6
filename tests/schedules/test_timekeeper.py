"""When the scheduler fires what is in the book, on a real Valkey; time is an argument."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.recurrence import Recurrence
from pipeline.schedules.schedule import Schedule
from tests.schedules.test_schedule import NOW, make_schedule
from workers.scheduler.main import Timekeeper

HOURLY = Recurrence(every_s=3600, start=NOW)


@pytest.fixture
def book(settings: Settings) -> ScheduleBook:
    return ScheduleBook(settings)


def add(book: ScheduleBook, **options: Any) -> Schedule:
    schedule = make_schedule(**{"recurrence": HOURLY, "overlap": "queue", **options})
    book.add(schedule)
    return schedule


def fired_hours(book: ScheduleBook, name: str = "nightly") -> list[float]:
    return [(run.due_at - NOW) / 3600 for run in book.runs(name)]


def test_each_time_is_fired_once(book: ScheduleBook) -> None:
    add(book)
    timekeeper = Timekeeper(book)
    assert timekeeper.fire_due(NOW + 3599) == NOW + 3600
    assert fired_hours(book) == []
    assert timekeeper.fire_due(NOW + 3600) == NOW + 7200
    assert timekeeper.fire_due(NOW + 3601) == NOW + 7200
    assert fired_hours(book) == [1]
    timekeeper.fire_due(NOW + 7200.5)
    assert fired_hours(book) == [1, 2]


def test_nothing_is_due_in_an_empty_book(book: ScheduleBook) -> None:
    assert Timekeeper(book).fire_due(NOW) == math.inf


def test_of_the_times_that_were_missed_the_last_counts(book: ScheduleBook) -> None:
    add(book)
    assert Timekeeper(book).fire_due(NOW + 9.5 * 3600) == NOW + 10 * 3600
    assert fired_hours(book) == [9]


def test_the_next_scheduler_continues_after_the_last_time_fired(book: ScheduleBook) -> None:
    add(book)
    Timekeeper(book).fire_due(NOW + 3600)
    second = Timekeeper(book)
    assert second.fire_due(NOW + 3700) == NOW + 7200
    assert fired_hours(book) == [1]


def test_two_that_fire_the_same_time_make_one_run(book: ScheduleBook) -> None:
    add(book)
    first, second = Timekeeper(book), Timekeeper(book)
    for timekeeper in (first, second):
        timekeeper.fire_due(NOW)
    for timekeeper in (first, second):
        assert timekeeper.fire_due(NOW + 3600) == NOW + 7200
    assert fired_hours(book) == [1]


def test_changes_of_the_book_count_at_once(book: ScheduleBook) -> None:
    schedule = add(book)
    timekeeper = Timekeeper(book)
    assert timekeeper.fire_due(NOW) == NOW + 3600
    book.pause("nightly")
    assert timekeeper.fire_due(NOW + 3600) == math.inf
    book.resume("nightly", NOW + 4000)
    assert timekeeper.fire_due(NOW + 4001) == NOW + 7200
    book.add(replace(schedule, recurrence=Recurrence(every_s=60, start=NOW), since=NOW + 4002), replacing=True)
    assert timekeeper.fire_due(NOW + 4003) == NOW + 4020
    book.remove("nightly")
    assert timekeeper.fire_due(NOW + 9000) == math.inf
    assert fired_hours(book) == []


def test_the_earliest_of_many_is_waited_for(book: ScheduleBook) -> None:
    for name, hours in (("a", 3), ("b", 1), ("c", 2)):
        add(book, name=name, recurrence=Recurrence(every_s=hours * 3600, start=NOW))
    timekeeper = Timekeeper(book)
    assert timekeeper.fire_due(NOW) == NOW + 3600
    assert timekeeper.fire_due(NOW + 3600) == NOW + 7200
    assert [fired_hours(book, name) for name in "abc"] == [[], [1], []]


def test_what_cannot_be_read_holds_up_no_other(
    book: ScheduleBook, raw: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    add(book, name="good")
    add(book, name="bad")
    raw.hset(f"{settings.key_prefix}:schedules", "worse", "{")
    raw.hset(f"{settings.key_prefix}:schedules:fired", "bad", "soon")
    timekeeper = Timekeeper(book)
    with caplog.at_level(logging.WARNING):
        timekeeper.fire_due(NOW)
        timekeeper.fire_due(NOW + 3600)
    assert fired_hours(book, "good") == [1]
    assert len([each for each in caplog.messages if "bad" in each]) == 1, "each problem is told once"
    assert len([each for each in caplog.messages if "worse" in each]) == 1
