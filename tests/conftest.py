"""What tests of every package share: one private Valkey, and settings with a key prefix of the test's own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeline.ledger import Ledger
from pipeline.settings import Settings
from tests.servers import Valkey

# On a busy machine, any example may take long; the time-out of a test is for what hangs.
hypothesis.settings.register_profile("noisemill", deadline=None)
hypothesis.settings.load_profile("noisemill")


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A running Valkey on a Unix socket. Without one, tests skip; where CI is set they fail."""
    try:
        server = Valkey().__enter__()
    except (RuntimeError, ImportError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield server
    server.__exit__(None, None, None)


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    """Settings of one test: its own keys on the shared Valkey, its own cache, leases that last 30 s."""
    return Settings(redis_url=valkey.url, key_prefix=f"test-{uuid.uuid4().hex[:8]}", cache_dir=tmp_path / "cache")


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    """An empty ledger."""
    return Ledger(settings)
