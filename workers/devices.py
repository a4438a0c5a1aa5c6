"""Finds devices and pins one, before TensorFlow is imported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass

from pipeline.errors import UsageError, WorkerError


@dataclass(frozen=True, kw_only=True)
class Device:
    """The one device of a worker."""

    #: "cpu" or "gpu:N".
    name: str
    #: What it calls itself.
    model: str

    @property
    def kind(self) -> str:
        """ "cpu" or "gpu"."""
        return self.name.partition(":")[0]


def pin_device(wanted: str, threads: int = 0) -> Device:
    """Makes one device the only one that TensorFlow will see; to be called before it is imported.

    `wanted` is "auto" (the first GPU, else the CPU), "cpu", "gpu" or "gpu:N".
    Raises UsageError for another word, WorkerError for a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", wanted):
        raise UsageError(f"device {wanted!r} is unknown: use auto, cpu, gpu or gpu:N")
    gpus = [] if wanted == "cpu" else list_gpus()
    number = int(wanted.partition(":")[2] or 0)
    if wanted.startswith("gpu") and number >= len(gpus):
        raise WorkerError(f"device {wanted!r} is not there: this machine shows {len(gpus)} GPUs; use --device cpu")
    if threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return Device(name="cpu", model=_cpu_model())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return Device(name=f"gpu:{number}", model=gpus[number])


def list_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, by `nvidia-smi`; none where it is absent."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []
    return names if visible is None else _visible(names, visible.split(","))


def _visible(names: list[str], entries: list[str]) -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES means, in its order; of those given by UUID only the number is known."""
    if all(entry.strip().isdecimal() for entry in entries):
        return [names[int(entry)] for entry in entries if int(entry) < len(names)]
    return names[: len(entries)]


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        model = ""
    return model or platform.processor() or platform.machine()
