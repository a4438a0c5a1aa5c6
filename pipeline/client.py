"""What the command line and Python users call: generate, submit, status, wait, cancel, resume."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any

from pipeline import shards
from pipeline.broker import Wakeups
from pipeline.dataset import Dataset
from pipeline.embedded import LocalWorkers, private_server
from pipeline.errors import (
    DatasetError,
    DestinationOccupiedError,
    GeneratorError,
    JobFailedError,
    LedgerError,
    UnknownJobError,
    UsageError,
    one_line,
)
from pipeline.generators import Generator, find_generator
from pipeline.hooks import check_webhook
from pipeline.launch import WorkerConfig, share_cores
from pipeline.ledger import Job, Ledger
from pipeline.mending import withdraw_damaged
from pipeline.receipts import EngineRecord
from pipeline.records import read_record
from pipeline.request import JobRequest, Upload
from pipeline.selection import Selection
from pipeline.settings import Settings, load_settings
from pipeline.spec import JobSpec
from pipeline.stores import open_store
from pipeline.stores.store import Store
from pipeline.verification import damaged_inputs

#: What is called with the job's state while one waits for it.
Watcher = Callable[[Job], None]

_POLL_S = 0.2


@dataclass
class JobHandle:
    """A queued job."""

    id: str
    destination: str
    _ledger: Ledger = field(repr=False)
    #: What the user should know, such as that no worker holds the generator.
    warning: str | None = None

    def status(self) -> Job:
        """Its state now. Raises UnknownJobError where Redis has lost it."""
        return self._ledger.job(self.id)

    def cancel(self) -> Job:
        """Cancels it within one batch; finished shards stay. Answers its state."""
        self._ledger.cancel(self.id)
        return self.status()

    def wait(self, watcher: Watcher | None = None, timeout_s: float | None = None) -> Job:
        """Waits until it has ended; answers its last state.

        Raises JobFailedError if it failed or was cancelled, TimeoutError after `timeout_s` seconds.
        """
        job = wait_for(self._ledger, self.id, watcher, timeout_s=timeout_s)
        raise_unless_done(job)
        return job


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
    """Makes a dataset here and now, with a private Valkey and local workers; answers it when it is whole.

    Options are those of `JobRequest`: seed, shard_size, format, dtype, layout, labels, noise, latents,
    batch. A destination that holds the same job already is completed.
    Raises NoisemillError of the kind that tells what is wrong.
    """
    found = find_generator(generator)
    spec, uploads = JobRequest(count=count, **options).resolve(found)
    store = prepare(spec, destination, uploads)
    make_here(spec, store.url, found, workers=workers, device=device, watcher=watcher)
    return Dataset(store.url)


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
    """Queues a job in Redis for workers elsewhere; options as for `generate`.

    Priority 0 comes first, 9 last; `parallel` bounds the number of workers, 0 leaves it open. `webhook` is a URL that
    is called when the job ends.
    """
    found = find_generator(generator)
    spec, uploads = JobRequest(count=count, **options).resolve(found)
    if webhook is not None:
        check_webhook(webhook)
    settings = load_settings(redis_url=redis_url)
    ledger = Ledger(settings)
    ledger.ping()
    store = prepare(spec, destination, uploads)
    return enqueue(spec, store.url, settings, ledger, priority=priority, parallel=parallel, webhook=webhook)


def prepare(spec: JobSpec, destination: str | os.PathLike[str], uploads: list[Upload]) -> Store:
    """Makes a destination the place of a job: checks it, writes `job.json` and what the user brought.

    Raises DestinationOccupiedError where it holds another job or other files.
    """
    store = open_store(destination)
    # First, since it gives up soonest where an endpoint does not answer.
    store.check_writable()
    present = read_spec(store)
    if present is None:
        _refuse_other_files(store)
        for upload in uploads:
            upload.write(store)
        store.write(shards.JOB, spec.to_json().encode())
    elif present.sha256 != spec.sha256:
        raise DestinationOccupiedError(
            f"{store.url} holds another job ({_difference(present, spec)}): use another destination, "
            f"or {_way_on(present, spec, store.url)}"
        )
    return store


def read_spec(store: Store) -> JobSpec | None:
    """The spec at a destination; None where there is none. Raises DatasetError if it is malformed."""
    try:
        text = read_record(store, shards.JOB)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return JobSpec.from_json(text, source=f"{store.url}/{shards.JOB}")


def _refuse_other_files(store: Store) -> None:
    other = next(iter(store.list("")), None)
    if other is not None:
        raise DestinationOccupiedError(
            f"{store.url} is not empty and holds no job (there is {other.name!r}): use an empty or new destination"
        )


def _way_on(present: JobSpec, wanted: JobSpec, url: str) -> str:
    if present.samples_sha256 == wanted.samples_sha256 and present.count < wanted.count:
        return f"'noisemill extend {quote(url)} --count {wanted.count}' to make that one larger"
    return f"'noisemill resume {quote(url)}' to complete that one"


def _difference(present: JobSpec, wanted: JobSpec) -> str:
    names = (
        "count",
        "seed",
        "digest",
        "shard_size",
        "format",
        "dtype",
        "layout",
        "labels",
        "noise",
        "latents",
        "batch",
    )
    different = [name for name in names if getattr(present, name) != getattr(wanted, name)]
    told = [f"{name.replace('_', ' ')} {getattr(present, name)}, not {getattr(wanted, name)}" for name in different[:3]]
    return "; ".join(told) or "of another kind"


def enqueue(
    spec: JobSpec,
    destination: str,
    settings: Settings,
    ledger: Ledger,
    *,
    priority: int = 5,
    parallel: int = 0,
    schedule: str | None = None,
    webhook: str | None = None,
    only: Selection | None = None,
    made_by: EngineRecord | None = None,
) -> JobHandle:
    """Enters a prepared job in the ledger, with what lies at the destination, and sends its wake-ups.

    `schedule` names the schedule that asks for it; `webhook` is a URL that hears of its end (`pipeline.hooks`).
    `only` leaves out all other shards. Engine and batch are those of `made_by`, else those of what lies there.
    A job that is live already is left as it is. Raises DestinationOccupiedError where it makes other shards.
    """
    job_id = spec.job_id(destination)
    handle = JobHandle(job_id, destination, ledger)
    if _is_live(ledger, job_id):
        _refuse_other_selection(ledger.job(job_id), only)
        if webhook is not None:
            handle.warning = "it was queued before: its webhook stays as it was then"
        return handle
    dataset = Dataset(destination)
    if dataset.spec.sha256 != spec.sha256:
        raise DestinationOccupiedError(
            f"{destination} is another job's now ({_difference(dataset.spec, spec)}): "
            f"'noisemill resume {quote(destination)}' goes on with that one"
        )
    if problems := damaged_inputs(dataset):
        raise DatasetError(f"{destination}: {problems[0]}")
    dataset.store.sweep()
    if only is None:
        # From here on all shards are wanted.
        dataset.store.delete([shards.SELECTION])
    finished = {index: receipt for index, receipt in dataset.finished().items() if only is None or index in only}
    made_by = made_by or next((receipt.made_by for receipt in finished.values()), None)
    ledger.enter(
        job_id=job_id,
        spec=spec,
        destination=destination,
        priority=priority,
        parallel=parallel,
        done=((index, receipt.count) for index, receipt in finished.items()),
        engine=made_by.engine if made_by else None,
        batch=made_by.batch if made_by else 0,
        whole=len(finished) == len(only) if only else len(finished) == len(spec.plan) and dataset.whole,
        only=only,
        schedule=schedule,
        webhook=webhook,
    )
    able = [worker for worker in ledger.workers(spec.digest) if worker.may_write(destination)]
    Wakeups(settings, ledger).send_missing(job_id, spec.digest, priority, workers=max(1, len(able)))
    if not able and ledger.job(job_id).live:
        handle.warning = _nobody_up(spec, destination, some_hold_it=bool(ledger.workers(spec.digest)))
    return handle


def _refuse_other_selection(job: Job, only: Selection | None) -> None:
    wanted = None if only is None else str(only)
    if job.selection != wanted:
        raise DestinationOccupiedError(
            f"job {job.id} makes {f'shards {job.selection}' if job.selection else 'all shards'} of {job.destination} "
            f"now: wait for it ('noisemill watch {job.id}') or cancel it"
        )


def _is_live(ledger: Ledger, job_id: str) -> bool:
    try:
        return ledger.job(job_id).live
    except UnknownJobError:
        return False


def _nobody_up(spec: JobSpec, destination: str, *, some_hold_it: bool) -> str:
    root = "" if destination.startswith("s3://") else f" --output-root {quote(os.path.dirname(destination))}"
    command = f"noisemill worker {quote(spec.generator)}{root}"
    if some_hold_it:
        return f"queued, but no worker that is up may write to {destination}: start one with\n  {command}"
    return f"queued, but no worker holds {spec.generator_name!r}: start one with\n  {command}"


class Follower:
    """Looks at a job again and again, and is patient with a Redis that is away for less than a lease."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self._job_id = ledger, job_id
        self._last: Job | None = None
        self._heard_at = time.monotonic()

    def look(self) -> Job | None:
        """The job's state; None where Redis does not answer just now.

        Raises LedgerError once it has not answered for a lease, JobFailedError where it has forgotten the job,
        UnknownJobError where it never knew it.
        """
        try:
            self._last = self._ledger.job(self._job_id)
        except UnknownJobError:
            if self._last is None:
                raise
            raise JobFailedError(
                f"Redis knows nothing of job {self._job_id} any more: it was emptied, or came back without its data\n"
                f"'noisemill resume {quote(self._last.destination)}' makes what is missing"
            ) from None
        except LedgerError:
            if self._last is None or time.monotonic() - self._heard_at > self._ledger.settings.lease_s:
                raise
            return None
        self._heard_at = time.monotonic()
        return self._last


