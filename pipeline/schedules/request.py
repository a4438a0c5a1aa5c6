"""Turns the user's options into a `Schedule`, checked as far as possible before its first run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.errors import UsageError, shown
from pipeline.generators import find_generator, find_judge
from pipeline.jobs.request import JobRequest
from pipeline.schedules.recurrence import Recurrence, parse_recurrence
from pipeline.schedules.schedule import Schedule
from pipeline.stores import normalise

_PLACEHOLDERS = ("date", "time", "run")

#: The number of runs for which a template's destinations are checked to differ.
_TRIED = 1000


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
    """The schedule with these options.

    `request` has the options of `JobRequest`, the others are those of `Schedule`. Raises UsageError for invalid options
    of the schedule or the job.
    """
    check_name(name)
    recurrence = parse_recurrence(cron, every, timezone, now)
    place = check_template(destination, recurrence, now)
    chosen = {option: value for option, value in request.items() if value not in (None, {})}
    if "latents" in chosen:
        raise UsageError("--latents would make each run the same samples: give --seed, which runs count up from")
    found = find_generator(generator)
    JobRequest(**chosen).resolve(found)
    for option in ("labels", "attributes"):
        if os.path.isfile(str(chosen.get(option, ""))):
            # Runs are submitted by the scheduler, from another folder.
            chosen[option] = str(Path(chosen[option]).resolve())
    if "judge" in chosen:
        chosen["judge"] = find_judge(chosen["judge"]).reference
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
    """The normalized form of a destination with placeholders.

    Raises UsageError for an unknown placeholder, `..`, or if two runs would have the same destination.
    """
    found = re.findall(r"\{([^{}]*)\}", template)
    unknown = [name for name in found if name not in _PLACEHOLDERS]
    if unknown or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", template)):
        raise UsageError(
            f"destination {shown(template)} has {shown('{' + unknown[0] + '}') if unknown else 'a brace alone'}: "
            "known are {date}, {time} and {run}"
        )
    if ".." in template.split("/"):
        raise UsageError(f"destination {shown(template)} has '..' in it: write the path without it")
    place = normalise(template)
    if place.count("{") != template.count("{"):
        raise UsageError(f"destination {shown(template)}: placeholders can be used in the names of folders only")
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
            raise UsageError(
                f"runs of this schedule would be stored at {destination} more than once: add {{run}} to it"
            )
        seen.add(destination)
