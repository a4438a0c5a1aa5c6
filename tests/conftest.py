"""What tests of every package share: a private Valkey, settings with keys of the test's own, and an S3 server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Ledger
from tests.servers import S3Server, Valkey, s3_or_skip

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


@pytest.fixture(scope="session")
def plain_s3() -> Iterator[S3Server]:
    """A running S3 server, of which this process's environment says nothing."""
    with s3_or_skip() as server:
        yield server


@pytest.fixture(scope="module")
def s3(plain_s3: S3Server) -> Iterator[S3Server]:
    """A running S3 server; this process's environment says how to reach it, and no profile or file of the user's."""
    settings = {**plain_s3.environment, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        yield plain_s3
