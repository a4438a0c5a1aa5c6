"""Standard streams that are closed when a command starts, as under some daemons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
for number in map(int, sys.argv[1].split()):
    os.close(number)
from pipeline.common.processes import open_missing_streams
for number, name in enumerate(("stdin", "stdout", "stderr")):
    if str(number) in sys.argv[1]:
        setattr(sys, name, None)
open_missing_streams()
with open(sys.argv[2], "w") as file:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    assert sys.stdin.read() == ""
    file.write(str(file.fileno()))
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "1 2", "0 1 2"])
def test_what_is_printed_goes_into_no_file(tmp_path: Path, closed: str) -> None:
    place = tmp_path / "file"
    command = [sys.executable, "-c", _PROGRAM, closed, str(place)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(place.read_text()) > 2
    assert done.stdout == (b"" if "1" in closed else b"to stdout\n")


def test_streams_that_are_there_stay(capfd: pytest.CaptureFixture[str]) -> None:
    from pipeline.common.processes import open_missing_streams

    before = [os.fstat(number).st_ino for number in range(3)]
    open_missing_streams()
    assert [os.fstat(number).st_ino for number in range(3)] == before
