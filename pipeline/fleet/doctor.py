"""The checks of `doctor`. Each returns ok, warning or problem, and what to do.

Every check takes well under a second if all is well, and none waits for a Redis that another check could not reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from shlex import quote
from typing import Any

from pipeline.common.errors import LedgerError, NoisemillError, WorkerError, one_line
from pipeline.common.formatting import size
from pipeline.common.limits import memory_limit, usable_cores, usable_memory, visible_cores
from pipeline.common.settings import Settings
from pipeline.common.version import VERSION
from pipeline.generators import builtin_names, find_generator, find_judge, judge_names
from pipeline.stores import open_store

#: Largest difference between clocks without a warning, seconds. Leases use only Redis's clock; logs do not.
_REDIS_SKEW_S = 5.0
#: The same for S3, which reports whole seconds, and refuses requests that are 15 minutes off.
_S3_SKEW_S = 60.0
#: A disk with less free space is nearly full.
_LEAST_FREE_BYTES = 2 * 10**9
_LEAST_FREE_SHARE = 0.03
_LEAST_FREE_FILES = 100_000
#: A run that was due longer ago than this and was not fired is late, seconds.
_LATE_S = 60.0
#: The number of latest jobs to check.
_LATEST_JOBS = 50
_RECENTLY_S = 24 * 3600.0
_DEVICES_TIMEOUT_S = 10.0
#: TensorFlow, a small generator and its batches.
_LEAST_MEMORY_BYTES = 1.5e9
#: The most warnings of one kind to list.
_MOST_WARNINGS = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    #: The state, or what is wrong and what to do.
    says: str
    works: bool = True
    #: Things that work but should be changed, each with what to do.
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def state(self) -> str:
        """ok, warning or problem."""
        return "problem" if not self.works else "warning" if self.warnings else "ok"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "check": self.check, "state": self.state, "works": self.works, "says": self.says,
            "warnings": list(self.warnings),
        }  # fmt: skip


#: The result of a check: its text and its warnings.
_CheckResult = tuple[str, list[str]]


def run_checks(settings: Settings, destination: str | None = None) -> Iterator[Finding]:
    """All checks, one after another; that of the storage if a destination is given."""
    redis = _finding("redis", partial(_redis, settings))
    yield redis
    for name, check in (("workers", _workers), ("jobs", _jobs), ("schedules", _schedules)):
        if redis.works:
            yield _finding(name, partial(check, settings))
        else:
            yield Finding(check=name, works=False, says="unknown while Redis does not work")
    yield _finding("limits", _limits)
    yield _finding("devices", _devices)
    yield _finding("generators", _generators)
    if destination is not None:
        yield _finding("storage", partial(_storage, destination))


def _finding(name: str, check: Callable[[], _CheckResult]) -> Finding:
    try:
        says, warnings = check()
    except NoisemillError as error:
        return Finding(check=name, works=False, says=str(error))
    return Finding(check=name, says=says, warnings=tuple(warnings))


def _redis(settings: Settings) -> _CheckResult:
    from pipeline.fleet.server_advice import advice
    from pipeline.jobs.ledger import Ledger  # redis takes a while to import.
    from pipeline.jobs.redis_url import redacted

    ledger = Ledger(settings)
    try:
        version = ledger.ping()
        before = time.time()
        now = ledger.now()
        skew_s = now - (before + time.time()) / 2
        warnings = advice(settings.redis_url, ledger.server_info())
    except LedgerError as error:
        raise LedgerError(f"{error}\nQueued jobs and workers need it, 'noisemill generate' does not.") from error
    warnings += _about_clock("Redis", skew_s, _REDIS_SKEW_S)
    return f"{version} at {redacted(settings.redis_url)}", warnings


def _about_clock(whose: str, ahead_s: float, tolerated_s: float) -> list[str]:
    if abs(ahead_s) <= tolerated_s:
        return []
    direction = "ahead of" if ahead_s > 0 else "behind"
    return [f"{whose}'s clock is {abs(ahead_s):,.0f} s {direction} this machine's: let both follow an NTP server"]


def _workers(settings: Settings) -> _CheckResult:
    from pipeline.jobs.ledger import Ledger

    found = Ledger(settings).workers()
    held = Counter((worker.generator, worker.device) for worker in found)
    generators = "".join(
        f", {generator} on {device}" + (f" ({number})" if number > 1 else "")
        for (generator, device), number in sorted(held.items())
    )
    others = [worker for worker in found if worker.version != VERSION]
    warnings = _some(
        [
            f"worker {worker.id} is noisemill {worker.version}, this is {VERSION}: upgrade the older one"
            for worker in others
        ]
    )
    warnings += _some(
        [
            f"worker {worker.id} cannot write to {destination}, though it lies below its --output-root: "
            "mount it there, or grant the rights"
            for worker in found
            for destination in worker.unreachable
        ]
    )
    for generator in sorted({worker.generator for worker in found}):
        digests = Counter(worker.digest for worker in found if worker.generator == generator)
        if len(digests) > 1:
            each = ", ".join(f"{digest[:19]}... by {number}" for digest, number in sorted(digests.items()))
            warnings.append(
                f"{generator} is held in {len(digests)} versions ({each}): workers of one do not make jobs of another; "
                "restart the older ones when their jobs are done"
            )
    return f"{len(found)} up{generators}", warnings


def _jobs(settings: Settings) -> _CheckResult:
    from pipeline.jobs.job import Job
    from pipeline.jobs.ledger import Ledger

    ledger = Ledger(settings)
    workers = ledger.workers()
    jobs: dict[str, Job] = {job.id: job for job in ledger.jobs(latest=_LATEST_JOBS)}
    live = [job for job in jobs.values() if job.live]
    others = len(set(ledger.live_jobs()) - set(jobs))
    warnings = []
    for job in live:
        if job.held_at is not None:
            warnings.append(f"job {job.id} is held: {one_line(job.error or 'its store fails')}")
        elif job.state != "preparing" and not any(
            worker.digest == job.digest and worker.may_write(job.destination) for worker in workers
        ):
            root = "" if job.destination.startswith("s3://") else f" --output-root {_parent(job.destination)}"
            warnings.append(
                f"job {job.id} waits for a worker that holds {job.generator} and may write to {job.destination}: "
                f"'noisemill worker {quote(job.generator)}{root}'"
            )
    for job in jobs.values():
        if job.state == "damaged":
            warnings.append(f"job {job.id} cannot be read ({job.error}): 'noisemill resume DEST' enters it again")
        elif job.state == "failed" and job.seen_at - (job.ended_at or 0.0) < _RECENTLY_S:
            warnings.append(f"job {job.id} has failed: 'noisemill status {job.id}' says why")
    return f"{len(live) + others} live, {sum(job.state == 'running' for job in live)} running", _some(warnings)


def _parent(destination: str) -> str:
    return quote(os.path.dirname(destination))


def _schedules(settings: Settings) -> _CheckResult:
    from pipeline.schedules.book import ScheduleBook

    book = ScheduleBook(settings)
    unreadable: list[str] = []
    schedules, scheduler = book.schedules(unreadable), book.scheduler()
    if not schedules and not unreadable:
        return "none", []
    if schedules and scheduler is None:
        raise LedgerError(f"{len(schedules)}, but no scheduler is up: start one with 'noisemill scheduler'")
    warnings, now = [one_line(text) for text in unreadable], time.time()
    for schedule in schedules:
        due_at = schedule.recurrence.next_after(book.fired_until(schedule))
        if not schedule.paused and now - due_at > _LATE_S:
            moment = datetime.fromtimestamp(due_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
            warnings.append(
                f"schedule {schedule.name} was due at {moment} and is late: check the scheduler's log, restart it"
            )
        last = book.last_run(schedule.name)
        if last is not None and last.state == "failed":
            warnings.append(
                f"schedule {schedule.name}: run {last.number} has failed: 'noisemill schedule show {schedule.name}'"
            )
    paused = sum(schedule.paused for schedule in schedules)
    summary = f"{len(schedules)}, carried out by {scheduler}" + (f"; {paused} paused" if paused else "")
    return summary, _some(warnings)


def _limits() -> _CheckResult:
    """The cores and the memory that a worker here may use: those of the container, if it has fewer than the machine."""
    cores, visible, limit = usable_cores(), visible_cores(), memory_limit()
    quota = f" of {visible}, by the container's quota" if cores < visible else ""
    says = f"{cores} core{'s' if cores > 1 else ''}{quota}; {usable_memory() / 1e9:.1f} GB of memory"
    warnings = []
    if limit is not None and limit < _LEAST_MEMORY_BYTES:
        warnings.append(
            f"the container is limited to {limit / 1e9:.1f} GB of memory, and TensorFlow alone takes 1 GB: a worker "
            "may be killed; raise the limit"
        )
    return says + (", by the container's limit" if limit is not None else ""), warnings


def _devices() -> _CheckResult:
    if not shutil.which("nvidia-smi"):
        return "no NVIDIA GPU (nvidia-smi is absent): workers use the CPU", []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=_DEVICES_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        raise WorkerError(
            "nvidia-smi does not respond: the driver hangs or is broken; check 'dmesg', restart the machine"
        ) from None
    if listed.returncode:
        return "no GPU: workers use the CPU", [
            f"nvidia-smi fails ({one_line(listed.stdout or listed.stderr)[:200]}): reinstall the driver"
        ]
    return listed.stdout.strip() or "nvidia-smi lists no GPU: workers use the CPU", []


def _generators() -> _CheckResult:
    names = builtin_names()
    for name in names:
        find_generator(name)
    for name in judge_names():
        find_judge(name)
    return f"built in: {', '.join([*names, *judge_names()])}; noisemill {VERSION}, python {sys.version.split()[0]}", []


def _storage(destination: str) -> _CheckResult:
    store = open_store(destination)
    place = store.url
    while not place.startswith("s3://") and not os.path.lexists(place):
        place = os.path.dirname(place)  # A check creates no folders.
    before = time.time()
    access = open_store(place).check_access()
    warnings = []
    if access.clock is not None:
        warnings += _about_clock("S3", access.clock - (before + time.time()) / 2, _S3_SKEW_S)
    if place.startswith("s3://"):
        note = (
            ""
            if access.exclusive
            else "; it ignores conditions of PUT requests: do not start two makers at the same time"
        )
        return f"{store.url} can be written, read, listed and deleted from{note}", warnings
    free, disk_warnings = _free(place)
    return f"{store.url} can be written, read, listed and deleted from; {size(free)} free", warnings + disk_warnings


def _free(place: str) -> tuple[int, list[str]]:
    """Free bytes of the disk, and warnings if it is nearly full."""
    disk = os.statvfs(place)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    warnings = []
    if free < _LEAST_FREE_BYTES or free < _LEAST_FREE_SHARE * total:
        warnings.append(f"only {size(free)} of {size(total)} are free there: free space, or choose another disk")
    if disk.f_files and disk.f_favail < _LEAST_FREE_FILES:
        warnings.append(
            f"only {disk.f_favail:,} more files fit on that disk (inodes): use --format tar or npy, or another disk"
        )
    return free, warnings


def _some(warnings: list[str]) -> list[str]:
    """The first warnings, and the number of the others."""
    more = len(warnings) - _MOST_WARNINGS
    return [*warnings[:_MOST_WARNINGS], f"and {more} more of this kind"] if more > 0 else warnings
