"""`watch` of several jobs on a real pseudo-terminal: a line each, that tells them apart and what they wait for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Ledger
from tests.cli.conftest import TINY
from tests.cli.running import Run


class Terminal:
    """`noisemill WORDS` on a terminal of so many columns."""

    def __init__(self, columns: int, *words: str) -> None:
        self._side, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "CI")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words],
            stdin=end,
            stdout=end,
            stderr=end,
            cwd=Path(__file__).parents[2],
            env={**environment, "TERM": "xterm-256color"},
        )
        os.close(end)
        self.shown = ""

    def read_until(self, pattern: str, timeout_s: float = 600) -> str:
        """What it shows, without colours and movements, up to a text that matches."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.text(), re.DOTALL):
            assert time.monotonic() < deadline, self.text()
            if select.select([self._side], [], [], 0.5)[0]:
                try:
                    self.shown += os.read(self._side, 65536).decode(errors="replace")
                except OSError:  # The other side is closed: it has ended.
                    break
        return self.text()

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown).replace("\r\n", "\n").replace("\r", "\n")

    def close(self) -> int:
        code = self.process.wait(600)
        os.close(self._side)
        return code


@pytest.mark.parametrize("columns", [120, 72])
def test_each_job_has_its_line(run: Run, redis: Settings, dataset: Path, tmp_path: Path, columns: int) -> None:
    def submit(folder: Path, *more: str) -> str:
        return run("submit", TINY, folder, "-n", "100", "--seed", "7", "--shard-size", "30", *more).out.strip()

    done, waiting, running = submit(dataset), submit(tmp_path / "waiting"), submit(tmp_path / "running")
    ledger = Ledger(redis)
    ledger.claim(running, "host-1")
    terminal = Terminal(columns, "watch", done, waiting, running)
    text = terminal.read_until(rf"{running} [^\n]*%[^\n]*/100 [^\n]*\n")
    # The latest of each; what was there before, it was written over.
    lines = {line.split(" ")[0]: line for line in text.splitlines()}
    first = [lines[job] for job in (done, waiting, running)]
    assert max(map(len, first)) <= columns
    assert re.search(r"━ 100% +100/100 done", first[0])
    assert re.search(r"━ +0% +0/100 waiting", first[1])
    assert re.search(r"━ +0% +0/100 0/s", first[2])
    if columns == 120:
        assert first[1].rstrip().endswith("waiting for a worker")
    # The columns stand under each other.
    assert len({line.index("%") for line in first}) == 1
    ledger.cancel(waiting)
    ledger.cancel(running)
    end = terminal.read_until(rf"job {running} was cancelled.*makes the rest")
    assert f"{done}: done, 100 samples in" in end
    assert terminal.close() == 1
