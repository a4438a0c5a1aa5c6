"""The state of a job, as the ledger reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.common.text import one_line_of
from pipeline.datasets.stages import verdict
from pipeline.jobs.entries import Fields

#: States in which a job can still be worked on.
LIVE_STATES = ("queued", "running")

_STATES = (*LIVE_STATES, "preparing", "done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job in the ledger."""

    id: str
    #: queued, running, done, failed or cancelled; preparing while a client adds it.
    state: str
    destination: str
    generator: str
    digest: str
    #: Name of the schedule that submitted it; None if a user did.
    schedule: str | None
    priority: int
    #: The number of workers that may share it; 0 is any number.
    parallel: int
    #: Samples and shards of the job, or of its selection.
    count: int
    shards: int
    #: The shards to make, such as "17,20-25"; None for all.
    selection: str | None
    shards_done: int
    shards_leased: int
    samples_done: int
    #: Samples that were at the destination when the job was queued.
    samples_found: int
    #: Samples made so far of leased shards.
    samples_in_flight: int
    bytes_done: int
    #: Shards that were given up, with their last error.
    failed: Mapping[int, str]
    #: Last errors of shards that will be tried again.
    errors: Sequence[str]
    #: Why the whole job failed or is held, if the reason is not a shard.
    error: str | None
    leases_lost: int
    #: Set by the first slice; None before.
    engine: str | None
    batch: int
    #: Unix times in seconds of the states that the job has been in.
    queued_at: float | None
    running_at: float | None
    ended_at: float | None
    #: When its store began to fail, if it has only failed since; None while it works.
    held_at: float | None
    #: When this state was read, by the server's clock like the times above.
    seen_at: float
    #: Seconds that the stages of the mill were busy, summed over workers.
    stage_seconds: Mapping[str, float]
    #: What limits its speed.
    verdict: str | None

    @property
    def live(self) -> bool:
        """Whether it can still be worked on."""
        return self.state in LIVE_STATES or self.state == "preparing"

    @property
    def workers_wanted(self) -> int:
        """The number of workers that it could use now: one for each shard that is left, and for its last step."""
        if self.state not in LIVE_STATES:
            return 0
        left = max(1, self.shards - self.shards_done - len(self.failed))
        return min(left, self.parallel) if self.parallel else left

    @property
    def first_failed(self) -> tuple[int, str]:
        """The first of the shards that were given up, with its last error."""
        return min(self.failed.items(), default=(0, "no reason given"))

    @property
    def samples_made(self) -> int:
        """Samples done or in progress."""
        return min(self.count, self.samples_done + self.samples_in_flight)

    @property
    def rate(self) -> float | None:
        """Samples per second since work began; None before."""
        if self.running_at is None:
            return None
        elapsed = (self.ended_at or self.seen_at) - self.running_at
        return (self.samples_made - self.samples_found) / elapsed if elapsed > 0 else None

    @property
    def share(self) -> float:
        """The share of its samples that are made, 0 to 1."""
        return self.samples_made / self.count if self.count else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at its rate so far; None unless it is running."""
        if self.state != "running" or not self.rate:
            return None
        return (self.count - self.samples_made) / self.rate

    def as_json(self) -> dict[str, Any]:
        """For `--json`: stable keys, numbers as numbers, times as Unix seconds."""
        data = asdict(self)
        data["failed"] = {str(shard): message for shard, message in sorted(self.failed.items())}
        return {**data, "samples_made": self.samples_made, "rate": self.rate}


def read_job(
    job_id: str,
    entry: Fields,
    failed: Sequence[str],
    progress: Sequence[str],
    leased: int,
    _retrying: int,
    errors: Sequence[str],
    now_ms: str,
) -> Job:
    """The job of an entry and the other results of `status` in `ledger.lua`. Raises DamagedEntryError."""
    state = entry.choice("state", _STATES)
    if entry.text("id") != job_id:
        raise entry.damaged("id", entry.text("id"))
    stages = entry.durations("seconds_")
    return Job(
        id=job_id,
        state=state,
        destination=entry.text("destination"),
        generator=entry.text("generator"),
        digest=entry.text("digest"),
        schedule=entry.text("schedule", "") or None,
        priority=entry.whole("priority", most=9),
        parallel=entry.whole("parallel", 0),
        count=entry.whole("count"),
        shards=entry.whole("shards"),
        selection=entry.text("selection", "", longest=2**20) or None,
        shards_done=entry.whole("shards_done"),
        shards_leased=leased,
        samples_done=entry.whole("samples_done"),
        samples_found=entry.whole("samples_found", 0),
        samples_in_flight=sum(entry.number("progress", samples) for samples in progress),
        bytes_done=entry.whole("bytes_done", 0),
        failed={
            entry.number("failed", shard): one_line_of(message)
            for shard, message in zip(failed[::2], failed[1::2], strict=True)
        },
        errors=[one_line_of(error) for error in errors],
        error=entry.words("error"),
        leases_lost=entry.whole("leases_lost", 0),
        engine=entry.text("engine", "") or None,
        batch=entry.whole("batch", 0),
        queued_at=entry.seconds("queued_at"),
        running_at=entry.seconds("running_at"),
        ended_at=None if state in LIVE_STATES else entry.seconds(f"{state}_at"),
        held_at=entry.seconds("held_at"),
        seen_at=entry.number("seen_at", now_ms) / 1000,
        stage_seconds=stages,
        verdict=verdict(stages),
    )


def damaged_job(job_id: str, reason: str) -> Job:
    """A placeholder in lists for a job whose entry cannot be read."""
    nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(Job)), 0)
    absent = ("schedule", "selection", "engine", "queued_at", "running_at", "ended_at", "held_at", "verdict")
    nothing |= dict.fromkeys(absent)
    nothing |= {"destination": "", "generator": "", "digest": "", "failed": {}, "errors": [], "stage_seconds": {}}
    return Job(**{**nothing, "id": one_line_of(job_id), "state": "damaged", "error": reason})
