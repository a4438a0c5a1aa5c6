"""Temporary folders go with their owners, however those end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.scratch import scratch_folder

OWNER = """
import sys, time
from pipeline.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_it_goes_at_its_end_and_when_its_owner_fails(tmp_path: Path) -> None:
    with scratch_folder("test") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("noisemill-test-")
        (folder / "file").touch()
    with pytest.raises(KeyboardInterrupt), scratch_folder("test"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_of_a_killed_owner_it_goes_when_the_next_one_begins(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    stranger = tmp_path / "noisemill-test-without-an-owner"
    stranger.mkdir()
    with scratch_folder("test"):
        assert left.exists()  # It lives.
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    assert left.exists()
    with scratch_folder("other"):
        assert left.exists()
    with scratch_folder("test") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, stranger])
