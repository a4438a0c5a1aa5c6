"""One S3 server for all tests of stores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import S3Server, s3_or_skip


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A running S3 server."""
    with s3_or_skip() as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with boto3's environment set for it alone: no profile and no file of the user's counts."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {**s3.environment, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return s3
