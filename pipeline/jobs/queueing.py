"""Adds a prepared job to the ledger and sends its wake-ups."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from shlex import quote

from pipeline.common.errors import DatasetError, DestinationOccupiedError, UnknownJobError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import difference
from pipeline.datasets.receipts import EngineRecord, Receipt
from pipeline.datasets.verification import damaged_inputs
from pipeline.jobs.following import Watcher, raise_unless_done, wait_for
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger, NewJob, Order, QueueOptions
from pipeline.jobs.worker_info import WorkerInfo, describe_roots
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.selection import Selection
from pipeline.stores import open_store
from pipeline.stores.lease import Lease


@dataclass
class JobHandle:
    """A queued job."""

    id: str
    destination: str
    _ledger: Ledger = field(repr=False)
    #: A warning for the user, for example that no worker holds the generator.
    warning: str | None = None

    def status(self) -> Job:
        """Its state now. Raises UnknownJobError if Redis has lost it."""
        return self._ledger.job(self.id)

    def cancel(self) -> Job:
        """Cancels it within one batch; finished shards stay. Returns its state."""
        self._ledger.cancel(self.id)
        return self.status()

    def wait(self, watcher: Watcher | None = None, timeout_s: float | None = None) -> Job:
        """Waits until it has ended; returns its last state.

        If Redis loses it meanwhile, it is added again. Raises JobFailedError if it failed or was cancelled,
        TimeoutError after `timeout_s` seconds.
        """
        job = wait_for(self._ledger, self.id, watcher, timeout_s=timeout_s, enters_again=True)
        raise_unless_done(job)
        return job


def enqueue(
    spec: JobSpec,
    destination: str,
    ledger: Ledger,
    queue: QueueOptions | None = None,
    *,
    only: Selection | None = None,
    made_by: EngineRecord | None = None,
    lease: Lease | None = None,
) -> JobHandle:
    """Adds a prepared job to the ledger, with the shards at the destination as done, and sends its wake-ups.

    `only` limits it to a selection of shards. Engine and batch are those of `made_by`, else
    of existing shards. A job that is live already continues, and its entry is repaired. Raises DestinationOccupiedError
    if it makes other shards, DestinationBusyError if another maker works there and the caller does not hold the
    `lease`.
    """
    job_id = spec.job_id(destination)
    handle = JobHandle(job_id, destination, ledger)
    queue = queue or QueueOptions()
    if is_live(ledger, job_id):
        _refuse_other_selection(ledger.job(job_id), only)
        ledger.repair(job_id)
        if queue.webhook is not None:
            handle.warning = "it was queued before: its webhook stays the same"
        _wake(handle, spec, queue.priority)
        return handle
    held = nullcontext() if lease else destination_lease(destination, f"job {job_id}", ledger).held()
    with held:  # The workers take it when they begin.
        finished, whole = _existing(spec, destination, only)
        made_by = made_by or next((receipt.made_by for receipt in finished.values()), None)
        new = NewJob(
            job_id=job_id,
            spec=spec,
            destination=destination,
            queue=queue,
            engine=made_by.engine if made_by else None,
            batch=made_by.batch if made_by else 0,
            only=only,
        )
        ledger.enter(new, done=((index, receipt.count) for index, receipt in finished.items()), whole=whole)
    _wake(handle, spec, queue.priority)
    return handle


def enter_again(ledger: Ledger, job_id: str, order: Order) -> None:
    """Adds a job that Redis has lost, as it was ordered, with what is at its destination as done.

    Raises DestinationBusyError while workers, or another maker, are still there.
    """
    new = order.new_job(job_id)
    enqueue(new.spec, new.destination, ledger, new.queue, only=new.only)


def destination_lease(destination: str, what: str, ledger: Ledger, *, process: str = "") -> Lease:
    """The lease of a destination for one ledger, whose clients and workers share it."""
    return Lease(
        open_store(destination), what=what, ttl_s=ledger.settings.lease_s, holder=ledger.identity(), process=process
    )


def _wake(handle: JobHandle, spec: JobSpec, priority: int) -> None:
    """Sends the job's missing wake-ups; adds a warning if no worker could take one."""
    ledger = handle._ledger
    holders = ledger.workers(spec.digest)
    able = sum(worker.may_write(handle.destination) for worker in holders)

    from pipeline.jobs.broker import Wakeups  # Celery takes 0.2 s to import; meanwhile local workers start.

    Wakeups(ledger.settings, ledger).send_missing(handle.id, spec.digest, priority, workers=max(1, able))
    if not able and handle.warning is None and ledger.job(handle.id).live:
        handle.warning = _no_worker_warning(spec, handle.destination, holders)


def _existing(spec: JobSpec, destination: str, only: Selection | None) -> tuple[dict[int, Receipt], bool]:
    """The receipts of wanted shards at a destination, and whether nothing is left to make.

    Raises DestinationOccupiedError if the destination belongs to another job now, DatasetError if its inputs are
    damaged.
    """
    dataset = Dataset(destination)
    if dataset.spec.sha256 != spec.sha256:
        raise DestinationOccupiedError(
            f"{destination} is another job's now ({difference(dataset.spec, spec)}): "
            f"'noisemill resume {quote(destination)}' continues that job"
        )
    if problems := damaged_inputs(dataset):
        raise DatasetError(f"{destination}: {problems[0]}")
    dataset.store.sweep()
    if only is not None:
        finished = {index: receipt for index, receipt in dataset.finished().items() if index in only}
        return finished, len(finished) == len(only)
    # The job wants all shards from now on.
    dataset.store.delete([shards.SELECTION])
    finished = dataset.finished()
    return finished, len(finished) == len(spec.plan) and dataset.whole


def last_priority(ledger: Ledger, spec: JobSpec, destination: str) -> int:
    """The priority with which a job was last queued; the default if the ledger does not have it."""
    try:
        return ledger.job(spec.job_id(destination)).priority
    except UnknownJobError:
        return 5


def _refuse_other_selection(job: Job, only: Selection | None) -> None:
    wanted = None if only is None else str(only)
    if job.selection != wanted:
        raise DestinationOccupiedError(
            f"job {job.id} makes {f'shards {job.selection}' if job.selection else 'all shards'} of {job.destination} "
            f"now: wait for it ('noisemill watch {job.id}') or cancel it"
        )


def is_live(ledger: Ledger, job_id: str) -> bool:
    try:
        return ledger.job(job_id).live
    except UnknownJobError:
        return False


def _no_worker_warning(spec: JobSpec, destination: str, holders: Sequence[WorkerInfo]) -> str:
    root = "" if destination.startswith("s3://") else f" --output-root {quote(os.path.dirname(destination))}"
    command = f"noisemill worker {quote(spec.generator)}{root}"
    if holders:
        below = describe_roots([root for worker in holders for root in worker.output_roots])
        return f"queued, but no worker that is up may write to {destination} ({below}): start one with\n  {command}"
    return f"queued, but no worker holds {spec.generator_name!r}: start one with\n  {command}"
