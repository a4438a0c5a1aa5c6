"""What the end-to-end tests share, for recipes: servers, a fleet, one dataset that was really made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Run, runner
from tests.end_to_end.conftest import cache, s3, valkey
from tests.end_to_end.fleet import TINY, Fleet, environment, one_worker
from tests.servers import S3Server, Valkey

__all__ = ["cache", "s3", "valkey"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""
    return runner(capsys)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    """One worker for all."""
    variables = environment(valkey.url, "recipes", cache, **s3.environment)
    with one_worker(tmp_path_factory.mktemp("fleet"), variables) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def original(fleet: Fleet, s3: S3Server) -> Path:
    """1,000 samples of `tiny` in 10 shards, made by the fleet, with their recipe beside them."""
    folder = fleet.folder / "original"
    job = fleet.submit(TINY, str(folder), "--count", "1000", "--shard-size", "100", "--seed", "5")
    assert fleet.watch(job).returncode == 0
    assert fleet.run("recipe", str(folder)).returncode == 0
    return folder
