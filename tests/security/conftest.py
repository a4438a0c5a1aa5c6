from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fleet import Fleet, Worker, environment
from tests.servers import Valkey


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all, so that only the first worker calibrates."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, cache: Path) -> Iterator[Fleet]:
    """A fleet of one module, without workers yet. They may write below `inside` alone."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "inside").mkdir()
    (folder / "outside").mkdir()
    fleet = Fleet(folder, environment(valkey.url, f"test-{uuid.uuid4().hex[:8]}", cache))
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> Worker:
    """The one worker of the module."""
    return fleet.start_worker(roots=(fleet.folder / "inside",))
