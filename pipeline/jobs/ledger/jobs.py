"""What clients and schedulers see of the ledger: jobs are added, read, cancelled and deleted."""

from __future__ import annotations

import difflib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from pipeline.common.errors import UnknownJobError
from pipeline.jobs.entries import DamagedEntryError, Fields
from pipeline.jobs.job import Job, damaged_job, read_job
from pipeline.jobs.ledger.call import Call
from pipeline.spec.selection import Selection

if TYPE_CHECKING:
    from pipeline.spec.job_spec import JobSpec

_Item = TypeVar("_Item")

#: The fields of a job's hash that make an `Order`.
_ORDER = ("spec", "destination", "priority", "parallel", "schedule", "webhook", "selection")


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How a job is queued. A job that is added again keeps its earlier schedule and webhook."""

    #: 0 comes first, 9 last.
    priority: int = 5
    #: The number of workers that may share it; 0 is any number.
    parallel: int = 0
    #: The name of the schedule that submits it.
    schedule: str | None = None
    #: The URL that is called at its end (`pipeline.jobs.webhooks`).
    webhook: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job that is to be added."""

    job_id: str
    spec: JobSpec
    destination: str
    queue: QueueOptions = QueueOptions()
    #: Engine and batch of an earlier run, or None and 0.
    engine: str | None = None
    batch: int = 0
    #: Limits the job to a selection of shards; its last step then writes no manifest.
    only: Selection | None = None

    def fields(self) -> dict[str, str | int]:
        """The fields of its hash in Redis."""
        wanted = {"engine": self.engine, "schedule": self.queue.schedule, "webhook": self.queue.webhook}
        fields: dict[str, str | int] = {
            "id": self.job_id,
            "spec": self.spec.to_json(),
            "destination": self.destination,
            "generator": self.spec.generator_name,
            "digest": self.spec.digest,
            "priority": self.queue.priority,
            "parallel": self.queue.parallel,
            "count": self.spec.count,
            "shards": len(self.spec.plan),
            "batch": self.batch or self.spec.batch,
            **{name: value for name, value in wanted.items() if value},
        }
        if self.only is None:
            return fields
        only = self.only
        selected = {"count": only.samples(self.spec.plan), "shards": len(only), "cursor": len(only)}
        return {**fields, **selected, "selection": str(only)}


@dataclass(frozen=True)
class Order:
    """What was ordered with a job, as text: with it a job that Redis has lost is added again."""

    _texts: Mapping[str, str] = field(repr=False)

    def new_job(self, job_id: str) -> NewJob:
        """The job to add. Raises UsageError if an entry is damaged."""
        from pipeline.spec.job_spec import JobSpec  # Imports numpy, which 'watch' seldom needs.
        from pipeline.spec.selection import parse_selection

        texts = self._texts
        spec = JobSpec.from_json(texts["spec"], source=f"the ledger's entry of job {job_id}")
        entry = Fields(job_id, [part for pair in texts.items() for part in pair])
        only = texts.get("selection")
        return NewJob(
            job_id=job_id,
            spec=spec,
            destination=texts["destination"],
            queue=QueueOptions(
                priority=entry.whole("priority", most=9),
                parallel=entry.whole("parallel", 0),
                schedule=texts.get("schedule"),
                webhook=texts.get("webhook"),
            ),
            only=parse_selection(only, spec.plan) if only else None,
        )


