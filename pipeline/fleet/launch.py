"""Starts worker processes: configuration, command line, environment.

`pipeline` never imports `workers`; it starts them as processes with this module.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from pipeline.common.limits import usable_cores
from pipeline.common.processes import python_command

_WORKER, _SCHEDULER, _GROUPS = "NOISEMILL_WORKER", "NOISEMILL_SCHEDULER", "NOISEMILL_GROUPS"
#: Folder in which a worker's parent and child exchange files.
RUN_FOLDER_VARIABLE = "NOISEMILL_RUN_FOLDER"
#: The id of a worker's parent and its children.
WORKER_ID_VARIABLE = "NOISEMILL_WORKER_ID"

#: Names of devices.
DEVICE = re.compile("auto|cpu|gpu(:[0-9]{1,4})?")

#: Environment of a worker's process. Between matrix products, numpy's own threads wait in a busy loop, on cores that
#: TensorFlow and encoders need: 64x64 RGB took half as long again (docs/decisions/0052-what-is-done-on-the-device.md).
NUMPY_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The configuration of one worker."""

    #: Generator reference; empty, as the URL, for a worker that gets the rest of its configuration later, by its stdin.
    generator: str
    redis_url: str
    #: "auto", "cpu", "gpu" or "gpu:N".
    device: str = "auto"
    #: Folders and s3:// prefixes below which it may write, normalized.
    output_roots: tuple[str, ...] = ()
    #: CPU threads for the forward pass; 0: TensorFlow's default.
    threads: int = 0
    #: Cores to use on the CPU; empty: any.
    cores: tuple[int, ...] = ()
    #: The most workers on one GPU.
    per_gpu: int = 1
    #: Whether it dies with the process that started it, `client` (`pipeline.stores.lease.this_process`).
    embedded: bool = False
    client: str = ""
    #: Batch (0: any) and samples of the one job that it is started for; 0 samples: it serves any job.
    batch: int = 0
    samples: int = 0
    #: Of that job, how it samples (`pipeline.spec.sampler`); empty for the generator's usual way.
    sampler: str = ""
    #: References of judges that it may load, besides the built-in ones.
    judges: tuple[str, ...] = ()
    #: "info", "warning" and so on.
    log_level: str = "info"
    #: "text" or "json".
    log_format: str = "text"
    #: Port of its metrics; 0: none.
    metrics_port: int = 0

    @property
    def title(self) -> str:
        """Its name in logs."""
        return f"worker of {self.generator.rpartition('/')[2]} on {self.device}"

    def command(self) -> list[str]:
        """The command that runs this worker."""
        return python_command("workers.worker.main")

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment with this configuration, so that no secret is visible in `ps`."""
        return {**NUMPY_ENVIRONMENT, **(os.environ if base is None else base), _WORKER: json.dumps(asdict(self))}


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """Workers that `up` runs, which differ only in their devices."""

    config: WorkerConfig
    #: Number of workers; 0: as many as its devices allow.
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The configuration of the scheduler."""

    redis_url: str
    #: "info", "warning" and so on.
    log_level: str = "info"
    #: "text" or "json".
    log_format: str = "text"
    #: Port of its metrics; 0: none.
    metrics_port: int = 0

    @property
    def title(self) -> str:
        """Its name in logs."""
        return "scheduler"

    def command(self) -> list[str]:
        """The command that runs the scheduler."""
        return python_command("workers.scheduler.main")

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment with this configuration, so that no secret is visible in `ps`."""
        return {**(os.environ if base is None else base), _SCHEDULER: json.dumps(asdict(self))}


def config_from_environment() -> WorkerConfig:
    """The worker's configuration from the environment."""
    return config_from_json(json.loads(os.environ[_WORKER]))


def config_from_stdin() -> WorkerConfig | None:
    """The rest of the configuration of a worker that was started before it was known; None if it is not to be.

    The process that starts the worker writes it, or closes its end.
    """
    line = sys.stdin.readline()
    return config_from_json(json.loads(line)) if line else None


def config_from_json(data: dict[str, Any]) -> WorkerConfig:
    """The configuration from its fields."""
    data |= {name: tuple(data[name]) for name in ("output_roots", "cores", "judges")}
    return WorkerConfig(**data)


def supervisor_command() -> list[str]:
    """The command that runs the workers of `supervisor_environment`."""
    return python_command("workers.supervisor")


def supervisor_environment(groups: Sequence[WorkerGroup], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment with groups of workers."""
    return {**(os.environ if base is None else base), _GROUPS: json.dumps([asdict(group) for group in groups])}


def groups_from_environment() -> list[WorkerGroup]:
    """The groups from the environment; empty if there are none."""
    groups = json.loads(os.environ.get(_GROUPS, "[]"))
    return [WorkerGroup(config=config_from_json(group["config"]), count=group["count"]) for group in groups]


def scheduler_from_environment() -> SchedulerConfig | None:
    """The scheduler's configuration from the environment; None if there is none."""
    text = os.environ.get(_SCHEDULER)
    return None if text is None else SchedulerConfig(**json.loads(text))


def divide_cores(configs: Sequence[WorkerConfig]) -> list[WorkerConfig]:
    """The same workers with the cores of this process divided among them, and a thread for each core.

    A single worker keeps TensorFlow's default. If there are more workers than cores, each has one thread on any core.
    In a container whose quota is less than its cores, only threads are divided: it may use any core, each for a part
    of the time.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    usable = usable_cores()
    if len(configs) < 2:
        return list(configs)
    if usable < len(cores):
        return [replace(config, threads=config.threads or max(1, usable // len(configs))) for config in configs]
    if len(cores) < len(configs):
        return [replace(config, threads=config.threads or 1) for config in configs]
    bounds = [len(cores) * number // len(configs) for number in range(len(configs) + 1)]
    shares = [tuple(cores[first:last]) for first, last in pairwise(bounds)]
    return [
        replace(config, cores=share, threads=config.threads or len(share))
        for config, share in zip(configs, shares, strict=True)
    ]
