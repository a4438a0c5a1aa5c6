"""Finds devices and pins one, before TensorFlow is imported; keeps two workers from taking one GPU."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import UsageError, WorkerError
from pipeline.common.limits import usable_cores, visible_cores
from pipeline.fleet.launch import DEVICE, WorkerConfig

log = logging.getLogger("noisemill")

#: Descriptors of the locks that this process holds. The kernel releases them when it ends.
_held: list[int] = []

_GPU_LINE = re.compile(r"GPU (\d+): (.+) \(UUID: (\S+)\)")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)")


@dataclass(frozen=True, kw_only=True)
class Device:
    """The one device of a worker."""

    #: "cpu" or "gpu:N".
    name: str
    #: Its model name.
    model: str
    #: Whether the user named it, so that no other device may be used.
    by_name: bool = False

    @property
    def kind(self) -> str:
        """ "cpu" or "gpu"."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU, or one MIG instance of it."""

    #: Its model name.
    model: str
    #: GPU-... or MIG-..., as in CUDA_VISIBLE_DEVICES.
    uuid: str


def pin_device(wanted: str, threads: int = 0) -> Device:
    """Makes one device the only one that TensorFlow will see. Call it before TensorFlow is imported.

    `wanted` is "auto" (the first GPU, else the CPU), "cpu", "gpu" or "gpu:N". `threads` limits the CPU's threads; 0
    leaves the number to TensorFlow, unless a container's quota is smaller than the number of visible cores. Raises
    UsageError for another word, WorkerError for a GPU that does not exist.
    """
    gpus = _fitting(wanted)
    return _pin_gpu(wanted, *next(iter(gpus.items()))) if gpus else _pin_cpu(threads)


def pin_own_device(config: WorkerConfig, lock_folder: Path) -> Device:
    """As `pin_device`, for a worker: takes one of the wanted GPUs that fewer than `per_gpu` workers use.

    If all are taken, "auto" takes the CPU, and a GPU by name raises WorkerError. An embedded worker shares the first
    GPU instead, since the user of `generate` waits for it.
    """
    wanted, per_gpu = config.device, config.per_gpu
    gpus = _fitting(wanted)
    if not gpus:
        return _pin_cpu(config.threads, config.cores)
    for slot in range(per_gpu):
        for number, gpu in gpus.items():
            if _lock(lock_folder, gpu, slot, per_gpu):
                return _pin_gpu(wanted, number, gpu)
    if config.embedded:
        return _pin_gpu(wanted, *next(iter(gpus.items())))
    taken = ", ".join(f"gpu:{number} ({gpu.model}, {gpu.uuid})" for number, gpu in gpus.items())
    if wanted != "auto":
        raise WorkerError(f"{taken} is taken by another worker: --per-gpu 2 lets 'noisemill up' put two on each")
    log.warning("all GPUs are taken by other workers (%s): this one uses the CPU", taken)
    return _pin_cpu(config.threads, config.cores)


def confirm_device(device: Device) -> Device:
    """The device that TensorFlow, already started, really uses: the CPU if it cannot use the pinned GPU.

    Raises WorkerError if the user named the GPU.
    """
    import tensorflow as tf  # Heavy, and only after the device is pinned.

    if device.kind == "cpu" or tf.config.list_physical_devices("GPU"):
        return device
    reason = f"TensorFlow cannot use {device.model}: are the CUDA libraries there (the package's extra 'cuda')?"
    if device.by_name:
        raise WorkerError(f"{reason}\nOr use --device cpu.")
    log.warning("%s It uses the CPU.", reason)
    return Device(name="cpu", model=_cpu_model())


def list_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that this process may use, by `nvidia-smi`; none if that is missing or fails.

    A GPU that is divided by MIG is replaced by its instances. CUDA_VISIBLE_DEVICES is respected: its numbers are those
    of `nvidia-smi`, its UUIDs may be abbreviated.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or not shutil.which("nvidia-smi"):
        return []
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi cannot be run, so no GPU is used: %s", error)
        return []
    if found.returncode != 0:
        said = (found.stdout + found.stderr).strip().splitlines()
        log.warning("nvidia-smi fails, so no GPU is used: %s", said[0] if said else f"exit code {found.returncode}")
        return []
    units = _parse(found.stdout)
    if visible is None:
        return [unit for instances in units for unit in instances]
    return _visible(units, visible.split(","))