def wait_for(
    ledger: Ledger,
    job_id: str,
    watcher: Watcher | None = None,
    *,
    timeout_s: float | None = None,
    check: Callable[[], None] | None = None,
) -> Job:
    """Waits until a job has ended, calling `watcher` with its state meanwhile and `check` at each look.

    Raises what `Follower.look` raises, and TimeoutError.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    follower = Follower(ledger, job_id)
    while True:
        job = follower.look()
        if job is not None:
            if watcher is not None:
                watcher(job)
            if not job.live:
                return job
        if check is not None:
            check()
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"job {job_id} has not ended after {timeout_s:g} s")
        time.sleep(_POLL_S)


def cancel_and_wait(ledger: Ledger, job_id: str) -> None:
    """Cancels a job, if it is live, and waits until the workers that are up have put it down.

    One that has not heard of it yet may still put a shard in place.
    """
    try:
        if ledger.cancel(job_id) != "cancelled":
            return
    except UnknownJobError:
        return
    until = time.monotonic() + ledger.settings.lease_s
    while any(worker.job == job_id for worker in ledger.workers()) and time.monotonic() < until:
        time.sleep(_POLL_S)


def raise_unless_done(job: Job) -> None:
    """Raises JobFailedError, saying what is missing and how to go on, unless the job is done."""
    if job.state == "done":
        return
    if job.state == "cancelled":
        raise JobFailedError(
            f"job {job.id} was cancelled; {job.shards_done} of {job.shards} shards are kept: "
            f"'noisemill resume {quote(job.destination)}' makes the rest"
        )
    if job.error:
        raise JobFailedError(
            f"job {job.id} failed: {job.error}\n'noisemill resume {quote(job.destination)}' goes on once that is mended"
        )
    shard, reason = min(job.failed.items(), default=(0, "no reason given"))
    raise JobFailedError(
        f"job {job.id} failed: {len(job.failed)} of {job.shards} shards, the first is {shard}: {reason}\n"
        f"'noisemill resume {quote(job.destination)}' tries them again"
    )


def make_here(
    spec: JobSpec,
    destination: str,
    generator: Generator,
    *,
    workers: int = 1,
    device: str = "auto",
    watcher: Watcher | None = None,
    only: Selection | None = None,
    made_by: EngineRecord | None = None,
) -> Job | None:
    """Makes what is missing of a prepared job, or of some of its shards, with a private Valkey and local workers.

    Answers the job's last state; None where there was nothing to make. Raises JobFailedError.
    """
    dataset = Dataset(destination)
    if (only is not None or dataset.whole) and not _missing(dataset, only):
        return None
    with contextlib.ExitStack() as stack:
        settings = replace(load_settings(), redis_url=stack.enter_context(private_server()), reconcile_s=0.5)
        local = stack.enter_context(LocalWorkers(_configs(generator, settings, destination, workers, device)))
        ledger = Ledger(settings)
        handle = enqueue(spec, destination, settings, ledger, only=only, made_by=made_by)
        try:
            job = wait_for(ledger, handle.id, watcher, check=local.check)
        except LedgerError as error:
            raise LedgerError(
                f"the private Valkey has ended, or does not answer ({one_line(error)})\n"
                f"'noisemill resume {quote(destination)}' makes what is missing"
            ) from error
        raise_unless_done(job)
        return job


def _missing(dataset: Dataset, only: Selection | None) -> bool:
    finished = dataset.finished()
    return any(index not in finished for index in only or range(len(dataset.plan)))


def _configs(
    generator: Generator, settings: Settings, destination: str, workers: int, device: str
) -> list[WorkerConfig]:
    config = WorkerConfig(
        generator=generator.reference,
        redis_url=settings.redis_url,
        device=device,
        output_roots=(destination,),
        embedded=True,
        log_level="warning",
    )
    return share_cores([config] * workers)


def resume(
    job_or_destination: str,
    *,
    redis_url: str | None = None,
    here: bool = False,
    workers: int = 1,
    parallel: int = 0,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> JobHandle | Job | None:
    """Makes what is missing of a job: queued in Redis (answers its handle), or `here` as `generate` does.

    A destination is enough, whatever Redis knows. A job's id is looked up in Redis. Here, `workers` on
    `device` are started; queued, at most `parallel` share the job.
    """
    if here:
        spec, destination = spec_at(job_or_destination)
        withdraw_damaged(destination)
        return make_here(spec, destination, same_generator(spec), workers=workers, device=device, watcher=watcher)
    settings = load_settings(redis_url=redis_url)
    ledger = Ledger(settings)
    ledger.ping()
    spec, destination = _job_or_destination(job_or_destination, ledger)
    open_store(destination).check_writable()
    if not _is_live(ledger, spec.job_id(destination)):
        withdraw_damaged(destination)
    priority = last_priority(ledger, spec, destination)
    return enqueue(spec, destination, settings, ledger, priority=priority, parallel=parallel)


def spec_at(destination: str) -> tuple[JobSpec, str]:
    """Spec and normalised place of the job at a destination. Raises DatasetError where there is none."""
    store = open_store(destination)
    spec = read_spec(store)
    if spec is None:
        raise DatasetError(f"{store.url} holds no job: there is no {shards.JOB} to resume from")
    return spec, store.url


def _job_or_destination(text: str, ledger: Ledger) -> tuple[JobSpec, str]:
    if "/" not in text and not os.path.isdir(text):
        return ledger.spec(ledger.find_job(text))
    return spec_at(text)


def last_priority(ledger: Ledger, spec: JobSpec, destination: str) -> int:
    """The priority with which a job was last queued; that of new ones where the ledger does not know it."""
    try:
        return ledger.job(spec.job_id(destination)).priority
    except UnknownJobError:
        return 5


def same_generator(spec: JobSpec) -> Generator:
    """The generator of a spec as it is now. Raises GeneratorError where it is not the same any more."""
    try:
        generator = find_generator(spec.generator)
    except UsageError as error:
        raise GeneratorError(f"the job's generator cannot be found: {error}") from None
    if generator.digest != spec.digest:
        raise GeneratorError(
            f"generator {spec.generator!r} is not what made this dataset: "
            f"its digest is {generator.digest[:19]}..., the job's {spec.digest[:19]}..."
        )
    return generator
