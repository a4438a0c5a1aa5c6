"""When a schedule is due: cron lines in time zones with summer time, lengths of time, and all that is neither."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import UsageError
from pipeline.schedules.recurrence import Recurrence, parse_recurrence

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 18, 30, 20, tzinfo=UTC).timestamp()


def moments(recurrence: Recurrence, start: datetime, count: int) -> list[str]:
    """The next moments, as the zone's clock shows them, with its offset."""
    found, moment = [], start.timestamp()
    for _ in range(count):
        moment = recurrence.next_after(moment)
        found.append(f"{datetime.fromtimestamp(moment, recurrence.zone):%d %H:%M%z}")
    return found


def test_a_cron_goes_by_the_clock_of_its_zone() -> None:
    utc, berlin = (parse_recurrence("0 2 * * *", None, zone, NOW) for zone in (None, "Europe/Berlin"))
    assert utc.next_after(NOW) == datetime(2026, 11, 24, 2, tzinfo=UTC).timestamp()
    assert berlin.next_after(NOW) == datetime(2026, 11, 24, 2, tzinfo=BERLIN).timestamp()
    assert (str(utc), str(berlin)) == ("0 2 * * * UTC", "0 2 * * * Europe/Berlin")


def test_day_and_weekday_must_both_hold() -> None:
    first_monday = parse_recurrence("0 2 1-7 * mon", None, None, NOW)
    assert moments(first_monday, datetime(2026, 11, 23, tzinfo=UTC), 2) == ["07 02:00+0000", "04 02:00+0000"]


def test_a_time_that_the_day_leaves_out_comes_an_hour_later() -> None:
    nightly = parse_recurrence("30 2 * * *", None, "Europe/Berlin", NOW)
    days = moments(nightly, datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2)
    assert days == ["29 03:30+0200", "30 02:30+0200"]
    often = parse_recurrence("*/30 * * * *", None, "Europe/Berlin", NOW)
    nights = moments(often, datetime(2026, 3, 29, 1, tzinfo=BERLIN), 3)
    assert nights == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]


def test_a_time_that_the_day_has_twice_comes_the_first_time_alone() -> None:
    nightly = parse_recurrence("30 2 * * *", None, "Europe/Berlin", NOW)
    days = moments(nightly, datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2)
    assert days == ["25 02:30+0200", "26 02:30+0100"]
    often = parse_recurrence("*/30 * * * *", None, "Europe/Berlin", NOW)
    nights = moments(often, datetime(2026, 10, 25, 1, 45, tzinfo=BERLIN), 4)
    assert nights == ["25 02:00+0200", "25 02:30+0200", "25 03:00+0100", "25 03:30+0100"]


@pytest.mark.parametrize(
    ("text", "seconds", "told"),
    [("2s", 2, "every 2s"), ("90s", 90, "every 90s"), ("15min", 900, "every 15m"), ("6H", 21600, "every 6h"),
     ("48h", 172800, "every 2d"), ("2w", 1209600, "every 2w")],
)  # fmt: skip
def test_lengths_of_time(text: str, seconds: int, told: str) -> None:
    recurrence = parse_recurrence(None, text, None, NOW + 0.7)
    assert recurrence.next_after(NOW + 0.7) == NOW + seconds
    assert recurrence.next_after(NOW + seconds) == NOW + 2 * seconds
    assert str(recurrence) == told


@given(st.integers(1, 10**7), st.floats(0, 10**8))
def test_moments_of_a_length_grow_and_do_not_drift(every_s: int, later: float) -> None:
    recurrence = Recurrence(every_s=every_s, start=1_764_000_000.0)
    moment = recurrence.next_after(recurrence.start + later)
    assert 0 < moment - (recurrence.start + later) <= every_s
    assert (moment - recurrence.start) % every_s == 0
    assert recurrence.next_after(moment) == moment + every_s


