"""The book of schedules on a real Valkey: what fires, what is skipped, and that a moment counts once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from pipeline.common.errors import LedgerError, UsageError
from pipeline.common.settings import Settings
from pipeline.schedules.book import Fired, ScheduleBook
from pipeline.schedules.recurrence import Recurrence
from pipeline.schedules.schedule import Run, Schedule
from tests.schedules.test_schedule import NOW, make_schedule

HOURLY = Recurrence(every_s=3600, start=NOW)


@pytest.fixture
def book(settings: Settings) -> ScheduleBook:
    return ScheduleBook(settings)


def add(book: ScheduleBook, **options: Any) -> Schedule:
    schedule = make_schedule(**{"recurrence": HOURLY, **options})
    book.add(schedule)
    return schedule


def fire(book: ScheduleBook, hours: float, late_s: float = 0.0) -> Fired:
    moment = NOW + hours * 3600
    return book.fire("nightly", moment, moment + late_s)


def fired_run(book: ScheduleBook, hours: float) -> Run:
    run = fire(book, hours).run
    assert run is not None
    return run


def end(book: ScheduleBook, run: Run, state: str = "done") -> None:
    book.update("nightly", run.number, state=state, job=f"job-{run.number}")


def test_a_moment_is_fired_once(book: ScheduleBook) -> None:
    schedule = add(book, request={"seed": 100})
    run = fired_run(book, 1)
    assert (run.number, run.seed, run.destination, run.state) == (1, 100, "/data/000001", "waiting")
    assert fire(book, 1) == Fired()
    end(book, run)
    assert fire(book, 1) == fire(book, 0.5) == Fired()
    assert fired_run(book, 2).seed == 101
    assert book.fired_until(schedule) == NOW + 2 * 3600


def test_of_many_schedulers_one_fires(settings: Settings) -> None:
    add(ScheduleBook(settings), overlap="queue")
    answers: list[Fired] = []
    barrier = threading.Barrier(8)

    def try_it() -> None:
        own = ScheduleBook(settings)
        barrier.wait()
        answers.append(own.fire("nightly", NOW + 3600, NOW + 3600))

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer.run is not None for answer in answers) == 1
    assert [run.number for run in ScheduleBook(settings).runs("nightly")] == [1]


def test_moments_before_it_was_added_are_over(book: ScheduleBook) -> None:
    add(book)
    assert fire(book, 0) == fire(book, -1) == Fired()


def test_a_run_that_is_going_is_not_started_twice(book: ScheduleBook) -> None:
    add(book)
    run = fired_run(book, 1)
    for hours in (2, 3):
        skipped = fire(book, hours).skipped
        assert skipped is not None
    [noted] = book.skipped("nightly")
    assert (noted.reason, noted.times) == ("run 1 is still in progress", 2)
    assert (noted.due_at, noted.until) == (NOW + 2 * 3600, NOW + 3 * 3600)
    end(book, run, "failed")
    assert fired_run(book, 4).number == 2


def test_one_run_waits_where_runs_queue(book: ScheduleBook) -> None:
    add(book, overlap="queue")
    assert [fired_run(book, 1).number, fired_run(book, 2).number] == [1, 2]
    skipped = fire(book, 3).skipped
    assert skipped is not None
    assert skipped.reason == "run 2 is waiting already"


@pytest.mark.parametrize(("catch_up", "made"), [("one", True), ("none", False)])
def test_what_no_scheduler_was_up_for(book: ScheduleBook, catch_up: str, made: bool) -> None:
    add(book, catch_up=catch_up)
    late = fire(book, 1, late_s=1800)
    assert (late.run is not None) == made
    if not made:
        assert [one.reason for one in book.skipped("nightly")] == ["no scheduler was up in time"]
    assert fire(book, 2, late_s=3).run is not None or made


def test_a_pause_is_not_made_up_for(book: ScheduleBook) -> None:
    add(book)
    assert book.pause("nightly").paused
    assert fire(book, 1) == Fired()
    resumed = book.resume("nightly", NOW + 1.5 * 3600)
    assert resumed.next_run(NOW + 1.5 * 3600) == NOW + 2 * 3600
    assert fire(book, 1) == Fired()
    assert fired_run(book, 2).number == 1
    assert book.resume("nightly", NOW + 9 * 3600).since == NOW + 1.5 * 3600


def test_a_run_by_hand_takes_a_place_of_its_own(book: ScheduleBook) -> None:
    add(book, destination="/data/{date}")
    end(book, fired_run(book, 1))
    by_hand = book.fire_by_hand("nightly", NOW + 3700)
    assert (by_hand.by_hand, by_hand.number, by_hand.destination) == (True, 2, "/data/2026-11-23-000002")
    with pytest.raises(UsageError, match="'nightly' cannot run now: run 2 is still in progress"):
        book.fire_by_hand("nightly", NOW + 3800)
    end(book, by_hand)
    book.pause("nightly")
    assert book.fire_by_hand("nightly", NOW + 3900).number == 3


def test_a_destination_that_cannot_be_is_a_failed_run(book: ScheduleBook, tmp_path: Any) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "000001").symlink_to(tmp_path)
    add(book, destination=f"{tmp_path}/root/{{run}}")
    run = fired_run(book, 1)
    assert (run.state, "is not below" in str(run.error)) == ("failed", True)
    assert fired_run(book, 2).state == "waiting"


def test_names_are_used_once_and_replaced_on_purpose(book: ScheduleBook) -> None:
    add(book)
    end(book, fired_run(book, 1))
    with pytest.raises(UsageError, match="there is a schedule 'nightly' already: use another name, or --replace"):
        add(book)
    book.add(make_schedule(recurrence=HOURLY, keep=2), replacing=True)
    assert book.get("nightly").keep == 2
    assert [run.number for run in book.runs("nightly")] == [1]
    assert fired_run(book, 2).number == 2


def test_what_is_removed_leaves_its_numbers_alone(book: ScheduleBook, settings: Settings) -> None:
    add(book)
    run = fired_run(book, 1)
    book.remove("nightly")
    end(book, run)
    assert (book.schedules(), book.runs("nightly"), book.skipped("nightly")) == ([], [], [])
    assert fire(book, 2) == Fired()
    add(book)
    assert fired_run(book, 3).number == 2
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as raw:
        keys = {key.removeprefix(settings.key_prefix) for key in raw.scan_iter(f"{settings.key_prefix}*")}
    assert keys == {
        ":schedules", ":schedules:fired", ":schedules:runs", ":schedules:changes", ":schedule:nightly:runs",
    }  # fmt: skip


def test_names_that_are_not_there(book: ScheduleBook) -> None:
    add(book)
    for call in (book.get, book.pause, book.remove):
        with pytest.raises(UsageError, match="there is no schedule 'nihgtly': did you mean 'nightly'"):
            call("nihgtly")
    with pytest.raises(UsageError, match="see 'noisemill schedule list'"):
        book.fire_by_hand("other", NOW)


def test_history_is_bounded_but_for_what_keep_needs(book: ScheduleBook) -> None:
    add(book, keep=5)
    for number in range(1, 260):
        end(book, fired_run(book, number), "failed" if number > 20 else "done")
    numbers = [run.number for run in book.runs("nightly")]
    assert numbers[:20] == list(range(1, 21))
    assert (len(numbers), numbers[-1]) == (221, 259)


def test_a_scheduler_announces_itself(book: ScheduleBook) -> None:
    assert book.scheduler() is None
    book.announce("host-1")
    assert book.scheduler() == "host-1"
    book.withdraw()
    assert book.scheduler() is None


def test_what_cannot_be_read_is_said(book: ScheduleBook, settings: Settings) -> None:
    with redis.Redis.from_url(settings.redis_url) as raw:
        raw.hset(f"{settings.key_prefix}:schedules", "bad", "{}")
    with pytest.raises(LedgerError, match=r"a schedule in Redis is malformed: '{}'"):
        book.schedules()
    add(book)
    unreadable: list[str] = []
    assert [schedule.name for schedule in book.schedules(unreadable)] == ["nightly"]
    assert unreadable == ["schedule 'bad': a schedule in Redis is malformed: '{}'"]
