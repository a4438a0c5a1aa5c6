"""Stores that formats are tried on: local disk, and S3 where a server can be started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.stores import Store, open_store
from tests.servers import S3Server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store; its `url` is its folder."""
    return open_store(tmp_path / "dataset")


@pytest.fixture
def s3_store(s3: S3Server) -> Iterator[Store]:
    """An empty S3 store."""
    store = open_store(s3.destination())
    yield store
    store.delete([entry.name for entry in store.list()])
