"""The book of schedules in Redis: all schedules, their past runs, and the next run of each.

Every change is one watched transaction. If two schedulers fire the same time, or a user removes a schedule meanwhile,
one transaction comes first and the other sees its result.

    <prefix>:schedules             hash: name -> Schedule
    <prefix>:schedules:fired       hash: name -> the last due time that was fired (Unix time)
    <prefix>:schedules:runs        hash: name -> number of its last run; outlives the schedule
    <prefix>:schedules:changes     hash: name -> how often its runs were changed
    <prefix>:schedules:scheduler   the active scheduler; expires
    <prefix>:schedule:<name>:runs      hash: number -> Run
    <prefix>:schedule:<name>:skipped   list: the latest Skipped, newest first
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from redis.client import Pipeline

from pipeline.common.errors import UsageError, shown
from pipeline.common.quantities import MAX_EXACT
from pipeline.common.settings import Settings
from pipeline.jobs.connection import connect, redis_errors
from pipeline.jobs.webhooks import shown_webhook
from pipeline.schedules.schedule import MISSED_S, Run, Schedule, Skipped, UnreadableScheduleError

#: The number of ended runs and skipped times kept. Runs whose datasets `keep` manages are always kept.
_REMEMBERED = 200

#: An active scheduler that has not announced itself for this long is gone, seconds.
_SCHEDULER_TTL_S = 20

_Result = TypeVar("_Result")
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Fired:
    """The result of firing a due time: a run, or why there is none; neither if it had been fired before."""

    run: Run | None = None
    skipped: Skipped | None = None


class ScheduleBook:
    """The book behind one Redis URL. Safe to share between threads.

    Every method raises LedgerError if Redis cannot be reached or refuses a command.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect(settings.redis_url)
        self._all = f"{settings.key_prefix}:schedules"
        self._fired = f"{self._all}:fired"
        self._numbers = f"{self._all}:runs"
        self._changed = f"{self._all}:changes"
        self._active = f"{self._all}:scheduler"

    # -- schedules ---------------------------------------------------------------------------------

    def add(self, schedule: Schedule, *, replacing: bool = False) -> None:
        """Adds a schedule. Raises UsageError if its name exists, unless `replacing`."""

        def enter(pipe: Pipeline) -> None:
            if pipe.hexists(self._all, schedule.name) and not replacing:
                raise UsageError(f"there is a schedule {schedule.name!r} already: use another name, or --replace")
            pipe.multi()
            pipe.hset(self._all, schedule.name, schedule.to_json())
            pipe.hdel(self._fired, schedule.name)

        self._change(enter, self._all)

    def get(self, name: str) -> Schedule:
        """One schedule. Raises UsageError if there is none of this name."""
        with self._talk():
            text = self._redis.hget(self._all, name)
        if text is None:
            raise UsageError(self._unknown(name))
        return Schedule.from_json(str(text))

    def schedules(self, unreadable: list[str] | None = None) -> list[Schedule]:
        """All schedules, by name. An unreadable one adds a message to `unreadable`, or raises if that is None."""
        with self._talk():
            texts = self._redis.hgetall(self._all)
        found = []
        for name, text in sorted(texts.items()):
            try:
                found.append(Schedule.from_json(str(text)))
            except UnreadableScheduleError as error:
                if unreadable is None:
                    raise
                unreadable.append(f"schedule {shown(name)}: {error}")
        return found

    def pause(self, name: str) -> Schedule:
        """Pauses a schedule: nothing is fired from now on; runs in progress continue."""
        return self._edit(name, lambda schedule: replace(schedule, paused=True))

    def resume(self, name: str, now: float) -> Schedule:
        """Ends a pause. Times that were due meanwhile do not count as missed."""
        return self._edit(
            name, lambda schedule: replace(schedule, paused=False, since=now) if schedule.paused else schedule
        )

    def remove(self, name: str) -> None:
        """Deletes a schedule and its history; jobs and datasets stay. Run numbers are never used again."""

        def forget(pipe: Pipeline) -> None:
            if not pipe.hexists(self._all, name):
                raise UsageError(self._unknown(name))
            pipe.multi()
            pipe.hdel(self._all, name)
            pipe.hdel(self._fired, name)
            pipe.hdel(self._changed, name)
            pipe.delete(self._runs(name), self._skipped(name))

        self._change(forget, self._all)

    # -- runs --------------------------------------------------------------------------------------

    def fired_until(self, schedule: Schedule) -> float:
        """The last due time that was fired, or when the schedule began, if that is later. Unix time."""
        with self._talk():
            fired = self._redis.hget(self._fired, schedule.name)
        return max(schedule.since, _number(fired, float))

    def fire(self, name: str, due_at: float, now: float) -> Fired:
        """Fires a due time of a schedule: adds a run, or records why there is none.

        Each time is fired once: later calls change nothing and return an empty `Fired`.
        """

        def take_up(pipe: Pipeline) -> Fired:
            text = pipe.hget(self._all, name)
            schedule = Schedule.from_json(str(text)) if text else None
            last = _number(pipe.hget(self._fired, name), float)
            if schedule is None or schedule.paused or due_at <= max(last, schedule.since):
                return Fired()
            runs = self._read_runs(pipe, name)
            reason = _reason_to_skip(schedule, runs, due_at, now)
            number = _number(pipe.hget(self._numbers, name), int) + 1
            latest = pipe.lindex(self._skipped(name), 0)
            pipe.multi()
            pipe.hset(self._fired, name, repr(due_at))
            if reason is not None:
                return Fired(skipped=self._skip(pipe, name, latest, due_at, reason))
            return Fired(run=self._open_run(pipe, schedule, runs, number, due_at, now))

        return self._change(take_up, self._all, self._fired, self._runs(name), self._skipped(name))

    def fire_by_hand(self, name: str, now: float) -> Run:
        """Adds a manual run. Raises UsageError if there is no such schedule, or a run is in progress."""

        def take_up(pipe: Pipeline) -> Run:
            text = pipe.hget(self._all, name)
            if text is None:
                raise UsageError(self._unknown(name))
            schedule = Schedule.from_json(str(text))
            runs = self._read_runs(pipe, name)
            reason = _reason_to_skip(schedule, runs, now, now)
            if reason is not None:
                raise UsageError(f"schedule {name!r} cannot run now: {reason}")
            number = _number(pipe.hget(self._numbers, name), int) + 1
            pipe.multi()
            return self._open_run(pipe, schedule, runs, number, now, now, by_hand=True)

        return self._change(take_up, self._all, self._runs(name))

    def runs(self, name: str) -> list[Run]:
        """The recorded runs, the earliest first."""
        with self._talk():
            texts = self._redis.hvals(self._runs(name))
        return _in_order(texts)

    def last_number(self, name: str) -> int:
        """The number of its last run; 0 before the first."""
        with self._talk():
            return _number(self._redis.hget(self._numbers, name), int)

    def last_run(self, name: str) -> Run | None:
        """Its last run; None before the first."""
        number = self.last_number(name)
        with self._talk():
            text = self._redis.hget(self._runs(name), str(number))
        return None if text is None else Run.from_json(str(text))

    def changes(self) -> dict[str, str]:
        """For each schedule a value that changes with its runs, so that unchanged runs need not be read again."""
        with self._talk():
            return {str(name): str(value) for name, value in self._redis.hgetall(self._changed).items()}

    def skipped(self, name: str) -> list[Skipped]:
        """The latest skipped times, the earliest first."""
        with self._talk():
            texts = self._redis.lrange(self._skipped(name), 0, -1)
        return [Skipped.from_json(str(text)) for text in reversed(texts)]

    def update(self, name: str, number: int, **changes: Any) -> None:
        """Changes the record of a run, unless it was removed meanwhile with its schedule."""

        def write(pipe: Pipeline) -> None:
            text = pipe.hget(self._runs(name), str(number))
            pipe.multi()
            if text is not None:
                run = replace(Run.from_json(str(text)), **changes)
                pipe.hset(self._runs(name), str(number), run.to_json())
                pipe.hincrby(self._changed, name, 1)

        self._change(write, self._runs(name))

    # -- the scheduler -----------------------------------------------------------------------------

    def announce(self, scheduler: str) -> None:
        """Announces the active scheduler; to be repeated."""
        with self._talk():
            self._redis.set(self._active, scheduler, ex=_SCHEDULER_TTL_S)

    def withdraw(self) -> None:
        """Withdraws the announcement."""
        with self._talk():
            self._redis.delete(self._active)

    def scheduler(self) -> str | None:
        """The active scheduler; None if none is up."""
        with self._talk():
            found = self._redis.get(self._active)
        return None if found is None else str(found)

    def as_json(self, schedule: Schedule, last: Run | None) -> dict[str, Any]:
        """A schedule with its next and its last run, for `--json`."""
        return {
            "name": schedule.name,
            "generator": schedule.generator,
            "destination": schedule.destination,
            "cron": schedule.recurrence.cron,
            "every_s": schedule.recurrence.every_s,
            "timezone": schedule.recurrence.timezone,
            "next_run_at": schedule.next_run(time.time()),
            "request": dict(schedule.request),
            "priority": schedule.priority,
            "parallel": schedule.parallel,
            "webhook": shown_webhook(schedule.webhook) if schedule.webhook else None,
            "keep": schedule.keep,
            "overlap": schedule.overlap,
            "catch_up": schedule.catch_up,
            "paused": schedule.paused,
            "added_at": schedule.added_at,
            "last_run": last.as_json() if last else None,
            "scheduler": self.scheduler(),
        }

    # -- inside ------------------------------------------------------------------------------------

    def _open_run(
        self,
        pipe: Pipeline,
        schedule: Schedule,
        runs: list[Run],
        number: int,
        due_at: float,
        now: float,
        *,
        by_hand: bool = False,
    ) -> Run:
        error = None
        try:
            destination = schedule.destination_of(number, due_at)
            if destination in {run.destination for run in runs}:
                destination += f"-{number:06d}"
        except UsageError as problem:
            destination, error = schedule.destination, str(problem)
        run = Run(
            number=number,
            due_at=due_at,
            fired_at=now,
            by_hand=by_hand,
            destination=destination,
            seed=schedule.seed_of(number),
            state="failed" if error else "waiting",
            error=error,
            ended_at=now if error else None,
            keep_template=schedule.destination if schedule.keep is not None else None,
        )
        pipe.hset(self._numbers, schedule.name, str(number))
        pipe.hset(self._runs(schedule.name), str(number), run.to_json())
        pipe.hincrby(self._changed, schedule.name, 1)
        for old in _to_forget(schedule, runs):
            pipe.hdel(self._runs(schedule.name), str(old.number))
        return run

    def _skip(self, pipe: Pipeline, name: str, latest: str | bytes | None, due_at: float, reason: str) -> Skipped:
        """Records a skipped time, merged with those before it that were skipped for the same reason."""
        skipped = Skipped(due_at=due_at, until=due_at, times=1, reason=reason)
        before = Skipped.from_json(str(latest)) if latest else None
        if before is not None and before.reason == reason:
            skipped = replace(before, until=due_at, times=before.times + 1)
            pipe.lpop(self._skipped(name))
        pipe.lpush(self._skipped(name), skipped.to_json())
        pipe.ltrim(self._skipped(name), 0, _REMEMBERED - 1)
        return skipped

    def _read_runs(self, pipe: Pipeline, name: str) -> list[Run]:
        return _in_order(pipe.hvals(self._runs(name)))

    def _edit(self, name: str, change: Callable[[Schedule], Schedule]) -> Schedule:
        def edit(pipe: Pipeline) -> Schedule:
            text = pipe.hget(self._all, name)
            if text is None:
                raise UsageError(self._unknown(name))
            changed = change(Schedule.from_json(str(text)))
            pipe.multi()
            pipe.hset(self._all, name, changed.to_json())
            return changed

        return self._change(edit, self._all)

    def _change(self, function: Callable[[Pipeline], _Result], *watched: str) -> _Result:
        """Runs a transaction; repeats it if a watched key was changed meanwhile."""
        with self._talk():
            return cast(_Result, self._redis.transaction(cast(Any, function), *watched, value_from_callable=True))

    def _unknown(self, name: str) -> str:
        with self._talk():
            names = [str(known) for known in self._redis.hkeys(self._all)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see 'noisemill schedule list'"
        return f"there is no schedule {name!r}: {hint}"

    def _runs(self, name: str) -> str:
        return f"{self.settings.key_prefix}:schedule:{name}:runs"

    def _skipped(self, name: str) -> str:
        return f"{self.settings.key_prefix}:schedule:{name}:skipped"

    @contextmanager
    def _talk(self) -> Iterator[None]:
        with redis_errors(self.settings.redis_url):
            yield


def _reason_to_skip(schedule: Schedule, runs: list[Run], due_at: float, now: float) -> str | None:
    if schedule.catch_up == "none" and now - due_at > MISSED_S:
        return "no scheduler was up in time"
    going = [run for run in runs if run.going]
    if not going:
        return None
    if schedule.overlap == "skip":
        return f"run {going[0].number} is still in progress"
    return f"run {going[-1].number} is waiting already" if len(going) > 1 else None


def _to_forget(schedule: Schedule, runs: list[Run]) -> list[Run]:
    """Old runs to delete from the record: not those in progress, nor those whose datasets `keep` manages."""
    over = [run for run in runs if not run.going and not (run.state == "done" and schedule.may_remove(run))]
    return over[:-_REMEMBERED]


def _number(text: str | bytes | None, kind: type[_Number]) -> _Number:
    """A stored number of a schedule, 0 if there is none. Raises UnreadableScheduleError if it is malformed."""
    try:
        number = kind(text or 0)
        if 0 <= number < MAX_EXACT:
            return number
    except ValueError:
        pass
    raise UnreadableScheduleError(f"a number of a schedule in Redis is malformed: {shown(str(text))}")


def _in_order(texts: list[Any]) -> list[Run]:
    return sorted((Run.from_json(text) for text in texts), key=lambda run: run.number)