def _parse(listing: str) -> list[list[Gpu]]:
    """For each GPU in the output of `nvidia-smi -L`, its MIG instances, or the GPU itself."""
    units: list[list[Gpu]] = []
    whole: Gpu | None = None
    for line in listing.splitlines():
        if match := _GPU_LINE.fullmatch(line.rstrip()):
            whole = Gpu(model=match[2], uuid=match[3])
            units.append([whole])
        elif (match := _MIG_LINE.fullmatch(line.rstrip())) and whole is not None:
            instances = [] if units[-1] == [whole] else units[-1]
            units[-1] = [*instances, Gpu(model=f"{whole.model} MIG {match[1]}", uuid=match[2])]
    return units


def _visible(units: list[list[Gpu]], entries: list[str]) -> list[Gpu]:
    """The devices in CUDA_VISIBLE_DEVICES, in its order; as in CUDA, an invalid entry ends the list."""
    found: list[Gpu] = []
    for entry in (entry.strip() for entry in entries):
        if entry.isdecimal():
            named = units[int(entry)] if int(entry) < len(units) else []
        else:
            named = [unit for instances in units for unit in instances if entry and unit.uuid.startswith(entry)]
        if not named:
            break
        found += [unit for unit in named if unit not in found]
    return found


def _fitting(wanted: str) -> dict[int, Gpu]:
    """The GPUs that `wanted` selects, by their number; none means the CPU."""
    if not DEVICE.fullmatch(wanted):
        raise UsageError(f"device {wanted!r} is unknown: use auto, cpu, gpu or gpu:N")
    gpus = dict(enumerate([] if wanted == "cpu" else list_gpus()))
    if not wanted.startswith("gpu"):
        return gpus
    number = wanted.partition(":")[2]
    fitting = {int(number): gpus[int(number)]} if number and int(number) in gpus else {} if number else gpus
    if not fitting:
        raise WorkerError(f"device {wanted!r} is not there: this machine shows {len(gpus)} GPUs; use --device cpu")
    return fitting


def _pin_gpu(wanted: str, number: int, gpu: Gpu) -> Device:
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid
    # Only as much memory as needed, so that other workers on the same GPU have room.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return Device(name=f"gpu:{number}", model=gpu.model, by_name=wanted != "auto")


def _pin_cpu(threads: int, cores: Sequence[int] = ()) -> Device:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if cores and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, cores)
        except OSError as error:  # No longer available. This only affects speed.
            log.warning("cores %s cannot be used: %s", ", ".join(map(str, cores)), error)
    # TensorFlow starts a thread for each visible core; a smaller quota would then stop them all most of the time.
    threads = threads or (usable_cores() if usable_cores() < visible_cores() else 0)
    if threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
    return Device(name="cpu", model=_cpu_model())


def _lock(folder: Path, gpu: Gpu, slot: int, per_gpu: int) -> bool:
    """Takes a slot on a GPU until this process ends. Returns False if other workers have it.

    A worker with a GPU of its own locks it exclusively. Workers that share a GPU share that lock and lock one slot
    each. Containers on one host must share the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o1777)  # For workers of other users too.
        whole = _flock(folder / f"{gpu.uuid}.lock", exclusive=per_gpu == 1)
        if whole is None:
            return False
        if per_gpu > 1:
            place = _flock(folder / f"{gpu.uuid}.{slot}.lock", exclusive=True)
            if place is None:
                os.close(whole)
                return False
            _held.append(place)
        _held.append(whole)
    except OSError as error:
        log.warning("%s cannot hold the locks of GPUs, so other workers may use the same GPU: %s", folder, error)
    return True


def _flock(path: Path, *, exclusive: bool) -> int | None:
    """The descriptor of a locked file; None if another process holds the lock."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model or platform.processor() or platform.machine()
