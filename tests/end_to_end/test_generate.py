"""`generate`: a dataset here and now, and nothing left behind but it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.faults.plugin import faulty
from tests.servers import S3Server, Valkey


@pytest.fixture
def here(tmp_path: Path, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    """A command line whose temporary files lie in a folder of their own, and that knows of no Redis."""
    # Not below tmp_path, whose name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="nm-", dir="/tmp") as temporary:
        own = environment(valkey.url, "unused", cache, TMPDIR=temporary, **s3.environment)
        del own["NOISEMILL_REDIS_URL"]
        yield Fleet(tmp_path, own)


def left_behind(here: Fleet) -> list[str]:
    """Temporary files of ours, and processes that know of the folder."""
    temporary = here.environment["TMPDIR"]
    files = [str(path) for path in Path(temporary).iterdir() if path.name.startswith("noisemill")]
    mark = f"TMPDIR={temporary}".encode()
    processes = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if mark in (process / "environ").read_bytes():
                    processes.append((process / "cmdline").read_text())
            except OSError:
                continue
    return files + processes


def start(here: Fleet, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "generate", *arguments],
        env=here.environment,
        cwd=here.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: what a script starts in the background ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_fashion_from_nothing_to_a_verified_dataset(here: Fleet) -> None:
    done = here.run("generate", "fashion", "out", "--count", "1200", "--shard-size", "512", "--seed", "3")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0] == f"1,200 samples in 3 shards, 3.8 MB: {here.folder}/out"
    assert "-bound" in told[1]
    assert told[2] == f"contact sheet: {here.folder}/out/preview.png"
    assert "tensorflow" not in done.stderr.lower()
    assert "oneDNN" not in done.stderr
    sha256 = hashlib.sha256((here.folder / "out/manifest.json").read_bytes()).hexdigest()
    assert done.stderr.endswith(f"\nmanifest sha256: {sha256}\n")
    assert left_behind(here) == []
    samples = np.load(here.folder / "out/shards/00000000.npy", mmap_mode="r")
    assert samples.shape == (512, 28, 28, 1)
    assert samples.min() >= -1
    assert samples.max() <= 1
    assert samples.std() > 0.3  # Trained: neither grey nor noise around zero.
    again = here.run("generate", "fashion", "out", "--count", "1200", "--shard-size", "512", "--seed", "3")
    assert again.returncode == 0
    assert "everything existed already" in again.stdout
    with (here.folder / "out/shards/00000001.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"flip")  # Of the same size: only its hash tells.
    assert here.run("verify", "out").returncode == 1
    resumed = here.run("resume", "out", "--json")
    assert json.loads(resumed.stdout)["made"] == 512
    checked = here.run("verify", "out", "--recompute", "5")
    assert checked.returncode == 0, checked.stderr
    assert "5 of 5" in checked.stdout


def test_in_fewer_bits(here: Fleet) -> None:
    done = here.run("generate", TINY, "out", "--count", "300", "--shard-size", "100", "--precision", "mixed_bfloat16")
    assert done.returncode == 0, done.stderr
    assert {receipt.made_by.precision for receipt in Dataset(here.folder / "out").finished().values()} == {
        "mixed_bfloat16"
    }
    for index in (1, 2):
        (here.folder / f"out/receipts/{index:08}.json").unlink()
    assert json.loads(here.run("resume", "out", "--json").stdout)["made"] == 200
    checked = here.run("verify", "out", "--recompute", "5", "--json")
    assert json.loads(checked.stdout)["recomputed"]["identical"] == 5
    assert here.run("generate", TINY, "whole", "--count", "300", "--shard-size", "100").returncode == 0
    fewer, whole = (Dataset(here.folder / name).samples(0, 300) for name in ("out", "whole"))
    assert 0 < np.abs(fewer - whole).max() < 0.1


def test_straight_to_s3(here: Fleet, s3: S3Server) -> None:
    destination = s3.destination()
    done = here.run("generate", TINY, destination, "--count", "500", "--shard-size", "200", "--json", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 500
    names = {entry["Key"].partition("/")[2] for entry in s3.client.list_objects_v2(
        Bucket=s3.bucket, Prefix=destination.partition(f"{s3.bucket}/")[2]
    )["Contents"]}  # fmt: skip
    assert {"job.json", "manifest.json", "README.md", "preview.png", "shards/00000002.npy"} <= names
    assert here.run("verify", destination).returncode == 0
    # Here workers start before it is known that there is nothing to make.
    again = here.run("generate", TINY, destination, "--count", "500", "--shard-size", "200", "--workers", "2")
    assert again.returncode == 0
    assert "everything existed already" in again.stdout
    assert left_behind(here) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_says_how_to_go_on_and_leaves_nothing(here: Fleet, number: signal.Signals) -> None:
    process = start(here, TINY, "out", "--count", "300k", "--shard-size", "100")
    here.wait_until(lambda: (here.folder / "out/receipts").exists())
    process.send_signal(number)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert out == ""
    told = f"noisemill: interrupted; 'noisemill resume {here.folder}/out' makes what is missing"
    assert said.splitlines()[-1] == told
    assert left_behind(here) == []
    finished = Dataset(here.folder / "out").finished()
    assert 0 < len(finished) < 3000
    assert not [name for name in os.listdir(here.folder / "out") if name.startswith(".")]


def test_a_second_ctrl_c_does_not_wait_for_the_batch(here: Fleet) -> None:
    here.environment |= faulty(pace_s=8)
    process = start(here, TINY, "out", "--count", "1k", "--shard-size", "100")
    here.wait_until(lambda: (here.folder / "out/receipts").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # The second shard's batch is still being predicted.
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=7)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("noisemill: interrupted; 'noisemill resume")
    assert "Traceback" not in said
    assert left_behind(here) == []


def test_killed_it_leaves_no_process(here: Fleet) -> None:
    process = start(here, TINY, "out", "--count", "300k", "--shard-size", "100")
    here.wait_until(lambda: (here.folder / "out/receipts").exists())
    process.kill()
    process.communicate()

    def processes() -> list[str]:
        return [one for one in left_behind(here) if not one.startswith(here.environment["TMPDIR"])]

    here.wait_until(lambda: not processes(), timeout_s=20)
    # Its temporary files go when the next one starts.
    assert left_behind(here) != []
    # The lease of the dead is no obstacle.
    removed = here.run("rm", "out", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not (here.folder / "out").exists()
    assert here.run("generate", TINY, "next", "--count", "10").returncode == 0
    assert left_behind(here) == []


def test_two_at_once_make_one_dataset(here: Fleet) -> None:
    job = (TINY, "out", "--count", "60k", "--shard-size", "100")
    first = start(here, *job)
    here.wait_until(lambda: (here.folder / "out/receipts").exists())
    second = start(here, *job)
    refused = here.run("rm", "out", "--yes")
    assert refused.returncode == 1
    assert "is being made by job tiny-" in refused.stderr
    assert first.communicate(timeout=600) is not None
    said = second.communicate(timeout=600)
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "everything existed already" in said[0]
    assert "is being made by job tiny-" in said[1]
    assert here.run("verify", "out").returncode == 0
    assert not [name for name in os.listdir(here.folder / "out") if name.startswith(".")]
    assert left_behind(here) == []


def test_under_nohup_it_outlives_its_terminal(here: Fleet) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "generate", TINY, "out", "--count", "5k", "--shard-size", "100"],
        env=here.environment,
        cwd=here.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    here.wait_until(lambda: (here.folder / "out/job.json").exists())
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said


def test_a_generator_that_does_not_load_is_one_line(here: Fleet) -> None:
    """Its records are sound, its weights are not: only the worker's child finds out, when it loads them."""
    broken = here.folder / "broken.keras"
    with zipfile.ZipFile(TINY) as sound, zipfile.ZipFile(broken, "w") as damaged:
        for name in sound.namelist():
            data = sound.read(name)
            damaged.writestr(name, data[: len(data) // 2] if name.endswith(".h5") else data)
    (here.folder / "broken.toml").write_text(Path(TINY).with_suffix(".toml").read_text())
    done = here.run("generate", "broken.keras", "out", "--count", "10")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("noisemill: the worker ended: generator")
    assert "Traceback" not in done.stderr
    assert left_behind(here) == []


def test_workers_that_started_before_the_request_was_read_end_with_it(here: Fleet) -> None:
    done = here.run("generate", TINY, "out", "--count", "10", "--labels", "class:99")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    here.wait_until(lambda: left_behind(here) == [])
    assert not (here.folder / "out").exists()


def test_no_worker_starts_where_there_is_nothing_to_make(here: Fleet) -> None:
    no_worker = faulty(
        die={"at": "pipeline.fleet.local:LocalWorkers.__enter__", "when": "before", "flags": str(here.folder)}
    )
    assert here.run("generate", TINY, "out", "--count", "10", "--dry-run", **no_worker).returncode == 0
    assert here.run("generate", TINY, "out", "--count", "10").returncode == 0
    again = here.run("generate", TINY, "out", "--count", "10", **no_worker)
    assert again.returncode == 0
    assert "everything existed already" in again.stdout
