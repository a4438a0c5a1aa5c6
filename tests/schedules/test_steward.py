"""From a run in the book to a job in the ledger, and what `--keep` deletes; real Valkey, no worker."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.jobs.ledger import Ledger, NewJob
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.recurrence import Recurrence
from pipeline.schedules.schedule import Run, Schedule
from tests.cli.conftest import TINY
from tests.making import make_dataset
from tests.schedules.test_schedule import make_schedule
from workers.scheduler.steward import Steward


@pytest.fixture
def book(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScheduleBook:
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    return ScheduleBook(settings)


@pytest.fixture
def steward(book: ScheduleBook) -> Steward:
    return Steward(book)


def add(book: ScheduleBook, folder: Path, **options: Any) -> Schedule:
    now = time.time()
    schedule = make_schedule(
        **{
            "generator": str(TINY),
            "destination": f"{folder}/{{run}}",
            "request": {"count": 40, "shard_size": 20, "seed": 7},
            "recurrence": Recurrence(every_s=3600, start=now),
            "overlap": "queue",
            "since": now,
            **options,
        }
    )
    book.add(schedule)
    return schedule


def add_where_a_file_lies(book: ScheduleBook, folder: Path) -> Schedule:
    """A schedule with a run whose store fails while `folder`/file lies there."""
    (folder / "file").write_text("")
    schedule = add(book, folder / "file")
    fire(book)
    return schedule


def fire(book: ScheduleBook) -> Run:
    return book.fire_by_hand("nightly", time.time())


def only(book: ScheduleBook) -> Run:
    [run] = book.runs("nightly")
    return run


def test_a_run_becomes_a_job(book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path) -> None:
    schedule = add(book, tmp_path, priority=2, webhook="http://127.0.0.1:1/x")
    fire(book)
    steward.advance(schedule)
    run = only(book)
    assert run.job is not None
    job = ledger.job(run.job)
    assert (job.state, job.schedule, job.priority, job.destination) == ("queued", "nightly", 2, f"{tmp_path}/000001")
    assert ledger.spec(run.job)[0].seed == 7
    assert run.error == "queued, but no worker holds 'tiny'"
    # Again and again: nothing happens twice.
    for _ in range(3):
        steward.advance(schedule)
    assert [known.id for known in ledger.jobs()] == [run.job]


def test_a_run_that_was_asked_for_by_a_scheduler_that_died_is_the_same_job(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    fire(book)
    steward.advance(schedule)
    job = only(book).job
    # As if it had died between the job and the book.
    book.update("nightly", 1, state="waiting", job=None)
    Steward(book).advance(schedule)
    assert only(book).job == job
    assert len(ledger.jobs()) == 1


def test_the_next_run_waits_for_the_one_before(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    fire(book)
    steward.advance(schedule)
    fire(book)
    steward.advance(schedule)
    first, second = book.runs("nightly")
    assert (first.state, second.state, second.job) == ("queued", "waiting", None)
    ledger.cancel(str(first.job))
    steward.advance(schedule)
    steward.advance(schedule)
    first, second = book.runs("nightly")
    assert (first.state, second.state) == ("cancelled", "queued")
    assert first.ended_at is not None
    assert ledger.spec(str(second.job))[0].seed == 8


def test_a_job_that_a_person_resumes_is_followed_again(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    fire(book)
    steward.advance(schedule)
    ledger.cancel(str(only(book).job))
    steward.advance(schedule)
    assert only(book).state == "cancelled"
    spec, destination = ledger.spec(str(only(book).job))
    assert ledger.enter(NewJob(job_id=str(only(book).job), spec=spec, destination=destination))
    steward.advance(schedule)
    assert (only(book).state, only(book).ended_at) == ("queued", None)


def test_a_destination_that_another_job_holds_is_not_taken(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    spec = _spec_of(schedule, 1)
    make_dataset(tmp_path / "000001", spec)
    fire(book)
    steward.advance(schedule)
    assert only(book).state == "failed"
    assert "holds a job that this schedule did not make" in str(only(book).error)
    assert ledger.jobs() == []
    fire(book)
    steward.advance(schedule)
    assert book.runs("nightly")[-1].state == "queued"


def test_a_generator_that_is_gone_fails_the_run_with_a_reason(
    book: ScheduleBook, steward: Steward, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path, generator="/nowhere/model.keras")
    fire(book)
    steward.advance(schedule)
    assert only(book).state == "failed"
    assert "/nowhere/model.keras" in str(only(book).error)


def test_a_store_that_fails_is_asked_again(
    book: ScheduleBook, steward: Steward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = add_where_a_file_lies(book, tmp_path)
    monkeypatch.setattr("workers.scheduler.steward._RETRY_S", 0.0)
    steward.advance(schedule)
    assert (only(book).state, only(book).error is not None) == ("waiting", True)
    (tmp_path / "file").unlink()
    steward.advance(schedule)
    assert only(book).state == "queued"


def test_a_store_that_fails_for_an_hour_fails_the_run(
    book: ScheduleBook, steward: Steward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = add_where_a_file_lies(book, tmp_path)
    monkeypatch.setattr("workers.scheduler.steward._GIVE_UP_S", 0.0)
    steward.advance(schedule)
    assert only(book).state == "failed"


def test_a_job_that_redis_has_lost_is_submitted_again(
    book: ScheduleBook, steward: Steward, ledger: Ledger, raw: redis.Redis, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    fire(book)
    steward.advance(schedule)
    job = only(book).job
    assert job is not None
    raw.delete(f"{book.settings.key_prefix}:job:{job}", f"{book.settings.key_prefix}:live")
    steward.advance(schedule)
    assert (only(book).state, only(book).job, ledger.job(job).state) == ("queued", job, "queued")


def test_a_job_that_was_removed_is_a_failed_run(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    fire(book)
    steward.advance(schedule)
    job = only(book).job
    assert job is not None
    ledger.cancel(job)
    assert ledger.delete(job) == "forgotten"
    steward.advance(schedule)
    assert (only(book).state, only(book).error) == ("failed", "its job was removed")


# -- what is kept ------------------------------------------------------------------------------------------


def _spec_of(schedule: Schedule, number: int) -> Any:
    from pipeline.generators import find_generator
    from pipeline.jobs.request import JobRequest

    request = {**schedule.request, "seed": schedule.seed_of(number)}
    return JobRequest(**request).resolve(find_generator(str(TINY)))[0]


def make_runs(book: ScheduleBook, schedule: Schedule, count: int) -> list[Path]:
    """Runs that are done, with their datasets."""
    made = []
    for _ in range(count):
        run = fire(book)
        spec = _spec_of(schedule, run.number)
        made.append(make_dataset(Path(run.destination), spec))
        book.update("nightly", run.number, state="done", job=f"job-{run.number}", spec_sha256=spec.sha256)
    return made


def test_the_oldest_go_once_newer_ones_are_verified(book: ScheduleBook, steward: Steward, tmp_path: Path) -> None:
    schedule = add(book, tmp_path, keep=2)
    bystander = tmp_path / "000000"
    make_dataset(bystander, _spec_of(schedule, 1))
    made = make_runs(book, schedule, 4)
    steward.keep(schedule)
    assert [folder.exists() for folder in made] == [False, False, True, True]
    assert [run.state for run in book.runs("nightly")] == ["removed", "removed", "done", "done"]
    assert (bystander / "manifest.json").exists()
    steward.keep(schedule)
    assert [folder.exists() for folder in made] == [False, False, True, True]


def test_without_keep_all_stay(book: ScheduleBook, steward: Steward, tmp_path: Path) -> None:
    schedule = add(book, tmp_path)
    made = make_runs(book, schedule, 3)
    steward.keep(schedule)
    assert all(folder.exists() for folder in made)


def test_what_is_damaged_neither_counts_nor_goes(book: ScheduleBook, steward: Steward, tmp_path: Path) -> None:
    schedule = add(book, tmp_path, keep=1)
    made = make_runs(book, schedule, 3)
    for number in (0, 2):
        shard = made[number] / "shards" / "00000001.npy"
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    steward.keep(schedule)
    assert [folder.exists() for folder in made] == [True, True, True]
    assert [run.verified for run in book.runs("nightly")] == [False, True, False]
    assert "damaged" in str(book.runs("nightly")[0].error)
    made += make_runs(book, schedule, 1)
    steward.keep(schedule)
    assert [folder.exists() for folder in made] == [True, False, True, True]


def test_failed_runs_do_not_push_out_what_is_whole(book: ScheduleBook, steward: Steward, tmp_path: Path) -> None:
    schedule = add(book, tmp_path, keep=1)
    made = make_runs(book, schedule, 1)
    for _ in range(3):
        book.update("nightly", fire(book).number, state="failed")
    steward.keep(schedule)
    assert made[0].exists()


def test_a_dataset_that_was_deleted_by_hand_keeps_an_older_one(
    book: ScheduleBook, steward: Steward, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path, keep=2)
    made = make_runs(book, schedule, 2)
    steward.keep(schedule)
    (made[1] / "manifest.json").unlink()
    made += make_runs(book, schedule, 1)
    steward.keep(schedule)
    assert (made[0].exists(), made[2].exists()) == (True, True)
    assert [run.verified for run in book.runs("nightly")] == [True, False, True]


def test_a_place_that_another_job_has_taken_since_is_left_alone(
    book: ScheduleBook, steward: Steward, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path, keep=1)
    made = make_runs(book, schedule, 1)
    steward.keep(schedule)
    job = made[0] / "job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "seed": 999}))
    make_runs(book, schedule, 1)
    steward.keep(schedule)
    assert Dataset(made[0]).spec.seed == 999
    assert "holds another job now" in str(book.runs("nightly")[0].error)
    assert (made[0] / "manifest.json").exists()


# -- what is looked at again ----------------------------------------------------------------------------------


def test_a_schedule_is_looked_at_again_while_there_is_more_to_do(
    book: ScheduleBook, steward: Steward, ledger: Ledger, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    assert not steward.advance(schedule)
    fire(book)
    before = book.changes()
    assert steward.advance(schedule)
    assert book.changes() != before
    book.update("nightly", 1, state="done")
    assert not steward.advance(schedule)
    before = book.changes()
    fire(book)
    assert book.changes() != before


def test_two_stewards_that_take_up_a_run_at_once_ask_for_one_job(
    book: ScheduleBook, ledger: Ledger, settings: Settings, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path)
    stewards = [Steward(ScheduleBook(settings)) for _ in range(4)]
    for number in range(1, 6):
        fire(book)
        threads = [threading.Thread(target=steward.advance, args=(schedule,)) for steward in stewards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run = book.runs("nightly")[-1]
        assert (run.number, run.state) == (number, "queued")
        # Who came second found the job queued, and had nothing to say.
        assert run.error in (None, "queued, but no worker holds 'tiny'")
        assert len(ledger.jobs()) == number
        ledger.cancel(str(run.job))
        stewards[0].advance(schedule)


# -- what a replaced schedule made, and links -------------------------------------------------------------------


def replaced(book: ScheduleBook, folder: Path, **changes: Any) -> Schedule:
    """The schedule once `add --replace` has changed it."""
    schedule = replace(book.get("nightly"), **{"destination": str(folder / "{run}"), **changes})
    book.add(schedule, replacing=True)
    return schedule


@pytest.mark.parametrize("elsewhere", [True, False])
def test_datasets_made_without_keep_stay_when_keep_comes(
    book: ScheduleBook, steward: Steward, tmp_path: Path, elsewhere: bool
) -> None:
    made = make_runs(book, add(book, tmp_path), 3)
    schedule = replaced(book, tmp_path / "new" if elsewhere else tmp_path, keep=1)
    later = make_runs(book, schedule, 2)
    steward.keep(schedule)
    assert all((folder / "manifest.json").exists() for folder in made)
    assert [folder.exists() for folder in later] == [False, True]


def test_datasets_kept_under_another_template_stay(book: ScheduleBook, steward: Steward, tmp_path: Path) -> None:
    made = make_runs(book, add(book, tmp_path, keep=3), 3)
    schedule = replaced(book, tmp_path / "new", keep=1)
    make_runs(book, schedule, 2)
    steward.keep(schedule)
    assert all((folder / "manifest.json").exists() for folder in made)


def test_a_smaller_keep_under_the_same_template_removes_older_ones(
    book: ScheduleBook, steward: Steward, tmp_path: Path
) -> None:
    made = make_runs(book, add(book, tmp_path, keep=3), 3)
    schedule = replaced(book, tmp_path, keep=1)
    assert [run.number for run in schedule.surplus(book.runs("nightly"))] == [1, 2]
    steward.keep(schedule)
    assert [folder.exists() for folder in made] == [False, False, True]


def test_an_archived_dataset_is_not_deleted_through_its_link(
    book: ScheduleBook, steward: Steward, tmp_path: Path
) -> None:
    schedule = add(book, tmp_path, keep=1)
    [made] = make_runs(book, schedule, 1)
    archived = made.rename(tmp_path / "archived")
    made.symlink_to(archived)
    before = sorted(archived.rglob("*"))
    make_runs(book, schedule, 1)
    steward.keep(schedule)
    assert sorted(archived.rglob("*")) == before
    assert made.is_symlink()
    assert book.runs("nightly")[0].error == f"{made} is a link now: what it leads to is left alone"
