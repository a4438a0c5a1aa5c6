"""What lies in Redis of schedules is damaged: commands say so in a line, and other schedules go on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import redis

from pipeline.common.errors import LedgerError, NoisemillError
from pipeline.common.settings import Settings
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.request import new_schedule
from pipeline.schedules.schedule import Run, Schedule
from tests.cli.running import runner
from tests.end_to_end.fleet import TINY

ODD: list[Any] = [-1, 1e308, 10**30, "\x1b[2J", [], {}, [[]], {"a": None}, "x" * 10_000, float("nan")]


@pytest.fixture
def book(settings: Settings) -> ScheduleBook:
    """Two schedules, a run of each."""
    book = ScheduleBook(settings)
    for name in ("ill", "well"):
        book.add(
            new_schedule(
                name=name, generator=TINY, destination="/data/{run}", request={"count": 9}, every="1h", now=1e9
            )
        )
        book.fire_by_hand(name, 1e9)
    return book


def refused(
    capsys: pytest.CaptureFixture[str], settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str
) -> None:
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", settings.key_prefix)
    outcome = runner(capsys)("schedule", *words, "--redis", settings.redis_url)
    assert outcome.code == 1, (words, outcome)
    assert "malformed" in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert outcome.err.isascii()
    assert "\x1b" not in outcome.err


def lists_the_others(capsys: pytest.CaptureFixture[str], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`list` shows the schedule `well`, names `ill` in one line, and exits with 1."""
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", settings.key_prefix)
    run = runner(capsys)
    listed = run("schedule", "list", "--redis", settings.redis_url)
    as_json = run("schedule", "list", "--json", "--redis", settings.redis_url)
    assert [row.split()[0] for row in listed.out.splitlines()] == ["SCHEDULE", "well"]
    assert [one["name"] for one in json.loads(as_json.out)] == ["well"]
    for outcome in (listed, as_json):
        assert outcome.code == 1
        told = [line for line in outcome.err.splitlines() if "malformed" in line]
        assert len(told) == 1
        assert re.match("noisemill: schedule 'ill': a (schedule|run of a schedule|skipped moment) in Redis ", told[0])
        assert told[0].isascii()


@pytest.mark.parametrize("field", list(Schedule.__dataclass_fields__))
def test_a_field_of_a_schedule(book: ScheduleBook, raw: redis.Redis, field: str):
    key = f"{book.settings.key_prefix}:schedules"
    sound = json.loads(str(raw.hget(key, "ill")))
    for odd in ODD:
        if field in ("keep", "parallel", "priority", "webhook") and odd == "x" * 10:
            continue
        raw.hset(key, "ill", json.dumps({**sound, field: odd}))
        unreadable: list[str] = []
        try:
            found = book.schedules(unreadable)
            assert [one.name for one in found] == ["well"] or (field, odd) in (
                ("request", {}),
                ("request", {"a": None}),
            )
            for call in (book.get, book.pause, lambda name: book.fire_by_hand(name, 2e9)):
                if unreadable:
                    with pytest.raises(LedgerError, match=r"malformed|newer"):
                        call("ill")
        except NoisemillError as error:
            pytest.fail(f"{field} {odd!r}: {error}"[:300])


def test_commands_say_so(
    book: ScheduleBook,
    raw: redis.Redis,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    key = f"{settings.key_prefix}:schedules"
    sound = json.loads(str(raw.hget(key, "ill")))
    for text in ("", "[", "[]", "[" * 100_000, json.dumps({**sound, "recurrence": {"cron": "61 * * * *"}}),
                 json.dumps({**sound, "recurrence": {"every_s": 0}}), json.dumps({**sound, "since": "x"})):  # fmt: skip
        raw.hset(key, "ill", text)
        for words in (["show", "ill"], ["pause", "ill"], ["resume", "ill"], ["run", "ill"]):
            refused(capsys, settings, monkeypatch, *words)
        lists_the_others(capsys, settings, monkeypatch)
    raw.hset(key, "ill", json.dumps(sound))
    runs = f"{settings.key_prefix}:schedule:ill:runs"
    run = json.loads(str(raw.hget(runs, "1")))
    for field in Run.__dataclass_fields__:
        raw.hset(runs, "1", json.dumps({**run, field: [[]]}))
        refused(capsys, settings, monkeypatch, "show", "ill")
        lists_the_others(capsys, settings, monkeypatch)
    raw.hset(runs, "1", json.dumps(run))
    raw.lpush(f"{settings.key_prefix}:schedule:ill:skipped", "{}")
    refused(capsys, settings, monkeypatch, "show", "ill", "--json")


@pytest.mark.parametrize("text", ["x", "nan", "-1", "9" * 400])
def test_numbers_beside_it(book: ScheduleBook, raw: redis.Redis, text: str):
    raw.hset(f"{book.settings.key_prefix}:schedules:fired", "ill", text)
    with pytest.raises(LedgerError, match="malformed"):
        book.fire("ill", 2e9, 2e9)
    assert book.fire("well", 2e9, 2e9).skipped is not None
