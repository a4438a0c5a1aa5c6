"""Withdraws the records of damaged shards, so that `resume` makes them again."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.verification import damaged_among, verify
from pipeline.spec import plan as shards


def withdraw_damaged(destination: str) -> None:
    """Withdraws the records of damaged shards, so that they count as missing.

    A dataset with a manifest is hashed completely: the user has a reason to doubt it. Otherwise sizes are enough
    (`Dataset.finished`); hashing would begin every resume of a long job with reading all of its output.
    """
    dataset = Dataset(destination)
    if not dataset.store.exists(shards.MANIFEST):
        return
    report = verify(destination)
    if not report.mendable:
        return
    _withdraw(dataset, report.damaged)


def withdraw_damaged_shards(dataset: Dataset, indices: Iterable[int]) -> None:
    """Hashes these shards and withdraws the records of those that are damaged."""
    damaged = damaged_among(dataset, indices)
    if damaged:
        _withdraw(dataset, damaged)


def _withdraw(dataset: Dataset, damaged: Iterable[int]) -> None:
    # The manifest is deleted first: from now on the dataset counts as incomplete.
    dataset.store.delete([shards.MANIFEST])
    dataset.store.delete(shards.receipt_name(index) for index in damaged)
