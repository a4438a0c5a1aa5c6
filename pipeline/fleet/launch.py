"""How a worker process is started: configuration, command line, environment.

`pipeline` never imports `workers`; it starts them as processes, through here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from pipeline.common.processes import python_command

_WORKER, _SCHEDULER, _GROUPS = "NOISEMILL_WORKER", "NOISEMILL_SCHEDULER", "NOISEMILL_GROUPS"
#: Folder in which a worker's parent and child leave word for each other.
RUN_FOLDER_VARIABLE = "NOISEMILL_RUN_FOLDER"
#: The id that a worker's parent has made for itself and its children.
WORKER_ID_VARIABLE = "NOISEMILL_WORKER_ID"

#: What a device is asked for by.
DEVICE = re.compile("auto|cpu|gpu(:[0-9]{1,4})?")

#: What a worker's process begins with. Between products of matrices, numpy's own threads wait in a loop, on cores that
#: TensorFlow and encoders want: 64x64 RGB took half as long again (docs/decisions/0052-what-is-done-on-the-device.md).
NUMPY_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What one worker is started with."""

    #: Generator reference.
    generator: str
    redis_url: str
    #: "auto", "cpu", "gpu" or "gpu:N".
    device: str = "auto"
    #: Folders and s3:// prefixes that it may write below, normalised.
    output_roots: tuple[str, ...] = ()
    #: Threads of the CPU for the forward pass; 0 leaves it to TensorFlow.
    threads: int = 0
    #: Cores to stay on where it computes on the CPU; none named is any.
    cores: tuple[int, ...] = ()
    #: How many workers a GPU takes.
    per_gpu: int = 1
    #: Dies with the process that started it, which `client` names (`pipeline.stores.lease.this_process`).
    embedded: bool = False
    client: str = ""
    #: Of the one job that it is started for: its batch, 0 for any, and its samples, 0 where it serves any job.
    batch: int = 0
    samples: int = 0
    #: Of that job, how it samples (`pipeline.spec.sampler`); empty for the generator's usual way.
    sampler: str = ""
    #: "info", "warning" and so on.
    log_level: str = "info"
    #: "text" or "json".
    log_format: str = "text"
    #: Where Prometheus finds its metrics; 0 is nowhere.
    metrics_port: int = 0

    @property
    def title(self) -> str:
        """What logs call it."""
        return f"worker of {self.generator.rpartition('/')[2]} on {self.device}"

    def command(self) -> list[str]:
        """The command that runs this worker."""
        return python_command("workers.worker.main")

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment that carries this configuration, so that no secret shows in `ps`."""
        return {**NUMPY_ENVIRONMENT, **(os.environ if base is None else base), _WORKER: json.dumps(asdict(self))}


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """Workers that `up` keeps: alike but for their devices."""

    config: WorkerConfig
    #: How many; 0 is as many as its devices take.
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """What the scheduler is started with."""

    redis_url: str
    #: "info", "warning" and so on.
    log_level: str = "info"
    #: "text" or "json".
    log_format: str = "text"
    #: Where Prometheus finds its metrics; 0 is nowhere.
    metrics_port: int = 0

    @property
    def title(self) -> str:
        """What logs call it."""
        return "scheduler"

    def command(self) -> list[str]:
        """The command that runs the scheduler."""
        return python_command("workers.scheduler.main")

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment that carries this configuration, so that no secret shows in `ps`."""
        return {**(os.environ if base is None else base), _SCHEDULER: json.dumps(asdict(self))}


def config_from_environment() -> WorkerConfig:
    """The worker's configuration that `environment` carried."""
    return _config(json.loads(os.environ[_WORKER]))


def _config(data: dict[str, Any]) -> WorkerConfig:
    data |= {name: tuple(data[name]) for name in ("output_roots", "cores")}
    return WorkerConfig(**data)


def supervisor_command() -> list[str]:
    """The command that keeps up what `supervisor_environment` carries."""
    return python_command("workers.supervisor")


def supervisor_environment(groups: Sequence[WorkerGroup], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that carries groups of workers."""
    return {**(os.environ if base is None else base), _GROUPS: json.dumps([asdict(group) for group in groups])}


def groups_from_environment() -> list[WorkerGroup]:
    """The groups that `supervisor_environment` carried; none where it carried none."""
    groups = json.loads(os.environ.get(_GROUPS, "[]"))
    return [WorkerGroup(config=_config(group["config"]), count=group["count"]) for group in groups]


def scheduler_from_environment() -> SchedulerConfig | None:
    """The scheduler's configuration that `environment` carried; None where it carried none."""
    text = os.environ.get(_SCHEDULER)
    return None if text is None else SchedulerConfig(**json.loads(text))


def share_cores(configs: Sequence[WorkerConfig]) -> list[WorkerConfig]:
    """The same workers with the cores that this process may use divided among them, and a thread for each core.

    One worker alone is left to TensorFlow. Where there are more workers than cores, each has one thread on any core.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(configs) < 2:
        return list(configs)
    if len(cores) < len(configs):
        return [replace(config, threads=config.threads or 1) for config in configs]
    bounds = [len(cores) * number // len(configs) for number in range(len(configs) + 1)]
    shares = [tuple(cores[first:last]) for first, last in pairwise(bounds)]
    return [
        replace(config, cores=share, threads=config.threads or len(share))
        for config, share in zip(configs, shares, strict=True)
    ]
