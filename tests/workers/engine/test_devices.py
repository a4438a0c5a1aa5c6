"""Devices are found, pinned before TensorFlow is imported, and locked; nvidia-smi is imitated, the locks are real."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.common.errors import UsageError, WorkerError
from pipeline.fleet.launch import WorkerConfig, WorkerGroup, divide_cores
from workers.engine import devices
from workers.engine.devices import Device, confirm_device, list_gpus, pin_device, pin_own_device
from workers.supervisor import assign_ports, seats

ROOT = Path(__file__).parents[3]
VARIABLES = ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "TF_FORCE_GPU_ALLOW_GROWTH")

CONFIG = WorkerConfig(generator="fashion", redis_url="redis://h", output_roots=("/data",))

#: What `nvidia-smi -L` says of a machine with one GPU in two instances, and one that is whole.
MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-0)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 1g.5gb      Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-1)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPUs: an empty folder is all of its PATH, and no variable is set."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # So that what the test sets is taken back.
        monkeypatch.delenv(name)
    monkeypatch.setattr(devices, "_held", [])
    return tmp_path


def install_gpus(folder: Path, *names: str, code: int = 0) -> None:
    """An `nvidia-smi` that lists GPUs of these names, GPU-0, GPU-1 and so on."""
    lines = "".join(f"GPU {number}: {name} (UUID: GPU-{number}-uuid)\n" for number, name in enumerate(names))
    install_listing(folder, lines, code=code)


def install_listing(folder: Path, listing: str, *, code: int = 0) -> None:
    """An `nvidia-smi` that says this."""
    # No Python: its path may have a space in it, which a first line cannot hold.
    script = f"#!/bin/sh\nprintf %s {shlex.quote(listing)}\nexit {code}\n"
    (folder / "nvidia-smi").write_text(script)
    (folder / "nvidia-smi").chmod(0o755)


def models() -> list[str]:
    return [gpu.model for gpu in list_gpus()]


# -- finding ---------------------------------------------------------------------------------------


def test_without_gpus_it_is_the_cpu() -> None:
    assert list_gpus() == []
    device = pin_device("auto")
    assert (device.name, device.kind) == ("cpu", "cpu")
    assert device.model
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_auto_takes_the_first_gpu(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B")
    assert models() == ["NVIDIA A", "NVIDIA B"]
    device = pin_device("auto")
    assert (device.name, device.kind, device.model) == ("gpu:0", "gpu", "NVIDIA A")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0-uuid"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_gpu_by_number(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B")
    assert pin_device("gpu:1").model == "NVIDIA B"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1-uuid"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", ["C", "A"]),
        ("1", ["B"]),
        ("GPU-2-uuid", ["C"]),
        ("GPU-1", ["B"]),
        (" 0 , GPU-2 ", ["A", "C"]),
        ("0,7,1", ["A"]),
        ("GPU-none,0", []),
        ("0,0", ["A"]),
        ("", []),
        ("-1", []),
        (",", []),
    ],
)
def test_what_is_visible_already_is_respected(
    machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    install_gpus(machine, "A", "B", "C")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert models() == expected
    assert pin_device("auto").model == expected[0] if expected else pin_device("auto").kind == "cpu"


def test_numbers_count_among_the_visible_ones(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpus(machine, "NVIDIA A", "NVIDIA B", "NVIDIA C")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert pin_device("gpu:1").model == "NVIDIA A"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0-uuid"


def test_the_instances_of_a_divided_gpu_are_devices_of_their_own(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_listing(machine, MIG)
    assert [gpu.uuid for gpu in list_gpus()] == ["MIG-1111", "MIG-2222", "GPU-bbbb-1"]
    assert models()[:2] == ["NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"]
    pin_device("gpu:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-2222"
    for visible, expected in (("MIG-2222", ["MIG-2222"]), ("1", ["GPU-bbbb-1"]), ("0", ["MIG-1111", "MIG-2222"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.uuid for gpu in list_gpus()] == expected


def test_the_cpu_hides_the_gpus_and_bounds_its_threads(machine: Path) -> None:
    install_gpus(machine, "NVIDIA A")
    assert pin_device("cpu", threads=3).name == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == os.environ["OMP_NUM_THREADS"] == "3"


def test_a_driver_that_fails_shows_no_gpus(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_listing(machine, "NVIDIA-SMI has failed because it could not communicate with the driver\n", code=9)
    assert list_gpus() == []
    assert pin_device("auto").name == "cpu"
    assert "nvidia-smi fails, so no GPU is used: NVIDIA-SMI has failed because" in caplog.text


def test_a_program_that_cannot_run_shows_no_gpus(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    (machine / "nvidia-smi").write_bytes(b"\x7fELF no program")
    (machine / "nvidia-smi").chmod(0o755)
    assert list_gpus() == []
    assert "nvidia-smi cannot be run" in caplog.text


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


def test_workers_in_a_container_divide_its_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("pipeline.fleet.launch.usable_cores", lambda: 5)
    shared = divide_cores([CONFIG, CONFIG, replace(CONFIG, threads=7)])
    assert [(config.threads, config.cores) for config in shared] == [(1, ()), (1, ()), (7, ())]
    assert [config.threads for config in divide_cores([CONFIG] * 2)] == [2, 2]


@pytest.mark.parametrize(("usable", "given", "threads"), [(2, 0, "2"), (64, 0, None), (2, 5, "5")])
def test_a_container_s_quota_bounds_the_threads(
    monkeypatch: pytest.MonkeyPatch, usable: int, given: int, threads: str | None
) -> None:
    monkeypatch.setattr(devices, "visible_cores", lambda: 64)
    monkeypatch.setattr(devices, "usable_cores", lambda: usable)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    devices._pin_cpu(given)
    assert os.environ.get("TF_NUM_INTRAOP_THREADS") == threads
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)


# -- what TensorFlow makes of it -------------------------------------------------------------------


def test_where_tensorflow_cannot_use_the_gpu_it_is_the_cpu_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow is real, and finds no GPU here: as where its CUDA libraries are missing."""
    pytest.importorskip("tensorflow")
    device = confirm_device(Device(name="gpu:0", model="NVIDIA A"))
    assert device.name == "cpu"
    assert "TensorFlow cannot use NVIDIA A: are the CUDA libraries there" in caplog.text
    with pytest.raises(WorkerError, match="Or use --device cpu"):
        confirm_device(Device(name="gpu:0", model="NVIDIA A", by_name=True))
    assert confirm_device(Device(name="cpu", model="x")) == Device(name="cpu", model="x")


