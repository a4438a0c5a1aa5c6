"""`noisemill ui` as a command: it starts, says where, and ends; bad values are told in a line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.running import Run, runner


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("NOISEMILL_UI_TOKEN", raising=False)
    return runner(capsys)


def test_it_responds_once_it_says_so_and_ends_by_sigterm(dataset: Path, tmp_path: Path):
    environment = {**os.environ, "NOISEMILL_REDIS_URL": f"unix://{tmp_path}/absent", "NOISEMILL_UI_TOKEN": "t" * 16}
    command = [sys.executable, "-m", "pipeline.cli", "ui", str(dataset), "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert address.endswith(f"/?token={'t' * 16}")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address.partition("?")[0], timeout=600)
        process.terminate()
        assert process.wait(600) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("absent",), "holds no dataset"),
        (("--token", "short"), "at least 16 characters"),
        (("--host", "256.0.0.1"), "cannot listen on 256.0.0.1"),
        (("gs://bucket/x",), "cannot be written"),
        (("--port", "65536"), "not a whole number from 0 to 65535"),
    ],
)
def test_bad_values(run: Run, words: tuple[str, ...], told: str):
    outcome = run("ui", *words)
    assert outcome.code in (1, 2)
    assert told in outcome.err
    assert len(outcome.err.splitlines()) <= 2


def test_a_port_in_use(run: Run, dataset: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = run("ui", dataset, "--port", taken.getsockname()[1])
    assert outcome.code == 2
    assert "Address already in use" in outcome.err
