"""A schedule: a job that is asked for again and again, each time with other samples at another place.

Run r of a schedule uses the seed after that of run r - 1. Streams of different seeds share nothing
(`pipeline.latents`), so no run repeats a sample of another before seeds come round, after 2**32 runs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.counts import MAX_SEED
from pipeline.errors import LedgerError, UsageError, shown
from pipeline.generators import find_generator
from pipeline.recurrence import Recurrence, parse_recurrence
from pipeline.request import JobRequest
from pipeline.stores import normalise

#: Version of what is kept of a schedule; a reader refuses a newer one.
SCHEDULE_VERSION = 1

#: States in which a run stands in the way of the next.
GOING_STATES = ("waiting", "queued", "running")

#: Most datasets that `--keep` can name.
MOST_KEPT = 100_000

#: A run that is later than this counts as missed, seconds.
MISSED_S = 60.0

_PLACEHOLDERS = ("date", "time", "run")

#: How many runs ahead a template is tried, to see whether their destinations differ.
_TRIED = 1000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is asked for, when, and where it goes."""

    version: int = SCHEDULE_VERSION
    name: str
    #: Generator reference; what it is, each run finds out anew.
    generator: str
    #: Where runs go: a normalised destination with {date}, {time} or {run} in it.
    destination: str
    recurrence: Recurrence
    #: Options of `JobRequest`, with the seed of run 1.
    request: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 5
    #: Most workers that share a run; 0 leaves it open.
    parallel: int = 0
    #: URL that hears of the end of each run (`pipeline.hooks`).
    webhook: str | None = None
    #: How many verified datasets stay; None for all.
    keep: int | None = None
    #: What becomes of a run that is due while another is going: not made, or made after it (one waits at most).
    overlap: Literal["skip", "queue"] = "skip"
    #: What becomes of runs that no scheduler was up for: the latest is made, or none.
    catch_up: Literal["one", "none"] = "one"
    paused: bool = False
    #: Unix time.
    added_at: float
    #: Moments up to this one are over: when it was added, or resumed. Unix time.
    since: float

    @property
    def seed(self) -> int:
        """Seed of run 1."""
        return int(self.request.get("seed", 0))

    def seed_of(self, run: int) -> int:
        """Seed of a run, from 1."""
        return (self.seed + run - 1) % (MAX_SEED + 1)

    def destination_of(self, run: int, due_at: float) -> str:
        """Where a run goes. Raises UsageError where that is not below the template's fixed part any more."""
        moment = datetime.fromtimestamp(due_at, UTC).astimezone(self.recurrence.zone)
        values = {"date": f"{moment:%Y-%m-%d}", "time": f"{moment:%H%M%S}", "run": f"{run:06d}"}
        place = normalise(self.destination.format_map(values))
        root = self.destination.partition("{")[0].rpartition("/")[0]
        if not place.startswith(f"{root}/"):
            raise UsageError(f"{place} is not below {root}, as the schedule's template is")
        return place

    def next_run(self, now: float) -> float | None:
        """When it is due next; None while it is paused. Unix time."""
        return None if self.paused else self.recurrence.next_after(now)

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule that `to_json` wrote. Raises LedgerError where it is malformed, or of a newer noisemill."""
        try:
            data = json.loads(text)
            if data["version"] > SCHEDULE_VERSION:
                raise LedgerError(f"schedule {data['name']!r} was written by a newer noisemill: upgrade")
            schedule = cls(**{**data, "recurrence": Recurrence(**data["recurrence"])})
            _check_record(schedule)
            schedule.recurrence.next_after(schedule.since)
            if not isinstance(schedule.request.get("seed", 0), int) or not all(map(str.isidentifier, schedule.request)):
                raise ValueError("the request")
            return schedule
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
            raise LedgerError(f"Redis holds a schedule that is malformed: {shown(text)}") from error


@dataclass(frozen=True, kw_only=True)
class Run:
    """One time that a schedule was carried out."""

    #: From 1; never used twice under one name.
    number: int
    #: When it was due, and when it was taken up. Unix times.
    due_at: float
    fired_at: float
    #: Whether a person asked for it.
    by_hand: bool = False
    destination: str
    seed: int
    #: waiting (no job yet), queued, running, done, failed or cancelled; removed when `--keep` deleted it.
    state: str = "waiting"
    #: Whether its destination was found free of other jobs.
    placed: bool = False
    #: Id and spec of its job; None before there is one.
    job: str | None = None
    spec_sha256: str | None = None
    #: Samples that it has made, or found made.
    samples: int = 0
    #: Why it failed, or what it waits for.
    error: str | None = None
    #: Unix time.
    ended_at: float | None = None
    #: Whether every hash was right when it was done; None where that was not looked at.
    verified: bool | None = None

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state in GOING_STATES

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The run that `to_json` wrote. Raises LedgerError where it is malformed."""
        try:
            run = cls(**json.loads(text))
            _check_record(run)
            return run
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LedgerError(f"Redis holds a run of a schedule that is malformed: {shown(text)}") from error


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Times, one after the other, at which a schedule was due and nothing was made."""

    #: The first and the last of them, Unix times.
    due_at: float
    until: float
    times: int
    reason: str

    @classmethod
    def from_json(cls, text: str) -> Skipped:
        """What was written with `asdict`. Raises LedgerError where it is malformed."""
        try:
            skipped = cls(**json.loads(text))
            _check_record(skipped)
            return skipped
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LedgerError(f"Redis holds a skipped moment that is malformed: {shown(text)}") from error


#: What the fields of records in Redis can be; whoever can write there can put anything.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str) and value.isprintable() and len(value) < 5000,
    "str | None": lambda value: value is None or (_CHECKS["str"](value.replace("\n", " "))),
    "int": lambda value: type(value) is int and 0 <= value < 2**53,
    "int | None": lambda value: value is None or (type(value) is int and 0 < value < 2**53),
    "float": lambda value: type(value) in (int, float) and 0 <= value < _LATEST,
    "float | None": lambda value: value is None or (type(value) in (int, float) and 0 <= value < _LATEST),
    "bool": lambda value: type(value) is bool,
    "bool | None": lambda value: value is None or type(value) is bool,
    "Recurrence": lambda value: isinstance(value, Recurrence) and _check_record(value),
    "Mapping[str, Any]": lambda value: isinstance(value, dict),
    "Literal['skip', 'queue']": lambda value: value in ("skip", "queue"),
    "Literal['one', 'none']": lambda value: value in ("one", "none"),
}

#: The year 9000; Unix time.
_LATEST = 2.2e11


def _check_record(record: Any) -> bool:
    """Raises ValueError for a field that cannot be; else answers True."""
    for each in fields(record):
        if not _CHECKS[str(each.type)](getattr(record, each.name)):
            raise ValueError(f"{each.name} cannot be")
    return True


def new_schedule(
    *,
    name: str,
    generator: str,
    destination: str,
    request: Mapping[str, Any],
    cron: str | None = None,
    every: str | None = None,
    timezone: str | None = None,
    now: float,
    **options: Any,
) -> Schedule:
    """A schedule that has been checked as far as it can be before its first run.

    `request` holds the options of `JobRequest`, the others are `Schedule`'s. Raises UsageError for what cannot be
    used, in the schedule or in the job.
    """
    check_name(name)
    recurrence = parse_recurrence(cron, every, timezone, now)
    place = check_template(destination, recurrence, now)
    chosen = {option: value for option, value in request.items() if value is not None}
    if "latents" in chosen:
        raise UsageError("--latents would make each run the same samples: give --seed, which runs count up from")
    found = find_generator(generator)
    JobRequest(**chosen).resolve(found)
    if os.path.isfile(str(chosen.get("labels", ""))):
        # Runs are asked for elsewhere, from another folder.
        chosen["labels"] = str(Path(chosen["labels"]).resolve())
    return Schedule(
        name=name,
        generator=found.reference,
        destination=place,
        recurrence=recurrence,
        request=chosen,
        added_at=now,
        since=now,
        **options,
    )


def check_name(name: str) -> str:
    """The name of a schedule. Raises UsageError unless it is short and plain."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f"name {shown(name)} cannot be used: use up to 64 letters, digits, '.', '_' and '-', no sign first"
        )
    return name


