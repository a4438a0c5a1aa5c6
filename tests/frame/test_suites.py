"""The lists of tests that belong to a suite: each entry names a test that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest

TESTS = Path(conftest.__file__).parent


@pytest.mark.parametrize("entry", sorted(conftest.LONG | conftest.SLOW))
def test_what_is_long_or_slow_exists(entry: str) -> None:
    name, _, test = entry.partition("::")
    assert (TESTS / name).is_file()
    assert not test or f"\ndef {test}(" in (TESTS / name).read_text(encoding="utf-8")


def test_what_is_quick_exists() -> None:
    for folder in conftest.QUICK:
        assert (TESTS / folder).is_dir()
    files = {path.stem for folder in conftest.QUICK for path in (TESTS / folder).rglob("test_*.py")}
    assert set(conftest.NOT_QUICK_FILES) <= files
