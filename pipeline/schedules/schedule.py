"""A schedule submits a job again and again, each time with other samples and another destination.

Run r of a schedule uses the seed after that of run r - 1. Streams of different seeds share nothing
(`pipeline.spec.latents`), so no run repeats a sample of another before seeds wrap around, after 2**32 runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline.common.errors import LedgerError, UsageError, shown
from pipeline.common.quantities import MAX_EXACT, MAX_SEED
from pipeline.common.text import is_one_line
from pipeline.schedules.recurrence import Recurrence
from pipeline.stores import normalise

#: Version of a stored schedule; a reader refuses a newer one.
SCHEDULE_VERSION = 1

#: States in which a run blocks the next.
GOING_STATES = ("waiting", "queued", "running")

#: A run that is later than this counts as missed, seconds.
MISSED_S = 60.0


class UnreadableScheduleError(LedgerError):
    """A schedule's record in Redis is malformed, or was written by a newer noisemill."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What to make, when, and where to store it."""

    version: int = SCHEDULE_VERSION
    name: str
    #: Generator reference, resolved again for each run.
    generator: str
    #: Destination of runs: normalized, with {date}, {time} or {run} in it.
    destination: str
    recurrence: Recurrence
    #: Options of `JobRequest`, with the seed of run 1.
    request: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 5
    #: Most workers that share a run; 0 means no limit.
    parallel: int = 0
    #: URL that is called at the end of each run (`pipeline.jobs.webhooks`).
    webhook: str | None = None
    #: The number of verified datasets to keep; None for all.
    keep: int | None = None
    #: A run that is due while another is in progress: skip it, or make it afterwards (at most one waits).
    overlap: Literal["skip", "queue"] = "skip"
    #: Runs that were due while no scheduler was up: make the latest, or none.
    catch_up: Literal["one", "none"] = "one"
    paused: bool = False
    #: Unix time.
    added_at: float
    #: Due times up to this one do not count: when it was added or resumed. Unix time.
    since: float

    @property
    def seed(self) -> int:
        """Seed of run 1."""
        return int(self.request.get("seed", 0))

    def seed_of(self, run: int) -> int:
        """Seed of a run, from 1."""
        return (self.seed + run - 1) % (MAX_SEED + 1)

    def destination_of(self, run: int, due_at: float) -> str:
        """Destination of a run. Raises UsageError if it is not below the fixed part of the template."""
        moment = datetime.fromtimestamp(due_at, UTC).astimezone(self.recurrence.zone)
        values = {"date": f"{moment:%Y-%m-%d}", "time": f"{moment:%H%M%S}", "run": f"{run:06d}"}
        place = normalise(self.destination.format_map(values))
        root = self.destination.partition("{")[0].rpartition("/")[0]
        if not place.startswith(f"{root}/"):
            raise UsageError(f"{place} is not below {root}, as the schedule's template is")
        return place

    def may_remove(self, run: Run) -> bool:
        """Whether `--keep` may remove this run's dataset.

        Only if the run was made under `--keep` and the current template: the datasets of a schedule that this one
        replaced stay, unless that schedule would have removed them as well.
        """
        return self.keep is not None and run.keep_template == self.destination

    def surplus(self, runs: Sequence[Run]) -> list[Run]:
        """Finished runs beyond `keep`, the earliest first, leaving out those known to be damaged."""
        sound = [run for run in runs if self.may_remove(run) and run.state == "done" and run.verified is not False]
        return sound[: -self.keep] if self.keep is not None else []

    def next_run(self, now: float) -> float | None:
        """When it is due next; None while it is paused. Unix time."""
        return None if self.paused else self.recurrence.next_after(now)

    def to_json(self) -> str:
        """JSON for `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule that `to_json` wrote. Raises UnreadableScheduleError."""
        with _validating("a schedule", text):
            data = json.loads(text)
            if data["version"] > SCHEDULE_VERSION:
                raise UnreadableScheduleError(f"schedule {data['name']!r} was written by a newer noisemill: upgrade")
            schedule = cls(**{**data, "recurrence": Recurrence(**data["recurrence"])})
            _check_record(schedule)
            schedule.recurrence.next_after(schedule.since)
            if not isinstance(schedule.request.get("seed", 0), int) or not all(map(str.isidentifier, schedule.request)):
                raise ValueError("the request")
            return schedule


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a schedule."""

    #: From 1; never used twice under one name.
    number: int
    #: When it was due, and when it was fired. Unix times.
    due_at: float
    fired_at: float
    #: Whether the user started it by hand.
    by_hand: bool = False
    destination: str
    seed: int
    #: waiting (no job yet), queued, running, done, failed or cancelled; removed when `--keep` deleted it.
    state: str = "waiting"
    #: Whether its destination was checked to be free of other jobs.
    placed: bool = False
    #: Id and spec of its job; None before there is one.
    job: str | None = None
    spec_sha256: str | None = None
    #: Samples made or found at its destination.
    samples: int = 0
    #: Why it failed or waits.
    error: str | None = None
    #: Unix time.
    ended_at: float | None = None
    #: Whether every hash was right when it was done; None if not verified.
    verified: bool | None = None
    #: The schedule's template if it was made under `--keep`, else None: then no schedule ever removes its dataset.
    keep_template: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`, without the steward's own fields."""
        private = ("placed", "spec_sha256", "keep_template")
        return {name: value for name, value in asdict(self).items() if name not in private}

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state in GOING_STATES

    def to_json(self) -> str:
        """JSON for `from_json`."""
        # Written only if needed: an older scheduler refuses an unknown field.
        private = () if self.keep_template is not None else ("keep_template",)
        return json.dumps({name: value for name, value in asdict(self).items() if name not in private}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The run that `to_json` wrote. Raises UnreadableScheduleError."""
        with _validating("a run of a schedule", text):
            run = cls(**json.loads(text))
            _check_record(run)
            return run


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Consecutive due times at which a schedule made nothing."""

    #: The first and the last of them, Unix times.
    due_at: float
    until: float
    times: int
    reason: str

    def to_json(self) -> str:
        """JSON for `from_json`."""
        return json.dumps(asdict(self))

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Skipped:
        """The skipped times that `to_json` wrote. Raises UnreadableScheduleError."""
        with _validating("a skipped moment", text):
            skipped = cls(**json.loads(text))
            _check_record(skipped)
            return skipped


@contextmanager
def _validating(what: str, text: str) -> Iterator[None]:
    """Turns any error while reading a record from Redis into UnreadableScheduleError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise UnreadableScheduleError(f"{what} in Redis is malformed: {shown(text)}") from error


#: Type of a field -> whether a value is valid. Records in Redis are untrusted input.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str) and is_one_line(value) and len(value) < 5000,
    "str | None": lambda value: value is None or (_CHECKS["str"](value.replace("\n", " "))),
    "int": lambda value: type(value) is int and 0 <= value < MAX_EXACT,
    "int | None": lambda value: value is None or (type(value) is int and 0 < value < MAX_EXACT),
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
    """Raises ValueError for an invalid field; else returns True."""
    for each in fields(record):
        if not _CHECKS[str(each.type)](getattr(record, each.name)):
            raise ValueError(f"{each.name} is invalid")
    return True
