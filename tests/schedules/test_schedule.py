"""What a schedule is: its name, its template, the seeds of its runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import LedgerError, UsageError
from pipeline.common.quantities import MAX_SEED
from pipeline.schedules.recurrence import Recurrence, parse_recurrence
from pipeline.schedules.request import check_name, check_template, new_schedule
from pipeline.schedules.schedule import Schedule
from pipeline.spec.latents import latents, random_labels
from tests.cli.conftest import TINY

NOW = datetime(2026, 11, 23, 18, 30, tzinfo=UTC).timestamp()
DAILY = Recurrence(cron="0 2 * * *")


def make_schedule(**options: Any) -> Schedule:
    """One a day, to /data."""
    chosen = {"name": "nightly", "generator": "tiny", "destination": "/data/{run}", "recurrence": DAILY}
    return Schedule(**{**chosen, "added_at": NOW, "since": NOW, **options})


@pytest.mark.parametrize("name", ["a", "nightly", "Nightly-2.1_b", "0", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "-a", ".a", "_a", "a/b", "a:b", "a*", "\u00fc", "a\n", "x" * 65, "../a"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^name .* cannot be used"):
        check_name(name)


@pytest.mark.parametrize(
    "template", ["x/{run}", "{date}", "x/{date}-{time}/y", "s3://bucket/{date}/clothes", "file:///x/{run}"]
)
def test_templates(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = check_template(template, DAILY, NOW)
    assert place.startswith(("/", "s3://bucket/"))
    assert check_template(place, DAILY, NOW) == place


BAD_TEMPLATES = {
    "plain": "would be stored at .*plain more than once: add {run} to it",
    "x/{time}": "more than once",  # At 02:00 each day.
    "x/{day}": "has '{day}': known are {date}, {time} and {run}",
    "x/{}": "has '{}'",
    "x/{run:03d}": "has '{run:03d}'",
    "x/{run!r}": "has '{run!r}'",
    "x/{run.__class__}": "has '{run.__class__}'",
    "x/{run": "has a brace alone",
    "x/run}": "has a brace alone",
    "x/{{run}}": "has a brace alone",
    "../{run}": "has '..' in it",
    "x/{run}/../y": "has '..' in it",
    "s3://bucket/../{run}": "has '..' in it",
    "s3://{run}/x": "has no valid bucket",
    "http://host/{run}": "http://... cannot be written",
    "": "destination is empty",
}


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_templates_that_are_refused(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=BAD_TEMPLATES[template].replace("{", r"\{").replace("}", r"\}")):
        check_template(template, DAILY, NOW)


@pytest.mark.parametrize(("cron", "every"), [("0 */6 * * *", None), (None, "6h"), ("0 2 * * *", None)])
def test_a_date_is_enough_for_one_run_a_day_alone(cron: str | None, every: str | None) -> None:
    recurrence = parse_recurrence(cron, every, None, NOW)
    if cron == "0 2 * * *":
        assert check_template("/x/{date}", recurrence, NOW) == "/x/{date}"
    else:
        with pytest.raises(UsageError, match="more than once"):
            check_template("/x/{date}", recurrence, NOW)
        assert check_template("/x/{date}T{time}", recurrence, NOW)


def test_every_day_is_not_every_24_hours_where_a_day_has_25() -> None:
    recurrence = parse_recurrence(None, "1d", "Europe/Berlin", datetime(2026, 9, 1, 22, 30, tzinfo=UTC).timestamp())
    with pytest.raises(UsageError, match=r"2026-10-25 more than once"):
        check_template("/x/{date}", recurrence, recurrence.start)


def test_a_destination_is_told_by_the_clock_of_the_zone() -> None:
    schedule = make_schedule(
        destination="/data/{date}/{time}-{run}", recurrence=Recurrence(cron="0 1 * * *", timezone="Asia/Tokyo")
    )
    due = schedule.recurrence.next_after(NOW)
    assert datetime.fromtimestamp(due, UTC).day == 24
    assert schedule.destination_of(7, due) == "/data/2026-11-25/010000-000007"


def test_a_link_that_leads_out_of_the_template_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "000003").symlink_to(outside)
    schedule = make_schedule(destination=f"{root}/{{run}}")
    assert schedule.destination_of(2, NOW) == f"{root}/000002"
    with pytest.raises(UsageError, match="is not below"):
        schedule.destination_of(3, NOW)


def test_runs_never_repeat_samples() -> None:
    schedule = make_schedule(request={"seed": 5})
    assert [schedule.seed_of(run) for run in (1, 2, 3)] == [5, 6, 7]
    # Three blocks of each of three runs: all rows differ, as does what random labels are drawn from.
    rows = np.concatenate([latents(schedule.seed_of(run), 0, 3072, 8) for run in (1, 2, 3)])
    assert len(np.unique(rows, axis=0)) == len(rows)
    drawn = {random_labels(schedule.seed_of(run), 0, 1024, 10).tobytes() for run in (1, 2, 3)}
    assert len(drawn) == 3


def test_seeds_come_round_after_all_of_them() -> None:
    schedule = make_schedule(request={"seed": MAX_SEED})
    assert [schedule.seed_of(run) for run in (1, 2, 2**32 + 1)] == [MAX_SEED, 0, MAX_SEED]


def test_it_is_the_same_after_it_was_written_and_read() -> None:
    schedule = make_schedule(request={"count": 10, "labels": "class:1"}, keep=3, webhook="https://u:p@h/x", paused=True)
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_one_of_a_newer_noisemill_is_refused() -> None:
    with pytest.raises(LedgerError, match="'nightly' was written by a newer noisemill: upgrade"):
        Schedule.from_json(replace(make_schedule(), version=2).to_json())


def test_files_of_labels_are_found_from_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("0\n1\n")
    schedule = new_schedule(
        name="n", generator=str(TINY), destination="{run}", every="1h", now=NOW, request={"labels": "labels.txt"}
    )
    assert schedule.request["labels"] == str(tmp_path / "labels.txt")
    assert schedule.destination == f"{tmp_path}/{{run}}"
