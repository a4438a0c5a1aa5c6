"""When a schedule is due: by a cron line such as `0 2 * * *` in a time zone, or at an interval.

Celery's crontab does the arithmetic, as its users expect. All times are Unix times in seconds.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from celery.schedules import crontab

from pipeline.common.errors import UsageError, shown

#: Bounds of `--every`, seconds.
LEAST_EVERY_S, MOST_EVERY_S = 1, 366 * 86400

#: A cron line that is not due within this time never is, seconds: 29 February is a Monday every 28 years.
_HORIZON_S = 30 * 366 * 86400

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]

#: (field of a cron line, its least and greatest number, its names)
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of the month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """The times at which something is due, defined by either `cron` or `every_s`."""

    #: Minute, hour, day of the month, month, day of the week; all must match. None with `every_s`.
    cron: str | None = None
    #: Interval in seconds, counted from `start`.
    every_s: int | None = None
    #: Name of the time zone of `cron`.
    timezone: str = "UTC"
    #: Start of `every_s`; whole seconds, so that a due time is the same number however it is computed.
    start: float = 0.0

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone."""
        return zoneinfo.ZoneInfo(self.timezone)

    def next_after(self, moment: float) -> float:
        """The first due time after `moment`.

        A local time that does not exist (when summer time begins) is moved an hour later; one that exists twice counts
        the first time only.
        """
        if self.every_s is not None:
            return self.start + ((moment - self.start) // self.every_s + 1) * self.every_s
        local = datetime.fromtimestamp(moment, UTC).astimezone(self.zone)
        self._crontab.moment = local
        # Whole minutes, so that equal times are equal numbers.
        return 60.0 * round((moment + self._crontab.remaining_estimate(local).total_seconds()) / 60)

    def last_due(self, since: float, now: float) -> float | None:
        """The last due time after `since` and up to `now`; None if there is none."""
        due = self.next_after(since)
        if due > now:
            return None
        # Starts close to `now` and goes back further, since a schedule of every minute may have been down for weeks.
        back = 60.0
        while back < now - since:
            if (found := self.next_after(now - back)) <= now:
                due = found
                break
            back *= 2
        while (later := self.next_after(due)) <= now:
            due = later
        return due

    def __str__(self) -> str:
        """`0 2 * * * Europe/Berlin`, or `every 6h`."""
        if self.every_s is None:
            return f"{self.cron} {self.timezone}"
        unit = max((unit for unit in ("s", "m", "h", "d", "w") if self.every_s % _UNITS[unit] == 0), key=_UNITS.get)  # type: ignore[arg-type]
        return f"every {self.every_s // _UNITS[unit]}{unit}"

    @cached_property
    def _crontab(self) -> _ZonedCrontab:
        minute, hour, day, month, weekday = (self.cron or "").split(" ")
        return _ZonedCrontab(minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday)


class _ZonedCrontab(crontab):
    """Celery's crontab without an application. It computes the time left from now, which is set here."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment

    @property
    def tz(self) -> Any:
        return self.moment.tzinfo


def parse_recurrence(cron: str | None, every: str | None, timezone: str | None, now: float) -> Recurrence:
    """Parses `--cron` or `--every`, and `--timezone`. Raises UsageError."""
    if (cron is None) == (every is None):
        raise UsageError('how often? give either --cron, for example --cron "0 2 * * *", or --every, for example 6h')
    zone = _parse_zone(timezone)
    if every is not None:
        return Recurrence(every_s=_parse_every(every), timezone=zone, start=float(int(now)))
    recurrence = Recurrence(cron=_parse_cron(cron or ""), timezone=zone)
    try:
        if recurrence.next_after(now) - now < _HORIZON_S:
            return recurrence
    except (ValueError, RuntimeError):  # For example the 30th of February.
        pass
    raise UsageError(f"cron {shown(cron)} never comes: no such month has that day")


def _parse_every(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})\s*(s|min|m|h|d|w)", text.strip().lower())
    if not match:
        raise UsageError(f"every {shown(text)} is not a length of time: use for example 90s, 15m, 6h, 1d or 2w")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not LEAST_EVERY_S <= seconds <= MOST_EVERY_S:
        raise UsageError(f"every {shown(text)} must be from {LEAST_EVERY_S} s to {MOST_EVERY_S // 86400} days")
    return seconds


def _parse_cron(text: str) -> str:
    """A cron line with single spaces. Raises UsageError that names the invalid field."""
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        raise UsageError(
            f"cron {shown(text)} has {len(parts)} fields, not five: minute, hour, day of the month, month, "
            'day of the week, for example "0 2 * * *"'
        )
    for part, (name, least, most, names) in zip(parts, _FIELDS, strict=True):
        if not all(_is_cron_item(item, least, most, names) for item in part.split(",")):
            or_names = f" or {names[0]} to {names[-1]}" if names else ""
            raise UsageError(
                f"cron {shown(text)}: {part!r} is not a valid {name}: use numbers from {least} to {most}{or_names}, "
                "as *, */5, 1,15, 1-5 or 1-5/2"
            )
    return " ".join(parts)


def _is_cron_item(item: str, least: int, most: int, names: list[str]) -> bool:
    """Whether it is `*`, `*/2`, `3`, `1-5` or `1-5/2`. Celery ignores trailing text and names of other fields."""
    value = "|".join(["[0-9]{1,2}", *names])
    match = re.fullmatch(rf"(?:\*|({value})(?:-({value}))?)(?:/([0-9]{{1,2}}))?", item)
    if match is None:
        return False
    first, last, step = match.groups()
    numbers = [int(number) for number in (first, last) if number and number.isdecimal()]
    single = first is not None and last is None
    return all(least <= number <= most for number in numbers) and (step is None or (int(step) > 0 and not single))


def _parse_zone(name: str | None) -> str:
    if name is None:
        return "UTC"
    known = zoneinfo.available_timezones()
    if name in known:
        return name
    by_lower = {zone.lower(): zone for zone in known}
    by_city = {zone.rpartition("/")[2].lower(): zone for zone in sorted(known)}
    near = by_lower.get(name.lower()) or by_city.get(name.lower())
    near = near or next((by_lower[zone] for zone in difflib.get_close_matches(name.lower(), by_lower, n=1)), None)
    hint = f"did you mean {near}?" if near else "use one such as Europe/Berlin or UTC"
    raise UsageError(f"time zone {shown(name)} is unknown: {hint}")
