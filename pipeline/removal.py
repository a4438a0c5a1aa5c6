"""Deletes a dataset: what noisemill made, and nothing else that lies there."""

from __future__ import annotations

import contextlib
import os

from pipeline import shards
from pipeline.client import read_spec
from pipeline.errors import DatasetError
from pipeline.stores import open_store

_FOLDERS = (f"{shards.SHARDS}/", f"{shards.RECEIPTS}/", f"{shards.IMAGES}/")
_FILES = (shards.CARD, shards.PREVIEW, shards.SHARD_INDEX, shards.LATENTS, shards.LABELS, "metadata.jsonl")


def remove_dataset(destination: str, spec_sha256: str) -> int:
    """Deletes the dataset of this spec; answers how many files went. Nothing where it is gone already.

    Files of others stay, and then so does the folder. Raises StoreError, DatasetError where another job lies there.
    """
    store = open_store(destination)
    spec = read_spec(store)
    if spec is None:
        return 0
    if spec.sha256 != spec_sha256:
        raise DatasetError(f"{store.url} holds another job now: it is left alone")
    # First what says that it is whole, last what says whose it is: a removal that is cut short can be repeated.
    store.delete([shards.MANIFEST])
    names = [entry.name for entry in store.list("") if entry.name in _FILES or entry.name.startswith(_FOLDERS)]
    store.sweep(older_than_s=0)
    store.delete(names)
    store.delete([shards.JOB])
    if not store.url.startswith("s3://"):
        _remove_empty_folders(store.url)
    return len(names) + 2


def _remove_empty_folders(root: str) -> None:
    for folder, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
