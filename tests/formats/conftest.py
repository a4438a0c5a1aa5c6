"""Stores that formats are tried on: local disk, and S3 where a server can be started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.stores import Store, open_store
from tests.servers import S3Server, s3_or_skip


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A running S3 server."""
    with s3_or_skip() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store; its `url` is its folder."""
    return open_store(tmp_path / "dataset")


@pytest.fixture
def s3_store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty S3 store."""
    settings = {**s3.environment, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    store = open_store(s3.destination())
    yield store
    store.delete([entry.name for entry in store.list()])
