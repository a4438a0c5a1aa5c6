"""A user without a home, as in a container that runs as a uid without an entry in passwd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.common.errors import UsageError
from pipeline.common.settings import load_settings


@pytest.fixture(autouse=True)
def _homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(_path: str) -> str:
        return "~/.cache/noisemill"

    monkeypatch.delenv("NOISEMILL_CACHE_DIR", raising=False)
    monkeypatch.setattr("os.path.expanduser", nowhere)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_the_cache_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / f"noisemill-home-{os.getuid()}"
    assert load_settings().cache_dir == own / ".cache" / "noisemill"
    assert own.stat().st_mode & 0o777 == 0o700
    assert load_settings().cache_dir == own / ".cache" / "noisemill"


@pytest.mark.parametrize("kind", ["open to others", "link"])
def test_a_folder_that_somebody_may_have_prepared_is_not_used(tmp_path: Path, kind: str) -> None:
    own = tmp_path / f"noisemill-home-{os.getuid()}"
    if kind == "link":
        (tmp_path / "theirs").mkdir()
        own.symlink_to(tmp_path / "theirs")
    else:
        own.mkdir()
        own.chmod(0o777)
    with pytest.raises(UsageError, match="set HOME or NOISEMILL_CACHE_DIR"):
        load_settings()
