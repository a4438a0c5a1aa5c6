"""Deletes a dataset: the files that noisemill made, and no others."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from pipeline.common.errors import DatasetError, UnknownJobError, UsageError
from pipeline.common.settings import load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import read_spec
from pipeline.jobs.following import cancel_and_wait
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.queueing import destination_lease
from pipeline.spec import plan as shards
from pipeline.stores import open_store
from pipeline.stores.lease import Lease
from pipeline.stores.store import Store

#: Files besides shards and receipts. The manifest is deleted first, `job.json` last.
_RECORDS = (
    shards.SHARD_INDEX, shards.CARD, shards.CROISSANT, shards.PREVIEW, shards.REPORT, shards.EVALUATION,
    shards.NEAR_COPIES, shards.SELECTION, shards.LATENTS, shards.ATTRIBUTES, shards.LABELS, shards.ORIGIN,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What removing a dataset will delete."""

    destination: str
    #: Id of its job.
    job: str
    files: int
    size_bytes: int
    #: Files that noisemill did not make, which stay.
    others: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def plan_removal(destination: str) -> Removal:
    """What `remove_dataset` would delete. Raises DatasetError if there is no dataset."""
    dataset = Dataset(destination)
    files = size_bytes = others = 0
    owned = _OwnedFiles(dataset)
    for entry in dataset.store.list(""):
        if entry.name in owned:
            files, size_bytes = files + 1, size_bytes + entry.size_bytes
        else:
            others += 1
    job = dataset.spec.job_id(dataset.url)
    return Removal(destination=dataset.url, job=job, files=files, size_bytes=size_bytes, others=others)


def remove_dataset(destination: str, spec_sha256: str, ledger: Ledger | None = None, *, take_over: bool = False) -> int:
    """Deletes the dataset of this spec; returns the number of deleted files, 0 if it is gone already.

    The caller must have ended the job in `ledger`. Raises DestinationBusyError if another maker works there, unless
    `take_over`, which declares that maker gone.

    Other files stay, and so do their folders. An interrupted removal can be repeated.
    Raises StoreError, and DatasetError if another job is there.
    """
    store = open_store(destination)
    spec = read_spec(store)
    if spec is None:
        return 0
    if spec.sha256 != spec_sha256:
        raise DatasetError(f"{store.url} holds another job now: nothing is removed")
    with _lease(store, ledger).held(take_over=take_over):
        # The manifest first, the job last.
        store.delete([shards.MANIFEST])
        store.sweep(older_than_s=0)
        owned = _OwnedFiles(Dataset(store.url))
        names = [entry.name for entry in store.list("") if entry.name in owned and entry.name != shards.JOB]
        store.delete(names)
        store.delete([shards.JOB])
    store.prune()
    return len(names) + 2


def _lease(store: Store, ledger: Ledger | None) -> Lease:
    """The lease of the destination of the dataset to remove."""
    if ledger is not None:
        return destination_lease(store.url, "removal", ledger)
    return Lease(store, what="removal", ttl_s=load_settings().lease_s)


def refuse_live(ledger: Ledger, job_id: str, *, cancel: bool) -> None:
    """Raises UsageError if a job is live, unless it should be cancelled first."""
    try:
        live = ledger.job(job_id).live
    except UnknownJobError:
        return
    if not live:
        return
    if not cancel:
        raise UsageError(f"job {job_id} is still in progress: cancel it first, or add --cancel")
    cancel_and_wait(ledger, job_id)


class _OwnedFiles:
    """The set of all file names that a dataset's job can have made."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._spec = dataset.spec
        self._shard_files = lru_cache(64)(self._files_of)
        self._labels = lru_cache(None)(self._labels_of)

    def __contains__(self, name: str) -> bool:
        if name in (shards.JOB, shards.MANIFEST, *_RECORDS):
            return True
        receipt = shards.receipt_index(name)
        if receipt is not None:
            return receipt < len(self._dataset.plan)
        if shards.pack_number(name) is not None:
            return True
        if self._spec.layout == "class":
            return self._is_image(name)
        match = re.match(rf"{shards.SHARDS}/(\d{{8}})\b", name)
        return match is not None and name in self._shard_files(int(match[1]))

    def _is_image(self, name: str) -> bool:
        match = re.fullmatch(r"(.+)/(\d{12})\.png", name)
        if match is None or int(match[2]) >= self._spec.count:
            return False
        index, size = int(match[2]), self._spec.shard_size
        labels = self._labels(index // size)
        return bool(self._spec.sample_type.class_folders[labels[index % size]] == match[1])

    def _files_of(self, index: int) -> frozenset[str]:
        return frozenset(self._dataset.file_names(index)) if index < len(self._dataset.plan) else frozenset()

    def _labels_of(self, index: int) -> Any:
        shard = self._dataset.plan[index]
        return self._dataset.labels(shard.first, shard.count)
