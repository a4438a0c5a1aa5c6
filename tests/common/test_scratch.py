"""Temporary folders go with their owners, however those end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.common.scratch import scratch_folder

OWNER = """
import sys, time
from pipeline.common.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of its own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="nm-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(folder)


def test_where_the_path_is_too_long_for_a_socket_it_lies_in_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    with scratch_folder("test") as folder:
        assert folder.parent == Path("/tmp")
    assert not folder.exists()


def test_it_goes_at_its_end_and_when_its_owner_fails(temporary: Path) -> None:
    with scratch_folder("test") as folder:
        assert folder.parent == temporary
        assert folder.name.startswith("noisemill-test-")
        (folder / "file").touch()
    with pytest.raises(KeyboardInterrupt), scratch_folder("test"):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_of_a_killed_owner_it_goes_when_the_next_one_begins(temporary: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    stranger = temporary / "noisemill-test-without-an-owner"
    stranger.mkdir()
    with scratch_folder("test"):
        assert left.exists()  # It lives.
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    assert left.exists()
    with scratch_folder("other"):
        assert left.exists()
    with scratch_folder("test") as folder:
        assert sorted(temporary.iterdir()) == sorted([folder, stranger])