@pytest.mark.parametrize("recurrence", [Recurrence(cron="*/5 * * * *"), Recurrence(every_s=300, start=0.0)])
@pytest.mark.parametrize("down", [1, 301, 86_400, 90 * 86_400])
def test_the_last_moment_that_is_due(recurrence: Recurrence, down: int) -> None:
    now = NOW + 100
    last = now // 300 * 300
    assert recurrence.last_due(now - down, now) == (last if last > now - down else None)


def test_of_a_yearly_cron_the_last_moment_is_found_too() -> None:
    yearly = parse_recurrence("0 2 29 2 *", None, None, NOW)
    leap = datetime(2024, 2, 29, 2, tzinfo=UTC).timestamp()
    assert yearly.last_due(leap - 400 * 86_400, NOW) == leap
    assert yearly.last_due(leap, NOW) is None


BAD_CRONS = {
    "": "has 0 fields, not five",
    "* * * *": "has 4 fields, not five",
    "* * * * * *": "has 6 fields, not five",
    "@daily": "has 1 fields, not five",
    "60 * * * *": "'60' is not a valid minute: use numbers from 0 to 59",
    "* 24 * * *": "'24' is not a valid hour",
    "* * 0 * *": "'0' is not a valid day of the month",
    "* * 32 * *": "'32' is not a valid day of the month",
    "* * * 13 *": "'13' is not a valid month: use numbers from 1 to 12 or jan to dec",
    "* * * * 7": "'7' is not a valid day of the week: use numbers from 0 to 6 or sun to sat",
    "* * * * jan": "'jan' is not a valid day of the week",
    "mon * * * *": "'mon' is not a valid minute",
    "-1 * * * *": "'-1' is not a valid minute",
    "*/0 * * * *": "'*/0' is not a valid minute",
    "5/15 * * * *": "'5/15' is not a valid minute",
    "1-5-9 * * * *": "'1-5-9' is not a valid minute",
    "1,,2 * * * *": "'1,,2' is not a valid minute",
    "1.5 * * * *": "is not a valid minute",
    "\u00b2 * * * *": "is not a valid minute",
    "0 2 30 2 *": "never comes: no such month has that day",
    "0 2 31 4,6,9,11 *": "never comes",
}


@pytest.mark.parametrize("line", BAD_CRONS)
def test_a_cron_that_is_none(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recurrence(line, None, None, NOW)
    assert BAD_CRONS[line] in str(caught.value)


@pytest.mark.parametrize("line", ["0 2 29 2 *", "0 2 29 2 mon", "0 0 31 1,2 *", "0 22-2/2 * * fri-mon"])
def test_a_cron_that_is_rare_or_odd(line: str) -> None:
    assert parse_recurrence(line, None, None, NOW).next_after(NOW) - NOW < timedelta(days=30 * 366).total_seconds()


@pytest.mark.parametrize(
    "text", ["0s", "0h", "-1h", "1.5h", "6", "h", "six hours", "", "367d", "9999999999s", "\u00b2s"]
)
def test_a_length_of_time_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^every "):
        parse_recurrence(None, text, None, NOW)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("europe/berlin", "did you mean Europe/Berlin"), ("Berlin", "did you mean Europe/Berlin"),
     ("Europe/Berln", "did you mean Europe/Berlin"), ("Mars", "use one such as"), ("", "use one such as"),
     ("../UTC", "time zone '../UTC' is unknown"), ("/etc/passwd", "use one such as"), ("+02:00", "is unknown")],
)  # fmt: skip
def test_a_time_zone_that_is_none(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="time zone") as caught:
        parse_recurrence("0 2 * * *", None, name, NOW)
    assert hint in str(caught.value)


@pytest.mark.parametrize(("cron", "every"), [(None, None), ("0 2 * * *", "6h")])
def test_one_way_to_say_how_often(cron: str | None, every: str | None) -> None:
    with pytest.raises(UsageError, match=r"either --cron.* or --every"):
        parse_recurrence(cron, every, None, NOW)