# -- locks -----------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from pipeline.fleet.launch import WorkerConfig
from workers.engine.devices import pin_own_device
config = WorkerConfig(generator="x", redis_url="x", device=sys.argv[2], per_gpu=int(sys.argv[3]))
print(pin_own_device(config, Path(sys.argv[1])).name, flush=True)
time.sleep(60)
"""


Holders = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold(machine: Path) -> Iterator[Holders]:
    """Starts other workers' processes, which hold their GPU until they are killed."""
    with contextlib.ExitStack() as stack:

        def start(device: str = "auto", per_gpu: int = 1) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLD, str(machine / "locks"), device, str(per_gpu)]
            holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
            stack.callback(holder.kill)
            return holder

        yield start


def has(holder: subprocess.Popen[str]) -> str:
    """The device that it got."""
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def own(machine: Path, **config: Any) -> str:
    """The device that a worker of this process gets, as if it were its first."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return pin_own_device(replace(CONFIG, **config), machine / "locks").name


def test_two_workers_never_have_one_gpu(machine: Path, hold: Holders, caplog: pytest.LogCaptureFixture) -> None:
    install_gpus(machine, "A", "B")
    first, second = hold("gpu:0"), hold("gpu:1")
    assert [has(first), has(second)] == ["gpu:0", "gpu:1"]
    with pytest.raises(WorkerError, match=r"gpu:1 \(B, GPU-1-uuid\) is taken by another worker: --per-gpu 2"):
        own(machine, device="gpu:1")
    assert own(machine) == "cpu"
    assert "all GPUs are taken by other workers (gpu:0 (A, GPU-0-uuid), gpu:1" in caplog.text
    # `generate` shares, rather than take minutes for seconds.
    assert own(machine, embedded=True) == "gpu:0"
    # Killed, it holds nothing.
    second.kill()
    second.wait()
    assert own(machine) == "gpu:1"


def test_as_many_workers_share_a_gpu_as_it_takes(machine: Path, hold: Holders) -> None:
    install_gpus(machine, "A")
    first, second = hold(per_gpu=2), hold(per_gpu=2)
    assert [has(first), has(second)] == ["gpu:0", "gpu:0"]
    assert own(machine, per_gpu=2) == "cpu"
    assert own(machine) == "cpu"
    first.kill()
    first.wait()
    assert own(machine) == "cpu"  # It is shared still, so it becomes nobody's own.
    assert own(machine, per_gpu=2) == "gpu:0"


def test_shared_workers_spread_over_the_gpus_first(machine: Path) -> None:
    install_gpus(machine, "A", "B")
    assert [own(machine, per_gpu=2) for _ in range(5)] == ["gpu:0", "gpu:1", "gpu:0", "gpu:1", "cpu"]


def test_locks_that_cannot_be_held_are_told(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_gpus(machine, "A")
    (machine / "locks").write_text("no folder")
    assert pin_own_device(CONFIG, machine / "locks").name == "gpu:0"
    assert "cannot hold the locks of GPUs, so other workers may use the same GPU" in caplog.text


def test_a_link_in_place_of_a_lock_is_not_followed(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_gpus(machine, "A")
    (machine / "locks").mkdir()
    (machine / "locks" / "GPU-0-uuid.lock").symlink_to(machine / "elsewhere")
    pin_own_device(CONFIG, machine / "locks")
    assert not (machine / "elsewhere").exists()
    assert "cannot hold the locks" in caplog.text


# -- cores -----------------------------------------------------------------------------------------


def test_workers_on_the_cpu_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fleet.launch.os.sched_getaffinity", lambda _: {0, 1, 2, 3, 8, 9, 10, 11})
    assert divide_cores([CONFIG]) == [CONFIG]
    shared = divide_cores([CONFIG] * 3)
    assert [one.cores for one in shared] == [(0, 1), (2, 3, 8), (9, 10, 11)]
    assert [one.threads for one in shared] == [2, 3, 3]
    crowded = divide_cores([CONFIG] * 9)
    assert {(one.cores, one.threads) for one in crowded} == {((), 1)}


def test_a_worker_stays_on_its_cores(machine: Path) -> None:
    """In a process of its own, since it cannot be undone for the threads that run already."""
    core = min(os.sched_getaffinity(0))
    code = (
        "import os; from pathlib import Path; from pipeline.fleet.launch import WorkerConfig as W\n"
        "from workers.engine.devices import pin_own_device\n"
        f"pin_own_device(W(generator='x', redis_url='x', cores=({core},), threads=1), Path('/nonexistent'))\n"
        "print(os.sched_getaffinity(0), os.environ['TF_NUM_INTRAOP_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{{{core}}} 1\n"


# -- one worker per device -------------------------------------------------------------------------


def group(config: WorkerConfig, count: int) -> list[Any]:
    """The seats of one group of workers."""
    return seats([WorkerGroup(config=config, count=count)])


def test_one_seat_per_gpu_or_as_many_as_it_takes(machine: Path) -> None:
    install_gpus(machine, "A", "B")
    assert [seat.config.device for seat in group(CONFIG, 0)] == ["gpu:0", "gpu:1"]
    assert [seat.config.device for seat in group(CONFIG, 1)] == ["gpu:0"]
    two_each = replace(CONFIG, per_gpu=2)
    assert [seat.config.device for seat in group(two_each, 0)] == ["gpu:0", "gpu:1", "gpu:0", "gpu:1"]
    assert [seat.config.device for seat in group(two_each, 3)] == ["gpu:0", "gpu:1", "gpu:0"]
    assert all(seat.config.output_roots == ("/data",) for seat in group(CONFIG, 0))
    with pytest.raises(UsageError, match="3 workers are too many for 2 GPUs that take 1 each: raise --per-gpu"):
        group(CONFIG, 3)


def test_without_gpus_seats_are_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fleet.launch.os.sched_getaffinity", lambda _: set(range(8)))
    assert [(seat.config.device, seat.config.threads) for seat in group(CONFIG, 0)] == [("cpu", 0)]
    assert [seat.config.threads for seat in group(CONFIG, 4)] == [2, 2, 2, 2]


def test_groups_share_the_gpus_of_a_machine(machine: Path) -> None:
    install_gpus(machine, "A", "B")
    fashion, faces = replace(CONFIG, generator="fashion"), replace(CONFIG, generator="faces")

    def placed(*groups: tuple[WorkerConfig, int]) -> list[tuple[str, str]]:
        found = seats([WorkerGroup(config=config, count=count) for config, count in groups])
        return [(seat.config.generator, seat.config.device) for seat in found]

    assert placed((fashion, 1), (faces, 1)) == [("fashion", "gpu:0"), ("faces", "gpu:1")]
    on_second, on_cpu = replace(faces, device="gpu:1"), replace(faces, device="cpu")
    assert placed((on_second, 0), (fashion, 1)) == [("faces", "gpu:1"), ("fashion", "gpu:0")]
    assert placed((fashion, 0), (on_cpu, 0)) == [("fashion", "gpu:0"), ("fashion", "gpu:1"), ("faces", "cpu")]
    with pytest.raises(UsageError, match="4 workers are too many for 2 GPUs that take 1 each"):
        placed((fashion, 0), (faces, 0))
    both = [replace(config, per_gpu=2) for config in (fashion, faces)]
    assert sorted(placed((both[0], 0), (both[1], 0))) == [
        ("faces", "gpu:0"), ("faces", "gpu:1"), ("fashion", "gpu:0"), ("fashion", "gpu:1"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="device 'gpu:2' of faces is not there: this machine shows 2 GPUs"):
        placed((replace(faces, device="gpu:2"), 0))


def test_groups_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fleet.launch.os.sched_getaffinity", lambda _: set(range(4)))
    found = seats([WorkerGroup(config=CONFIG, count=3), WorkerGroup(config=replace(CONFIG, device="cpu"))])
    assert [seat.config.cores for seat in found] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(UsageError, match="'gpu' of fashion is not there: this machine shows no GPU"):
        seats([WorkerGroup(config=replace(CONFIG, device="gpu"))])


def test_each_worker_serves_metrics_at_a_port_of_its_own() -> None:
    on_cpu = replace(CONFIG, device="cpu")
    found = seats([WorkerGroup(config=replace(on_cpu, metrics_port=9000), count=2)])
    assign_ports(found)
    assert [seat.config.metrics_port for seat in found] == [9000, 9001]
    found = seats([WorkerGroup(config=on_cpu, count=2)])
    assign_ports(found)
    assert [seat.config.metrics_port for seat in found] == [0, 0]


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
    [seat] = group(CONFIG, 1)
    while now[0] < 1400:
        seat.poll()
        now[0] += 0.5
    # It is seen half a second after its death at the latest.
    pauses = [later - earlier - 0.5 for earlier, later in pairwise(started)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert max(pauses) == 60
    # One that was well for long begins with a short pause again.
    seat.process = Process(None)
    seat.started_at = now[0]
    now[0] += 500
    seat.poll()
    seat.process = Process(-9)
    count = len(started)
    seat.poll()
    now[0] += 1.5
    seat.poll()
    assert len(started) == count + 1
