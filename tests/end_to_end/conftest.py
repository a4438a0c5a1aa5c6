from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fleet import Fleet, environment
from tests.servers import S3Server, Valkey, s3_server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Its credentials go into this process's environment too, where the tests read what workers wrote."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all, so that only the first worker calibrates."""
    return tmp_path_factory.mktemp("cache")


def _fleet(folder: Path, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    fleet = Fleet(folder, environment(valkey.url, f"test-{uuid.uuid4().hex[:8]}", cache, **s3.environment))
    yield fleet
    fleet.stop()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    """Two workers that all tests share; for what does them no harm."""
    fleet = next(made := _fleet(tmp_path_factory.mktemp("fleet"), valkey, s3, cache))
    first, second = fleet.start_worker(ready=False), fleet.start_worker(ready=False)
    fleet.wait_until(lambda: fleet.is_up(first) and fleet.is_up(second), told=first.said)
    yield fleet
    next(made, None)


@pytest.fixture
def lone_fleet(tmp_path: Path, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    """A fleet without workers, of one test alone: to kill, stop and starve."""
    yield from _fleet(tmp_path, valkey, s3, cache)
