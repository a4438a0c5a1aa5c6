"""From a request to a dataset: the one path for the command line, Python users and the scheduler.

`plan_job` resolves a request against a generator, `PlannedJob.at` writes it to a destination, and the `PreparedJob` is
made on this machine or queued.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from pipeline.common.errors import GeneratorError, LedgerError, UsageError, one_line
from pipeline.common.settings import Settings, load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import Upload, prepare, spec_as_begun, spec_at
from pipeline.datasets.receipts import EngineRecord
from pipeline.datasets.repair import withdraw_damaged
from pipeline.fleet.launch import WorkerConfig
from pipeline.fleet.local import LocalWorkers, private_server
from pipeline.generators import (
    Generator,
    Judge,
    find_generator,
    find_judge,
    find_named_by_data,
    remember,
    same_judge,
)
from pipeline.jobs.following import Watcher, raise_unless_done, wait_for
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger, QueueOptions, open_ledger
from pipeline.jobs.queueing import JobHandle, destination_lease, enqueue, is_live, last_priority
from pipeline.jobs.request import JobRequest
from pipeline.jobs.webhooks import check_webhook
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.selection import Selection
from pipeline.stores import names_destination, open_store
from pipeline.stores.lease import this_process

#: Poll interval of a job on this machine, seconds: nobody else uses its Redis.
_POLL_S = 0.05

#: A generator, and the judge of its candidates, if any.
Models = tuple[Generator, Judge | None]


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """How a job is made on this machine."""

    #: Number of worker processes.
    workers: int = 1
    #: "auto", "cpu", "gpu" or "gpu:N".
    device: str = "auto"
    #: Called with the job's state while it is made.
    watcher: Watcher | None = None
    #: Declares that another maker at the destination is gone.
    take_over: bool = False
    #: Called with a message while another maker works at the destination.
    notice: Callable[[str], None] | None = None
    #: Its workers, if they have been started already.
    started: LocalWorkers | None = None


@dataclass(frozen=True)
class PreparedJob:
    """A job whose `job.json` is at its destination."""

    spec: JobSpec
    #: The destination, normalised.
    url: str

    def enqueue(self, ledger: Ledger, queue: QueueOptions, **options: Any) -> JobHandle:
        """Queues it in Redis for workers; options are those of `pipeline.jobs.queueing.enqueue`."""
        return enqueue(self.spec, self.url, ledger, queue, **options)

    def make_here(self, models: Models, run: LocalRun, **options: Any) -> Job | None:
        """Makes it with a private Valkey and local workers; options are those of `make_here`."""
        return make_here(self.spec, self.url, lambda: models, run, **options)


@dataclass(frozen=True)
class PlannedJob:
    """A request that fits its generator; nothing is written yet."""

    generator: Generator
    spec: JobSpec
    uploads: list[Upload]
    #: Of a choice among candidates.
    judge: Judge | None = None

    @property
    def models(self) -> Models:
        """The generator and the judge."""
        return self.generator, self.judge

    def remember(self) -> None:
        """Notes that the user has named the generator and the judge."""
        remember(self.generator)
        if self.judge is not None:
            remember(self.judge)

    def at(self, destination: str | os.PathLike[str]) -> PreparedJob:
        """Writes the job to a destination. Raises DestinationOccupiedError if it holds another job or files."""
        spec = spec_as_begun(self.spec, open_store(destination))
        return PreparedJob(spec, prepare(spec, destination, self.uploads).url)


def plan_job(generator: str | Generator, request: JobRequest) -> PlannedJob:
    """Finds a generator, unless given one, and resolves a request against it. Raises GeneratorError, UsageError."""
    found = find_generator(generator) if isinstance(generator, str) else generator
    spec, uploads = request.resolve(found)
    return PlannedJob(found, spec, uploads, find_judge(spec.judge) if spec.judge else None)


def generate(
    generator: str,
    destination: str | os.PathLike[str],
    *,
    count: int | None = None,
    workers: int = 1,
    device: str = "auto",
    watcher: Watcher | None = None,
    **options: Any,
) -> Dataset:
    """Makes a dataset on this machine, with a private Valkey and local workers; returns it once it is complete.

    Options are those of `JobRequest`: seed, shard_size, format, dtype, layout, labels, noise, latents,
    batch and so on. If the destination holds the same job already, it is completed.
    Raises a subclass of NoisemillError.
    """
    planned = plan_job(generator, JobRequest(count=count, **options))
    planned.remember()
    job = planned.at(destination)
    job.make_here(planned.models, LocalRun(workers=workers, device=device, watcher=watcher))
    return Dataset(job.url)


def submit(
    generator: str,
    destination: str | os.PathLike[str],
    *,
    count: int | None = None,
    priority: int = 5,
    parallel: int = 0,
    webhook: str | None = None,
    redis_url: str | None = None,
    **options: Any,
) -> JobHandle:
    """Queues a job in Redis for workers; options as for `generate`.

    Priority 0 comes first, 9 last; `parallel` limits the number of workers, 0 means no limit. `webhook` is a URL that
    is called when the job ends.
    """
    planned = plan_job(generator, JobRequest(count=count, **options))
    planned.remember()
    if webhook is not None:
        check_webhook(webhook)
    ledger = open_ledger(redis_url)
    return planned.at(destination).enqueue(ledger, QueueOptions(priority=priority, parallel=parallel, webhook=webhook))


def make_here(
    spec: JobSpec,
    destination: str,
    models: Callable[[], Models],
    run: LocalRun,
    *,
    only: Selection | None = None,
    made_by: EngineRecord | None = None,
    prepare: Callable[[], None] | None = None,
) -> Job | None:
    """Makes what is missing of a prepared job, or of some of its shards, with a private Valkey and local workers.

    Waits while another maker works there, unless the run takes over. `prepare` is called once the lease is taken,
    before anything is made; `models` if there is something to make. Returns the job's last state; None if there was
    nothing to make. Raises JobFailedError.
    """
    if prepare is None and _is_complete(destination, only):
        return None
    with contextlib.ExitStack() as stack:
        settings = replace(load_settings(), redis_url=stack.enter_context(private_server()), reconcile_s=0.5)
        ledger = Ledger(settings)
        lease = destination_lease(destination, f"job {spec.job_id(destination)}", ledger, process=this_process())
        stack.enter_context(lease.held(patiently=True, take_over=run.take_over, notice=run.notice))
        if prepare is not None:
            prepare()
        if _is_complete(destination, only):
            return None
        config = _config(models(), settings, spec, destination)
        local = stack.enter_context(run.started or LocalWorkers(run.workers, run.device))
        local.configure(config)
        handle = enqueue(spec, destination, ledger, only=only, made_by=made_by, lease=lease)

        def check() -> None:
            local.check()
            if lease.lost:
                lease.check()

        try:
            job = wait_for(ledger, handle.id, run.watcher, check=check, poll_s=_POLL_S)
        except LedgerError as error:
            raise LedgerError(
                f"the private Valkey has ended or does not respond ({one_line(error)})\n"
                f"'noisemill resume {quote(destination)}' makes what is missing"
            ) from error
        raise_unless_done(job)
        return job


def _is_complete(destination: str, only: Selection | None) -> bool:
    """Whether the dataset, or the selection of its shards, is complete already."""
    dataset = Dataset(destination)
    if only is None and not dataset.whole:
        return False
    finished = dataset.finished()
    return all(index in finished for index in only or range(len(dataset.plan)))


def _config(models: Models, settings: Settings, spec: JobSpec, destination: str) -> WorkerConfig:
    generator, judge = models
    return WorkerConfig(
        generator=generator.reference,
        redis_url=settings.redis_url,
        output_roots=(destination,),
        embedded=True,
        client=this_process(),
        batch=spec.batch * spec.best_of,
        samples=spec.count * spec.best_of,
        sampler=spec.sampler or "",
        judges=(judge.reference,) if judge else (),
        log_level="warning",
    )


def resume(
    job_or_destination: str, *, redis_url: str | None = None, parallel: int = 0, take_over: bool = False
) -> JobHandle:
    """Queues what is missing of a job in Redis; at most `parallel` workers share it, 0 means no limit.

    Takes a destination, or a job's id, which is looked up in Redis. Raises DestinationBusyError if another maker works
    there, unless `take_over`, which declares that maker gone.
    """
    ledger = open_ledger(redis_url)
    spec, destination = _job_or_destination(job_or_destination, ledger)
    open_store(destination).check_writable()
    job_id = spec.job_id(destination)
    queue = QueueOptions(priority=last_priority(ledger, spec, destination), parallel=parallel)
    if is_live(ledger, job_id):
        return enqueue(spec, destination, ledger, queue)
    lease = destination_lease(destination, f"job {job_id}", ledger)
    with lease.held(take_over=take_over):
        withdraw_damaged(destination)
        return enqueue(spec, destination, ledger, queue, lease=lease)


def resume_here(
    destination: str,
    *,
    generator: str | None = None,
    judge: str | None = None,
    trust_generator: bool = False,
    **options: Any,
) -> Job | None:
    """Makes what is missing of the job at a destination on this machine, as `generate` does.

    Uses the generator and the judge that the job names, if the user has named them here before or `trust_generator` is
    true, else `generator` and `judge`, which must be the same. Options are those of `LocalRun`.
    Returns the job's last state; None if there was nothing to make. Raises JobFailedError, GeneratorError.
    """
    spec, url = spec_at(destination)

    def find() -> Models:
        return same_models(spec, generator, judge, trust=trust_generator)

    return make_here(spec, url, find, LocalRun(**options), prepare=lambda: withdraw_damaged(url))


def _job_or_destination(text: str, ledger: Ledger) -> tuple[JobSpec, str]:
    return spec_at(text) if names_destination(text) else ledger.spec(ledger.find_job(text))


def same_models(
    spec: JobSpec, reference: str | None = None, judge: str | None = None, *, trust: bool = False
) -> Models:
    """The generator and the judge of a spec, or those that the user references instead.

    Raises GeneratorError if one has changed, or if only the data names it and it is not trusted.
    """
    try:
        generator = find_named_by_data(spec.generator, generator=reference, trust=trust)
    except UsageError as error:
        raise GeneratorError(f"the job's generator cannot be found: {error}") from None
    if generator.digest != spec.digest:
        raise GeneratorError(
            f"generator {generator.reference!r} is not what made this dataset: "
            f"its digest is {generator.digest[:19]}..., the job's {spec.digest[:19]}..."
        )
    return generator, same_judge(spec, judge, trust=trust)
