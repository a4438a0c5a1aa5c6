"""`noisemill generators init`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cli.running import Run
from tests.end_to_end.fleet import TINY


def test_the_command(run: Run, tmp_path: Path) -> None:
    shutil.copy(TINY, tmp_path / "mine.keras")
    done = run("generators", "init", tmp_path / "mine.keras")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path}/mine.toml\n"
    again = run("generators", "init", tmp_path / "mine.keras")
    assert again.code == 2
    assert "mine.toml exists already: edit it, or replace it with --force" in again.err
    assert run("generators", "init", tmp_path / "mine.keras", "--force").code == 0
    for builtin in ("fashion", "s3://bucket/model"):
        assert "is not a file" in run("generators", "init", builtin).err
