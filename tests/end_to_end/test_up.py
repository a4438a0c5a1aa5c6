"""`noisemill up` with a file: generators, the scheduler and metrics of one machine, as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.end_to_end.fleet import TINY, Fleet, Worker
from tests.servers import free_port


def test_what_the_file_names_comes_up_and_goes_down(lone_fleet: Fleet) -> None:
    folder = lone_fleet.folder
    (folder / "tiny.keras").write_bytes(Path(TINY).read_bytes())
    (folder / "tiny.toml").write_text(Path(TINY).with_suffix(".toml").read_text())
    port = free_port()
    (folder / "noisemill.toml").write_text(
        f"""
        redis = {json.dumps(lone_fleet.environment["NOISEMILL_REDIS_URL"])}
        output_roots = [{json.dumps(str(folder))}]
        metrics_port = {port}
        log_format = "json"
        scheduler = true

        [[workers]]
        generator = "tiny.keras"
        device = "cpu"
        """
    )
    environment = {name: value for name, value in lone_fleet.environment.items() if name != "NOISEMILL_REDIS_URL"}
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "up"], env=environment, cwd=folder, stdout=output, stderr=output
        )
    up = Worker(process, log)
    lone_fleet.workers.append(up)
    lone_fleet.wait_until(lambda: len(lone_fleet.json("workers")) == 1, told=up.said)
    [one] = lone_fleet.json("workers")
    assert (one["generator"], one["output_roots"]) == ("tiny", [str(folder)])
    for number, told in enumerate((b"noisemill_worker_info{", b"noisemill_scheduler_active 1")):
        with urlopen(f"http://127.0.0.1:{port + number}/metrics", timeout=10) as answer:
            assert told in answer.read()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children]
    assert sorted(command[3] for command in commands) == [b"workers.scheduler.main", b"workers.worker.main"]
    job = lone_fleet.submit("tiny.keras", "out", "--count", "100")
    assert lone_fleet.watch(job).returncode == 0
    assert up.stop() == 0
    assert lone_fleet.json("workers") == []
    assert all(not os.path.exists(f"/proc/{pid}") for pid in children)
    assert all(json.loads(line)["level"] != "error" for line in up.said().splitlines() if line.startswith("{"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no generator: name one, as in 'noisemill up fashion', or write a noisemill.toml"),
        (["--config", "none.toml"], "none.toml cannot be read: No such file or directory"),
        (["fashion", "--config", "x.toml"], "generator 'fashion' and --config exclude each other"),
        (["--config", "x.toml", "--per-gpu", "2"], "--per-gpu needs a GENERATOR; for several, set it in the file"),
        (["--config", "x.toml", "--workers", "2"], "--workers needs a GENERATOR"),
        (["--config", "unknown.toml"], "generator 'fashoin' is unknown"),
    ],
)
def test_what_cannot_come_up(lone_fleet: Fleet, arguments: list[str], expected: str) -> None:
    (lone_fleet.folder / "x.toml").write_text('[[workers]]\ngenerator = "fashion"')
    (lone_fleet.folder / "unknown.toml").write_text('[[workers]]\ngenerator = "fashoin"')
    done = lone_fleet.run("up", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
