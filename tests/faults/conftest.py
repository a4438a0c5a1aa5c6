"""What tests of faults share: a fleet, one calibration for all of them, and the figures that they print at the end."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fleet import Fleet, environment
from tests.servers import Valkey

_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a line with what was measured, to be printed after the tests."""
    lines = request.config.stash.setdefault(_FIGURES, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all, so that only the first worker calibrates."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def durable_valkey() -> Iterator[Valkey]:
    """One on a port that comes back, when it is started again, with all that it had said yes to."""
    with Valkey(port=0, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def fleet_on(tmp_path: Path, cache: Path) -> Iterator[Callable[[Valkey], Fleet]]:
    """Makes fleets without workers on a server of the test's own: to kill, stop, starve and fill."""
    made: list[Fleet] = []

    def make(server: Valkey) -> Fleet:
        made.append(Fleet(tmp_path, environment(server.url, f"faults-{uuid.uuid4().hex[:6]}", cache)))
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


@pytest.fixture
def fleet(fleet_on: Callable[[Valkey], Fleet], durable_valkey: Valkey) -> Fleet:
    """A fleet on a Valkey that comes back with what it knew."""
    return fleet_on(durable_valkey)