class Jobs(Call):
    """The jobs of a ledger."""

    def enter(self, new: NewJob, *, done: Iterable[tuple[int, int]] = (), whole: bool = False) -> bool:
        """Adds a job. Returns False if it is live already, or if another client has begun to add it since.

        `done` are the shards (index, samples) that are at the destination already, `whole`: the manifest is there too,
        so the job is done.
        """
        job_id, entry = new.job_id, uuid.uuid4().hex
        fields = {**new.fields(), "entry": entry}
        with self._talk():
            if self._call(job_id, "begin", *(part for pair in fields.items() for part in pair)) != "new":
                return False
            self._redis.zadd(self._key("jobs"), {job_id: time.time()})
            found: set[int] = set()
            for chunk in _batched(done, 1000):
                self._call(job_id, "mark_done", entry, *(number for pair in chunk for number in pair))
                found.update(shard for shard, _ in chunk if new.only is not None)
            for wanted in _batched((shard for shard in new.only or () if shard not in found), 1000):
                self._call(job_id, "want", entry, *wanted)
            return bool(self._call(job_id, "open", entry, "done" if whole else "queued") != "stale")

    def cancel(self, job_id: str) -> str:
        """Cancels a live job; returns its state now. Raises UnknownJobError."""
        with self._talk():
            return self._known(job_id, str(self._call(job_id, "cancel")))

    def delete(self, job_id: str) -> str:
        """Deletes the entry of a job that has ended. Returns "forgotten", or the state of a live job.

        Raises UnknownJobError.
        """
        with self._talk():
            answer = self._known(job_id, str(self._call(job_id, "delete")))
            if answer == "forgotten":
                self._redis.zrem(self._key("jobs"), job_id)
        return answer

    def identity(self) -> str:
        """The unique id of this ledger, which is the holder of its destinations' leases."""
        with self._talk():
            return str(self._call("", "identity", uuid.uuid4().hex))

    def job(self, job_id: str) -> Job:
        """The job's state. Raises UnknownJobError."""
        with self._talk():
            flat, *rest = self._call(job_id, "status")
        entry = Fields(job_id, flat)
        if not entry:
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return read_job(job_id, entry, *rest)

    def spec(self, job_id: str) -> tuple[JobSpec, str]:
        """The job's spec and destination. Raises UnknownJobError."""
        from pipeline.spec.job_spec import JobSpec  # Imports numpy, which 'status' does not need.

        with self._talk():
            text, destination = self._redis.hmget(self._job_key(job_id), "spec", "destination")
        if text is None or destination is None:
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return JobSpec.from_json(text, source=f"the ledger's entry of job {job_id}"), str(destination)

    def order(self, job_id: str) -> Order:
        """What was ordered with a job. Raises UnknownJobError."""
        with self._talk():
            found = self._redis.hmget(self._job_key(job_id), *_ORDER)
        texts = {name: str(text) for name, text in zip(_ORDER, found, strict=True) if text is not None}
        if not {"spec", "destination"} <= texts.keys():
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return Order(texts)

    def was_deleted(self, job_id: str) -> bool:
        """Whether somebody has deleted a job's entry on purpose within the last minute."""
        with self._talk():
            return bool(self._redis.exists(f"{self._job_key(job_id)}:forgotten"))

    def jobs(self, latest: int = 0) -> list[Job]:
        """All jobs in the ledger, the latest first; at most `latest` of them, if that is not 0."""
        with self._talk():
            ids = self._redis.zrevrange(self._key("jobs"), 0, latest - 1)
        found = []
        for job_id in map(str, ids):
            try:
                found.append(self.job(job_id))
            except UnknownJobError:
                with self._talk():
                    self._redis.zrem(self._key("jobs"), job_id)
            except DamagedEntryError as error:
                found.append(damaged_job(job_id, str(error)))
        return found

    def job_count(self) -> int:
        """The number of jobs in the ledger; reads none of them."""
        with self._talk():
            return self._redis.zcard(self._key("jobs"))

    def live_jobs(self) -> list[str]:
        """Ids of the jobs that are queued or running."""
        with self._talk():
            return sorted(str(job_id) for job_id in self._redis.smembers(self._key("live")))

    def find_job(self, text: str) -> str:
        """The id that begins with `text`. Raises UnknownJobError if none or several do."""
        with self._talk():
            ids = [str(job_id) for job_id in self._redis.zrevrange(self._key("jobs"), 0, -1)]
        if text in ids:
            return text
        matching = [job_id for job_id in ids if text and job_id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UnknownJobError(f"job {text!r} could be any of {', '.join(matching[:5])}: give more of it")
        near = difflib.get_close_matches(text, [*ids, *(job_id[: len(text)] for job_id in ids)], n=1, cutoff=0.75)
        meant = next((job_id for job_id in ids if near and job_id.startswith(near[0])), None)
        hint = f"did you mean {meant!r}?" if meant else "see 'noisemill jobs'"
        raise UnknownJobError(f"job {text!r} is unknown: {hint}")


def _batched(items: Iterable[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    """Tuples of up to `size` items. (Python 3.12 has it in itertools.)"""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch
