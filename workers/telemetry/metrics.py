"""What workers and the scheduler count, for Prometheus. A worker's child counts, its parent serves (`metrics_server`).

Where the parent serves, it names a folder in PROMETHEUS_MULTIPROC_DIR before the child starts: the library
then keeps every number in files there, so that a child that dies takes no count with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from pipeline.datasets.stages import STAGES
from pipeline.jobs.worker_info import WorkerInfo

SAMPLES = Counter("noisemill_samples", "Samples of shards that were committed.")
SHARDS = Counter("noisemill_shards", "Shards that were committed.")
BYTES = Counter("noisemill_written_bytes", "Bytes of shards that were committed.")
STAGE_SECONDS = Counter(
    "noisemill_stage_busy_seconds",
    "Seconds that each stage was busy; rate() of predict is the share of time that the device was busy.",
    ["stage"],
)
FAILURES = Counter(
    "noisemill_shard_failures", "Attempts at a shard that failed: to be tried again (retry), or not (failed).", ["then"]
)
LEASES_LOST = Counter("noisemill_leases_lost", "Leases that went to another while this worker made the shard.")
REFUSED = Counter(
    "noisemill_refused_jobs",
    "Slices left to others: the job is of a newer version, of another generator, or to go where this worker may not.",
    ["reason"],
)
SLICES = Counter("noisemill_slices", "Stretches of time spent on a job.")
BUSY = Gauge(
    "noisemill_busy", "1 while the worker spends time on a job, 0 while it waits.", multiprocess_mode="livesum"
)
BATCH = Gauge(
    "noisemill_batch_size", "Samples per forward pass, as of the last slice.", multiprocess_mode="livemostrecent"
)
_CALIBRATED = Gauge(
    "noisemill_calibrated_samples_per_second",
    "What the bare forward pass makes on this device.",
    multiprocess_mode="livemostrecent",
)
_INFO = Gauge(
    "noisemill_worker_info",
    "What the worker is; absent until its generator is loaded and warm.",
    ["worker", "generator", "digest", "device", "engine", "version"],
    multiprocess_mode="livemostrecent",
)

# Of the scheduler, which serves it by itself: in no registry, so that workers do not serve it.
RUNS_ENDED = Counter(
    "noisemill_schedule_runs_ended", "Runs of a schedule that ended.", ["schedule", "state"], registry=None
)

# A series that is there from the start tells a rate from its first event on.
for _stage in STAGES:
    STAGE_SECONDS.labels(_stage)
for _then in ("retry", "failed"):
    FAILURES.labels(_then)
for _reason in ("generator", "destination"):
    REFUSED.labels(_reason)


def started(worker: WorkerInfo) -> None:
    """The generator is loaded and warm."""
    _INFO.labels(
        worker.id, worker.generator, worker.digest, worker.device, worker.engine, worker.version
    ).set(1)  # fmt: skip
    _CALIBRATED.set(worker.rate)
    BATCH.set(worker.batch)
    BUSY.set(0)


def committed(samples: int, size_bytes: int) -> None:
    """A shard is done."""
    SHARDS.inc()
    SAMPLES.inc(samples)
    BYTES.inc(size_bytes)


def spent(stage_seconds: Mapping[str, float]) -> None:
    """Stages were busy for so long."""
    for stage, seconds in stage_seconds.items():
        STAGE_SECONDS.labels(stage).inc(max(0.0, seconds))
