"""Prometheus metrics of workers and the scheduler. A worker's child counts, its parent serves (`metrics_server`).

If the parent serves metrics, it sets PROMETHEUS_MULTIPROC_DIR before the child starts: the library then keeps every
value in files there, so no count is lost when a child dies.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from pipeline.datasets.stages import STAGES
from pipeline.jobs.worker_info import WorkerInfo

SAMPLES = Counter("noisemill_samples", "Samples of committed shards.")
SHARDS = Counter("noisemill_shards", "Committed shards.")
BYTES = Counter("noisemill_written_bytes", "Bytes of committed shards.")
STAGE_SECONDS = Counter(
    "noisemill_stage_busy_seconds",
    "Seconds that each stage was busy; rate() of predict is the share of time that the device was busy.",
    ["stage"],
)
FAILURES = Counter(
    "noisemill_shard_failures", "Failed attempts at a shard: to be tried again (retry) or given up (failed).", ["then"]
)
LEASES_LOST = Counter("noisemill_leases_lost", "Leases that went to another worker while this one made the shard.")
REFUSED = Counter(
    "noisemill_refused_jobs",
    "Slices left to other workers, because of the job's version, generator or destination.",
    ["reason"],
)
SLICES = Counter("noisemill_slices", "Slices of time spent on jobs.")
BUSY = Gauge(
    "noisemill_busy", "1 while the worker spends time on a job, 0 while it waits.", multiprocess_mode="livesum"
)
BATCH = Gauge("noisemill_batch_size", "Samples per forward pass in the last slice.", multiprocess_mode="livemostrecent")
_CALIBRATED = Gauge(
    "noisemill_calibrated_samples_per_second",
    "Samples per second of the bare forward pass on this device.",
    multiprocess_mode="livemostrecent",
)
_INFO = Gauge(
    "noisemill_worker_info",
    "Properties of the worker; absent until its generator is loaded and warm.",
    ["worker", "generator", "digest", "device", "engine", "version"],
    multiprocess_mode="livemostrecent",
)

# The scheduler's own metric: not in the registry, so that workers do not serve it.
RUNS_ENDED = Counter(
    "noisemill_schedule_runs_ended", "Runs of a schedule that ended.", ["schedule", "state"], registry=None
)

# A series that exists from the start has a rate from its first event on.
for _stage in STAGES:
    STAGE_SECONDS.labels(_stage)
for _then in ("retry", "failed"):
    FAILURES.labels(_then)
for _reason in ("generator", "destination"):
    REFUSED.labels(_reason)


def started(worker: WorkerInfo) -> None:
    """Records that the generator is loaded and warm."""
    _INFO.labels(
        worker.id, worker.generator, worker.digest, worker.device, worker.engine, worker.version
    ).set(1)  # fmt: skip
    _CALIBRATED.set(worker.rate)
    BATCH.set(worker.batch)
    BUSY.set(0)


def committed(samples: int, size_bytes: int) -> None:
    """Records a committed shard."""
    SHARDS.inc()
    SAMPLES.inc(samples)
    BYTES.inc(size_bytes)


def spent(stage_seconds: Mapping[str, float]) -> None:
    """Records the seconds that stages were busy."""
    for stage, seconds in stage_seconds.items():
        STAGE_SECONDS.labels(stage).inc(max(0.0, seconds))
