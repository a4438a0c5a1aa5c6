"""Devices are found and pinned before TensorFlow is imported; nvidia-smi is imitated."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import UsageError, WorkerError
from pipeline.launch import WorkerConfig
from workers.devices import list_gpus, pin_device
from workers.supervisor import seats

VARIABLES = ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "TF_FORCE_GPU_ALLOW_GROWTH")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPUs: an empty folder is all of its PATH, and no variable is set."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # So that what the test sets is taken back.
        monkeypatch.delenv(name)
    return tmp_path


def install_gpus(folder: Path, *names: str, code: int = 0) -> None:
    """An `nvidia-smi` that tells these names."""
    lines = "".join(f"echo '{name}'\n" for name in names)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}exit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_without_gpus_it_is_the_cpu() -> None:
    assert list_gpus() == []
    device = pin_device("auto")
    assert (device.name, device.kind) == ("cpu", "cpu")
    assert device.model
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_auto_takes_the_first_gpu(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B")
    assert list_gpus() == ["NVIDIA A", "NVIDIA B"]
    device = pin_device("auto")
    assert (device.name, device.kind, device.model) == ("gpu:0", "gpu", "NVIDIA A")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_gpu_by_number(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B")
    assert pin_device("gpu:1").model == "NVIDIA B"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_numbers_count_among_the_visible_ones(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B", "NVIDIA C")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert list_gpus() == ["NVIDIA C", "NVIDIA A"]
    assert pin_device("gpu:1").model == "NVIDIA A"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_visible_ones_by_uuid(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA A")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2c")
    assert len(list_gpus()) == 1
    assert pin_device("gpu").name == "gpu:0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-8f2c"


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_not_taken(machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    install_gpus(machine, "NVIDIA A")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert pin_device("auto").name == "cpu"


def test_the_cpu_hides_the_gpus_and_bounds_its_threads(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A")
    assert pin_device("cpu", threads=3).name == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == os.environ["OMP_NUM_THREADS"] == "3"


def test_a_driver_that_fails_shows_no_gpus(machine: Path) -> None:
    install_gpus(machine, "NVIDIA-SMI has failed because it could not communicate with the driver", code=9)
    assert list_gpus() == []
    assert pin_device("auto").name == "cpu"


def test_a_program_that_cannot_run_shows_no_gpus(machine: Path) -> None:
    (machine / "nvidia-smi").write_bytes(b"\x7fELF no program")
    (machine / "nvidia-smi").chmod(0o755)
    assert list_gpus() == []


@pytest.mark.parametrize(("wanted", "there"), [("gpu", 0), ("gpu:0", 0), ("gpu:2", 2)])
def test_a_gpu_that_is_not_there(machine: Path, wanted: str, there: int) -> None:
    if there:
        install_gpus(machine, *["NVIDIA A"] * there)
    with pytest.raises(
        WorkerError, match=f"'{wanted}' is not there: this machine shows {there} GPUs; use --device cpu"
    ):
        pin_device(wanted)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("wanted", ["", "cuda", "gpu:", "gpu:x", "gpu:-1", "cpu:0", "GPU", "gpu:\u00b2"])
def test_other_words_are_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="use auto, cpu, gpu or gpu:N"):
        pin_device(wanted)


# -- one worker per device -------------------------------------------------------------------------

CONFIG = WorkerConfig(generator="fashion", redis_url="redis://h", output_roots=("/data",))


def test_one_seat_per_gpu_in_turn_where_more_are_wanted(machine: Path) -> None:
    install_gpus(machine, "A", "B")
    assert [seat.config.device for seat in seats(CONFIG, 0)] == ["gpu:0", "gpu:1"]
    assert [seat.config.device for seat in seats(CONFIG, 1)] == ["gpu:0"]
    assert [seat.config.device for seat in seats(CONFIG, 3)] == ["gpu:0", "gpu:1", "gpu:0"]
    assert all(seat.config.output_roots == ("/data",) for seat in seats(CONFIG, 0))


def test_on_the_cpu_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.supervisor.os.cpu_count", lambda: 8)
    assert [(seat.config.device, seat.config.threads) for seat in seats(CONFIG, 0)] == [("cpu", 0)]
    assert [seat.config.threads for seat in seats(CONFIG, 3)] == [2, 2, 2]
    assert [seat.config.threads for seat in seats(CONFIG, 20)] == [1] * 20


class Process:
    """A worker that has ended, or not yet."""

    def __init__(self, returncode: int | None) -> None:
        self.returncode = returncode

    def poll(self) -> int | None:
        return self.returncode


def test_a_worker_that_dies_is_started_again_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    started: list[float] = []
    monkeypatch.setattr("workers.supervisor.time.monotonic", lambda: now[0])

    def popen(*_: object, **__: object) -> Process:
        started.append(now[0])
        return Process(1)

    monkeypatch.setattr("workers.supervisor.subprocess.Popen", popen)
    [seat] = seats(CONFIG, 1)
    while now[0] < 1400:
        seat.look()
        now[0] += 0.5
    # It is seen half a second after its death at the latest.
    pauses = [later - earlier - 0.5 for earlier, later in pairwise(started)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert max(pauses) == 60
    # One that was well for long begins with a short pause again.
    seat.process = Process(None)  # type: ignore[assignment]
    seat.started_at = now[0]
    now[0] += 500
    seat.look()
    seat.process = Process(-9)  # type: ignore[assignment]
    count = len(started)
    seat.look()
    now[0] += 1.5
    seat.look()
    assert len(started) == count + 1
