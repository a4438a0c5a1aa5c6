"""What `verify` finds damaged, `resume` makes again."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.verification import damaged_among, verify
from pipeline.spec import plan as shards


def withdraw_damaged(destination: str) -> None:
    """Withdraws the records of damaged shards, so that they count as missing; of a sound dataset, nothing.

    A dataset that says that it is whole is hashed through: somebody has a reason to doubt it. Of one that
    does not, the sizes are enough (`Dataset.finished`), or going on with a long job would begin with
    reading all that it has made.
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
    # The manifest goes first: from here on the dataset says itself that it is not whole.
    dataset.store.delete([shards.MANIFEST])
    dataset.store.delete(shards.receipt_name(index) for index in damaged)
