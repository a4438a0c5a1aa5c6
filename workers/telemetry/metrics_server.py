"""The Prometheus endpoints of workers and the scheduler.

A worker's parent process serves it, so it is up from the start and while a child dies. A scheduler serves it on standby
too.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from pipeline.common.errors import LedgerError, UnknownJobError, WorkerError
from pipeline.common.version import VERSION
from pipeline.generators.catalogue import builtin_names
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger import Ledger
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.schedule import Schedule
from workers.telemetry.metrics import RUNS_ENDED


class WorkerCollector(Collector):
    """The parent's own metrics (queue, reconciler, whether Redis responds) and those of its children."""

    def __init__(
        self,
        folder: Path,
        generator: str,
        *,
        queue_depth: Callable[[], int],
        sent: Callable[[], int],
        refused: Callable[[], int],
    ) -> None:
        self._folder, self._generator = folder, generator
        self._queue_depth, self._sent, self._refused = queue_depth, sent, refused
        self._children = MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterable[Metric]:
        """All families; the queue's depth is absent while Redis does not respond."""
        up = GaugeMetricFamily("noisemill_redis_up", "1 if Redis responded at this scrape, else 0.")
        depth = GaugeMetricFamily(
            "noisemill_queue_depth", "Wake-ups that wait for workers of this generator.", labels=["generator"]
        )
        try:
            depth.add_metric([self._generator], self._queue_depth())
            up.add_metric([], 1)
        except LedgerError:
            up.add_metric([], 0)
        sent = CounterMetricFamily("noisemill_wakeups_sent", "Missing wake-ups that this worker's reconciler sent.")
        sent.add_metric([], self._sent())
        refused = CounterMetricFamily("noisemill_messages_refused", "Messages in its queue that were not wake-ups.")
        refused.add_metric([], self._refused())
        yield from (up, depth, sent, refused)
        self._drop_dead_gauges()
        yield from self._children.collect()

    def _drop_dead_gauges(self) -> None:
        """Drops the gauges of dead children; their counters stay."""
        for pid in {int(path.stem.rpartition("_")[2]) for path in self._folder.glob("gauge_live*.db")}:
            if not _is_alive(pid):
                mark_process_dead(pid, str(self._folder))


class SchedulerCollector(Collector):
    """Metrics of schedules, the same from every scheduler, and of this scheduler itself."""

    def __init__(self, book: ScheduleBook, is_active: Callable[[], bool]) -> None:
        self._book, self._is_active = book, is_active
        self._ledger = Ledger(book.settings)
        #: Generators of which there were jobs: they are told also when there are none.
        self._generators = set(builtin_names())

    def collect(self) -> Iterable[Metric]:
        """All families; those of schedules are absent while Redis does not respond."""
        yield GaugeMetricFamily(
            "noisemill_scheduler_active", "1 if this scheduler fires due runs, 0 if it is on standby.",
            self._is_active(),
        )  # fmt: skip
        info = GaugeMetricFamily("noisemill_scheduler_info", "Properties of the scheduler.", labels=["version"])
        info.add_metric([VERSION], 1)
        yield info
        yield from self._schedule_metrics()
        yield from self._wanted_metrics()
        yield from RUNS_ENDED.collect()

    def _wanted_metrics(self) -> Iterable[Metric]:
        """How many workers the live jobs could use; absent while Redis does not respond."""
        wanted = Counter[str]()
        try:
            for job_id in self._ledger.live_jobs():
                with contextlib.suppress(UnknownJobError, DamagedEntryError):
                    job = self._ledger.job(job_id)
                    wanted[job.generator] += job.workers_wanted
        except LedgerError:
            return
        self._generators |= wanted.keys()
        family = GaugeMetricFamily(
            "noisemill_workers_wanted",
            "Workers that the live jobs of a generator could use: at most one for each shard that is left.",
            labels=["generator"],
        )
        for generator in sorted(self._generators):
            family.add_metric([generator], wanted[generator])
        yield family

    def _schedule_metrics(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("noisemill_redis_up", "1 if Redis responded at this scrape, else 0.")
        unreadable: list[str] = []
        try:
            found = self._book.schedules(unreadable)
        except LedgerError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        each = _ScheduleFamilies()
        paused = 0
        for schedule in found:
            try:
                each.add(schedule, self._book)
                paused += schedule.paused
            except LedgerError as error:
                unreadable.append(str(error))
        states = GaugeMetricFamily("noisemill_schedules", "The number of schedules by state.", labels=["state"])
        states.add_metric(["paused"], paused)
        states.add_metric(["unreadable"], len(unreadable))
        states.add_metric(["carried_out"], len(each.names) - paused)
        yield from (up, states, each.runs, each.last, each.next)


class _ScheduleFamilies:
    """The families with a series for each schedule."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.runs = CounterMetricFamily(
            "noisemill_schedule_runs", "Runs of a schedule that were begun.", labels=["schedule"]
        )
        self.last = GaugeMetricFamily(
            "noisemill_schedule_last_run_timestamp_seconds", "When its last run was begun.", labels=["schedule"]
        )
        self.next = GaugeMetricFamily(
            "noisemill_schedule_next_run_timestamp_seconds",
            "When it is due next; in the past if it is late, absent while it is paused.",
            labels=["schedule"],
        )

    def add(self, schedule: Schedule, book: ScheduleBook) -> None:
        """Adds one schedule. Raises LedgerError if its record in Redis cannot be read."""
        number, last = book.last_number(schedule.name), book.last_run(schedule.name)
        settled = book.fired_until(schedule)
        self.names.append(schedule.name)
        self.runs.add_metric([schedule.name], number)
        if last is not None:
            self.last.add_metric([schedule.name], last.fired_at)
        if not schedule.paused:
            self.next.add_metric([schedule.name], schedule.recurrence.next_after(settled))
        for state in ("done", "failed", "cancelled"):  # They exist from the start, as in `metrics`.
            RUNS_ENDED.labels(schedule.name, state)


def serve(collector: Collector, host: str, port: int, child: Callable[[], int | None] | None = None) -> None:
    """Serves /metrics from a thread: the collector, and memory and time of the process `child`, or else of this one.

    Raises WorkerError if the address cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    if child is None:
        ProcessCollector(registry=registry)
    else:
        ProcessCollector(namespace="noisemill_child", pid=lambda: child() or "none", registry=registry)
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise WorkerError(
            f"metrics cannot be served on {host}:{port}: {error.strerror or error}; choose another --metrics-port"
        ) from error


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