def check_template(template: str, recurrence: Recurrence, now: float) -> str:
    """The normalised form of a destination with placeholders.

    Raises UsageError for an unknown placeholder, `..`, or where two runs would go to the same place.
    """
    found = re.findall(r"\{([^{}]*)\}", template)
    unknown = [name for name in found if name not in _PLACEHOLDERS]
    if unknown or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", template)):
        raise UsageError(
            f"destination {shown(template)} has {shown('{' + unknown[0] + '}') if unknown else 'a brace alone'}: "
            "known are {date}, {time} and {run}"
        )
    if ".." in template.split("/"):
        raise UsageError(f"destination {shown(template)} has '..' in it: write where the runs go without it")
    place = normalise(template)
    if place.count("{") != template.count("{"):
        raise UsageError(f"destination {shown(template)}: placeholders stand in the names of folders alone")
    _check_distinct(place, recurrence, now)
    return place


def _check_distinct(place: str, recurrence: Recurrence, now: float) -> None:
    if "{run}" in place:
        return
    probe = Schedule(name="probe", generator="", destination=place, recurrence=recurrence, added_at=now, since=now)
    seen: set[str] = set()
    moment = now
    for _ in range(_TRIED):
        moment = recurrence.next_after(moment)
        destination = probe.destination_of(1, moment)
        if destination in seen:
            raise UsageError(f"runs of this schedule would go to {destination} more than once: put {{run}} into it")
        seen.add(destination)
