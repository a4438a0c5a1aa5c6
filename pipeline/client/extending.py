"""Extends a dataset, for example from 50,000 samples to 100,000, and makes only the new samples.

Sample *i* does not depend on the count, so full shards stay; a short last shard is made again. Records change in an
order in which a crash at any point loses nothing: the old job is cancelled, the manifest is deleted (the dataset is
then incomplete), `job.json` gets the new count. Before that step `resume` completes the old job, after it the new one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.client.making import LocalRun, Models, make_here, same_models
from pipeline.common.errors import UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import spec_at
from pipeline.jobs.following import cancel_and_wait
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import QueueOptions, open_ledger
from pipeline.jobs.queueing import JobHandle, destination_lease, enqueue, is_live, last_priority
from pipeline.jobs.sizing import estimate_size
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store

#: Files that contain the old count, in the order in which they are deleted: the manifest first.
_OUTDATED = (shards.MANIFEST, shards.SHARD_INDEX, shards.CARD, shards.CROISSANT, shards.PREVIEW)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What extending a dataset will do."""

    destination: str
    #: Samples of the present job.
    count_before: int
    #: Samples of the extended job.
    count: int
    #: Shards of the extended job, and those of them that exist already.
    shards: int
    shards_kept: int
    #: Samples in the shards to make.
    samples_to_make: int
    #: Bytes of the extended dataset.
    size_bytes: int
    #: Whether the bytes are an estimate, as for PNG.
    estimated: bool

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def plan_extension(destination: str, count: int) -> Extension:
    """What `extend` would do. Raises UsageError if the count is too small or the job cannot be extended."""
    dataset = Dataset(destination)
    spec = _extended_spec(dataset, count)
    kept = [receipt for index, receipt in dataset.finished().items() if receipt.count == spec.plan[index].count]
    sizing = estimate_size(spec, [])
    return Extension(
        destination=dataset.url,
        count_before=dataset.spec.count,
        count=count,
        shards=len(spec.plan),
        shards_kept=len(kept),
        samples_to_make=count - sum(receipt.count for receipt in kept),
        size_bytes=sizing.size_bytes,
        estimated=sizing.estimated,
    )


def extend(
    destination: str, count: int, *, redis_url: str | None = None, parallel: int = 0, take_over: bool = False
) -> JobHandle:
    """Queues a larger job that brings a dataset to `count` samples in all; full shards stay.

    If the old job is still in progress, it is cancelled in this Redis, and its shards are kept. Calling again with the
    same count makes what is missing.
    Raises UsageError for a count below the present one and for jobs whose samples depend on their count, and
    DestinationBusyError if another maker works there, unless `take_over`, which declares that maker gone.
    """
    old, url = spec_at(destination)
    spec = _extended_spec(Dataset(url), count)
    open_store(url).check_writable()
    ledger = open_ledger(redis_url)
    queue = QueueOptions(priority=last_priority(ledger, old, url), parallel=parallel)
    if spec != old:
        cancel_and_wait(ledger, old.job_id(url))
    elif is_live(ledger, spec.job_id(url)):
        return enqueue(spec, url, ledger, queue)
    lease = destination_lease(url, f"job {spec.job_id(url)}", ledger)
    with lease.held(take_over=take_over):
        _record(spec, old, url)
        return enqueue(spec, url, ledger, queue, lease=lease)


def extend_here(
    destination: str,
    count: int,
    *,
    generator: str | None = None,
    judge: str | None = None,
    trust_generator: bool = False,
    **options: Any,
) -> Job | None:
    """Brings a dataset to `count` samples in all on this machine, as `generate` does; options as for `resume_here`.

    Returns the job's last state; None if there was nothing to make. Raises UsageError as `extend` does, JobFailedError,
    GeneratorError.
    """
    old, url = spec_at(destination)
    spec = _extended_spec(Dataset(url), count)
    open_store(url).check_writable()
    if spec != old:
        same_models(old, generator, judge, trust=trust_generator)  # Before anything changes.

    def find() -> Models:
        return same_models(old, generator, judge, trust=trust_generator)

    def prepare() -> None:
        now = spec_at(url)[0]  # It may have changed while waiting for another maker.
        if now.count > spec.count:
            raise UsageError(f"{url} has {now.count:,} samples by now: extend only adds")
        _record(spec, now, url)

    return make_here(spec, url, find, LocalRun(**options), prepare=prepare)


def _extended_spec(dataset: Dataset, count: int) -> JobSpec:
    """The same job with more samples. Raises UsageError."""
    old, url = dataset.spec, dataset.url
    if count > old.count and dataset.selection() is not None:
        raise UsageError(f"{url} has a selection of its job's shards only, made by 'reproduce --shards'")
    if count < old.count:
        raise UsageError(
            f"count {count:,} is less than the {old.count:,} samples of {url}: extend only adds; "
            f"make a smaller one with 'noisemill generate', its samples are the first of this one"
        )
    if count > old.count and old.latents is not None:
        raise UsageError(
            f"{url} has latents of your own, {old.count:,} rows: more samples need more rows, so a new job"
        )
    if count > old.count and (old.attributes or "").startswith("file:"):
        raise UsageError(
            f"{url} has attributes from a file, {old.count:,} rows: more samples need more rows, so a new job"
        )
    kind = (old.labels or "").partition(":")[0]
    if count > old.count and kind in ("counts", "file"):
        how = "come from a file" if kind == "file" else f"are planned one by one ({old.labels})"
        raise UsageError(f"{url}: its labels {how}, {old.count:,} in all: more samples need more labels, so a new job")
    spec = replace(old, count=count)
    spec.check()
    return spec


def _record(spec: JobSpec, old: JobSpec, url: str) -> None:
    """Writes the new job to the destination."""
    if spec == old:
        return
    store = open_store(url)
    store.delete(_OUTDATED[:1])
    store.write(shards.JOB, spec.to_json().encode())
    store.delete(_OUTDATED[1:])
