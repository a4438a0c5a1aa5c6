"""The search for garbage is paused, and goes on as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pipeline.common.garbage import kept_objects


@pytest.fixture(params=[True, False])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the search is enabled at first."""
    was_enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was_enabled else gc.disable)()


def test_the_search_is_paused(enabled: bool) -> None:
    with kept_objects():
        assert not gc.isenabled()
        with kept_objects():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is enabled


def test_an_error_ends_the_pause(enabled: bool) -> None:
    with suppress(ZeroDivisionError), kept_objects():
        assert 1 / 0
    assert gc.isenabled() is enabled
