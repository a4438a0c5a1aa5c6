"""What `verify` finds damaged, `resume` makes again."""

from __future__ import annotations

from pipeline import shards
from pipeline.dataset import Dataset
from pipeline.verification import verify


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
    # The manifest goes first: from here on the dataset says itself that it is not whole.
    dataset.store.delete([shards.MANIFEST])
    dataset.store.delete(shards.receipt_name(index) for index in report.damaged)
