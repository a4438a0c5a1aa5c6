"""The parent's side of the metrics: what it tells while Redis is away, and of children that died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.common.errors import LedgerError
from pipeline.common.settings import Settings
from pipeline.jobs.ledger import Claim, Ledger, NewJob, QueueOptions
from pipeline.schedules.book import ScheduleBook
from tests.making import make_spec
from tests.servers import free_port
from workers.telemetry.metrics_server import SchedulerCollector, WorkerCollector
from workers.worker.identity import METRICS_FOLDER_VARIABLE

COUNT = "from workers.telemetry import metrics; metrics.committed(100, 5000); metrics.BUSY.set(1)"


def counted(folder: Path, code: str = COUNT) -> None:
    """A child that counts, and has ended."""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, METRICS_FOLDER_VARIABLE: str(folder)}, check=True)


def values(collector: WorkerCollector) -> dict[str, float]:
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


def test_counts_of_dead_children_add_up_and_their_state_is_forgotten(tmp_path: Path) -> None:
    counted(tmp_path)
    counted(tmp_path)
    told = values(WorkerCollector(tmp_path, "tiny", queue_depth=lambda: 3, sent=lambda: 7, refused=lambda: 2))
    assert told["noisemill_samples_total"] == 200
    assert told["noisemill_written_bytes_total"] == 10_000
    assert "noisemill_busy" not in told
    assert (told["noisemill_queue_depth"], told["noisemill_wakeups_sent_total"]) == (3, 7)
    assert told["noisemill_messages_refused_total"] == 2
    assert told["noisemill_redis_up"] == 1


def test_while_redis_is_away_the_rest_is_told(tmp_path: Path) -> None:
    def away() -> int:
        raise LedgerError("Redis cannot be reached")

    counted(tmp_path)
    told = values(WorkerCollector(tmp_path, "tiny", queue_depth=away, sent=lambda: 0, refused=lambda: 0))
    assert told["noisemill_redis_up"] == 0
    assert "noisemill_queue_depth" not in told
    assert told["noisemill_samples_total"] == 100


def wanted(collector: SchedulerCollector) -> dict[str, float]:
    return {
        sample.labels["generator"]: sample.value
        for family in collector.collect()
        if family.name == "noisemill_workers_wanted"
        for sample in family.samples
    }


def test_how_many_workers_the_jobs_of_a_generator_could_use(settings: Settings, ledger: Ledger) -> None:
    collector = SchedulerCollector(ScheduleBook(settings), lambda: False)
    assert wanted(collector)["fashion"] == 0
    spec = make_spec()
    ledger.enter(NewJob(job_id="one", spec=spec, destination="/x"))
    ledger.enter(NewJob(job_id="two", spec=spec, destination="/y", queue=QueueOptions(parallel=3)), done=[(0, 30)])
    assert wanted(collector)[spec.generator_name] == 4 + 3
    for left in (3, 2, 1, 1):  # The last one is for the job's last step.
        claim = ledger.claim("one", "w")
        assert isinstance(claim, Claim)
        ledger.commit("one", claim, samples=30, size_bytes=1, stage_seconds={})
        assert wanted(collector)[spec.generator_name] == left + 3
    ledger.cancel("one")
    ledger.cancel("two")
    assert wanted(collector)[spec.generator_name] == 0


def test_while_redis_is_away_nobody_knows_how_many_are_wanted() -> None:
    away = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    assert wanted(SchedulerCollector(ScheduleBook(away), lambda: False)) == {}
