"""The commands of schedules as users type them: what they print, and a clear line for each mistake."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.common.settings import Settings
from pipeline.schedules.book import ScheduleBook
from tests.cli.conftest import TINY
from tests.cli.running import Run, runner
from tests.cli.test_bad_input import assert_clear

SCHEDULE_KEYS = {
    "name", "generator", "destination", "cron", "every_s", "timezone", "next_run_at", "request", "priority", "parallel",
    "webhook", "keep", "overlap", "catch_up", "paused", "added_at", "last_run", "scheduler",
}  # fmt: skip
RUN_KEYS = {
    "number", "due_at", "fired_at", "by_hand", "destination", "seed", "state", "job", "samples", "error", "ended_at",
    "verified",
}  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


@pytest.fixture
def book(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScheduleBook:
    """An empty book that commands find by their environment; a scheduler seems to be up."""
    monkeypatch.setenv("NOISEMILL_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", settings.key_prefix)
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    book = ScheduleBook(settings)
    book.announce("host-1")
    return book


def add(run: Run, *words: Any, name: str = "nightly", to: str = "out/{run}") -> Any:
    return run("schedule", "add", name, TINY, to, "-n", "100", *words)


def test_a_schedule_is_added_shown_and_removed(run: Run, book: ScheduleBook, tmp_path: Path) -> None:
    added = add(run, "--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--keep", "7", "--seed", "4")
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith("nightly: 0 2 * * * Europe/Berlin, next 2")
    assert added.out.rstrip().endswith((" 02:00:00 CET", " 02:00:00 CEST"))
    [listed] = json.loads(run("schedule", "list", "--json").out)
    assert set(listed) == SCHEDULE_KEYS
    assert (listed["cron"], listed["timezone"], listed["keep"]) == ("0 2 * * *", "Europe/Berlin", 7)
    assert (listed["destination"], listed["last_run"]) == (f"{tmp_path}/out/{{run}}", None)
    assert (listed["request"]["count"], listed["request"]["seed"]) == (100, 4)
    made = json.loads(run("schedule", "run", "nightly", "--json").out)
    assert set(made) == RUN_KEYS
    assert (made["seed"], made["destination"], made["by_hand"]) == (4, f"{tmp_path}/out/000001", True)
    book.update("nightly", 1, state="done", samples=100, job="tiny-1")
    table = run("schedule", "list").out.splitlines()
    assert table[0].split() == ["SCHEDULE", "WHEN", "NEXT", "LAST", "STATE", "DESTINATION"]
    assert "run 1 done" in table[1]
    shown = run("schedule", "show", "nightly").out
    for part in ("when:           0 2 * * * Europe/Berlin", "keep:           7 datasets", "--count 100", "tiny-1"):
        assert part in shown
    document = json.loads(run("schedule", "show", "nightly", "--json").out)
    assert set(document) == SCHEDULE_KEYS | {"runs", "skipped"}
    assert (document["runs"][0]["state"], document["skipped"]) == ("done", [])
    assert run("schedule", "remove", "nightly").out == "nightly: removed; its jobs and datasets stay\n"
    assert run("schedule", "list").out == "no schedules: add one with 'noisemill schedule add'\n"


def test_a_pause(run: Run, book: ScheduleBook) -> None:
    add(run, "--every", "6h")
    assert run("schedule", "pause", "nightly").out == "nightly: paused\n"
    assert "paused" in run("schedule", "list").out
    assert json.loads(run("schedule", "show", "nightly", "--json").out)["next_run_at"] is None
    assert run("schedule", "resume", "nightly").out.startswith("nightly: next 2")
    assert json.loads(run("schedule", "pause", "nightly", "--json").out)["paused"] is True
    assert json.loads(run("schedule", "resume", "nightly", "--json").out)["paused"] is False


def test_history_tells_what_was_skipped(run: Run, book: ScheduleBook) -> None:
    add(run, "--every", "1h")
    schedule = book.get("nightly")
    for hour in (1, 2, 3):
        moment = schedule.since // 1 + 3600 * hour
        book.fire("nightly", moment, moment)
    shown = run("schedule", "show", "nightly").out
    assert "run 1 is still in progress" in shown
    [skipped] = json.loads(run("schedule", "show", "nightly", "--json").out)["skipped"]
    assert (skipped["times"], skipped["until"] - skipped["due_at"]) == (2, 3600)


def test_without_a_scheduler_the_user_hears_how_to_start_one(run: Run, book: ScheduleBook) -> None:
    book.withdraw()
    added = add(run, "--every", "6h")
    assert added.code == 0
    assert added.err == "noisemill: no scheduler is up: start one with\n  noisemill scheduler\n"


def test_a_dry_run_adds_nothing(run: Run, book: ScheduleBook, tmp_path: Path) -> None:
    outcome = add(run, "--every", "6h", "--seed", "9", "--dry-run", "--json")
    plan = json.loads(outcome.out)
    assert [one["seed"] for one in plan] == [9, 10, 11]
    assert [one["destination"] for one in plan] == [f"{tmp_path}/out/00000{number}" for number in (1, 2, 3)]
    assert plan[1]["due_at"] - plan[0]["due_at"] == 6 * 3600
    assert plan[0]["due_at"] > time.time()
    assert len(add(run, "--every", "6h", "--dry-run").out.splitlines()) == 4
    assert book.schedules() == []


def test_the_webhook_is_not_shown(run: Run, book: ScheduleBook) -> None:
    add(run, "--every", "6h", "--webhook", "https://user:geheim@host/token-123")
    for words in (("show", "nightly"), ("show", "nightly", "--json"), ("list", "--json")):
        outcome = run("schedule", *words)
        assert "https://host/..." in outcome.out
        assert "geheim" not in outcome.out
        assert "token-123" not in outcome.out


MISTAKES = {
    "--cron '0 2 30 2 *'": "never comes: no such month has that day",
    "--cron '0 25 * * *'": "'25' is not a valid hour",
    "--cron nightly": "has 1 fields, not five",
    "": "how often? give either --cron",
    "--cron '0 2 * * *' --every 6h": "give either --cron",
    "--every 0s": "every '0s' must be from 1 s",
    "--every -6h": "every '-6h' is not a length of time",
    "--every 500d": "must be from 1 s to 366 days",
    "--every soon": "every 'soon' is not a length of time",
    "--cron '0 2 * * *' --timezone Berlin": "time zone 'Berlin' is unknown: did you mean Europe/Berlin?",
    "--cron '0 2 * * *' --timezone Mars": "time zone 'Mars' is unknown",
    "--every 6h --keep 0": "'0' is not a whole number from 1",
    "--every 6h --keep -1": "'-1' is not a whole number from 1",
    "--every 6h --keep all": "'all' is not a whole number",
    "--every 6h --overlap both": "'both' is not one of",
    "--every 6h --catch-up all": "'all' is not one of",
    "--every 6h --webhook ftp://host/x": "webhook ftp://host/... cannot be called",
    "--every 6h --priority 10": "'10' is not a whole number from 0 to 9",
    "--every 6h --format jpg": "format 'jpg' is unknown",
    "--every 6h --labels class:9": "class 9 does not exist",
    "--every 6h --labels nowhere.txt": "nowhere.txt cannot be read",
    "--every 6h --latents rows.npy": "--latents would make each run the same samples",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes_in_options(run: Run, book: ScheduleBook, options: str) -> None:
    import shlex

    assert_clear(add(run, *shlex.split(options)), 2, MISTAKES[options])
    assert book.schedules() == []


@pytest.mark.parametrize(
    ("destination", "told"),
    [("out", "more than once: add {run} to it"), ("out/{day}", "known are {date}, {time} and {run}"),
     ("out/{date}", "more than once"), ("../{run}", "has '..' in it"), ("{run}/../../x", "has '..' in it"),
     ("out/{", "a brace alone"), ("ftp://host/{run}", "cannot be written"), ("", "destination is empty")],
)  # fmt: skip
def test_mistakes_in_templates(run: Run, book: ScheduleBook, destination: str, told: str) -> None:
    assert_clear(add(run, "--every", "6h", to=destination), 2, told)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "n\u00e4chtlich"])
def test_mistakes_in_names(run: Run, book: ScheduleBook, name: str) -> None:
    assert_clear(add(run, "--every", "6h", name=name), 2, "cannot be used")


def test_a_generator_that_is_not_there(run: Run, book: ScheduleBook) -> None:
    assert_clear(run("schedule", "add", "x", "fashoin", "{run}", "-n", "1", "--every", "6h"), 2, "fashoin")


def test_a_count_is_needed(run: Run, book: ScheduleBook) -> None:
    assert_clear(run("schedule", "add", "x", TINY, "{run}", "--every", "6h"), 2, "how many samples? give --count")


def test_a_name_that_is_taken(run: Run, book: ScheduleBook) -> None:
    add(run, "--every", "6h")
    assert_clear(add(run, "--every", "7h"), 2, "there is a schedule 'nightly' already: use another name, or --replace")
    assert add(run, "--every", "7h", "--replace").code == 0
    assert book.get("nightly").recurrence.every_s == 7 * 3600


@pytest.mark.parametrize("command", ["show", "pause", "resume", "run", "remove"])
def test_a_schedule_that_is_not_there(run: Run, book: ScheduleBook, command: str) -> None:
    add(run, "--every", "6h")
    assert_clear(run("schedule", command, "nihgtly"), 2, "there is no schedule 'nihgtly': did you mean 'nightly'?")


def test_a_run_by_hand_while_one_is_going(run: Run, book: ScheduleBook) -> None:
    add(run, "--every", "6h")
    assert run("schedule", "run", "nightly").code == 0
    assert_clear(run("schedule", "run", "nightly"), 2, "cannot run now: run 1 is still in progress")


@pytest.mark.parametrize("words", [("list",), ("show", "x"), ("run", "x")])
def test_redis_that_is_away(run: Run, book: ScheduleBook, words: tuple[str, ...]) -> None:
    outcome = run("schedule", *words, "--redis", "redis://127.0.0.1:1/0")
    assert_clear(outcome, 1, "Redis at redis://127.0.0.1:1/0 cannot be reached")


def test_the_scheduler_says_so_when_redis_is_away(run: Run) -> None:
    assert_clear(run("scheduler", "--redis", "redis://127.0.0.1:1/0"), 1, "cannot be reached")


def test_doctor_knows_of_schedules(run: Run, book: ScheduleBook) -> None:
    assert "schedules:  none" in run("doctor").out
    add(run, "--every", "6h")
    assert "schedules:  1, carried out by host-1" in run("doctor").out
    book.withdraw()
    outcome = run("doctor")
    assert outcome.code == 1
    assert "problem schedules:  1, but no scheduler is up: start one with 'noisemill scheduler'" in outcome.out


def test_replacing_names_what_it_would_remove_and_asks(run: Run, book: ScheduleBook, tmp_path: Path) -> None:
    add(run, "--every", "6h", "--keep", "3")
    for _ in range(3):
        made = book.fire_by_hand("nightly", time.time())
        book.update("nightly", made.number, state="done", job="tiny-1", verified=True)
    refused = add(run, "--every", "6h", "--keep", "1", "--replace")
    assert refused.code == 2
    assert f"--keep 1 removes 2 datasets of the schedule it replaces: {tmp_path}/out/000001, {tmp_path}/out/000002" in (
        refused.err
    )
    assert "Add --yes if that is intended" in refused.err
    assert book.get("nightly").keep == 3
    assert add(run, "--every", "6h", "--keep", "3", "--replace").code == 0
    assert add(run, "--every", "6h", "--keep", "1", "--replace", "--yes").code == 0
    assert book.get("nightly").keep == 1
