"""The Prometheus endpoint of a worker, served by its parent process: up from the start, and while the child dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from pipeline.errors import LedgerError, WorkerError
from workers.intake import messages_refused

#: Where the child keeps its numbers; set by the parent before the child starts.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class WorkerCollector(Collector):
    """What the parent knows: its queue, its reconciler, whether Redis answers; beside what its children counted."""

    def __init__(self, folder: Path, generator: str, queue_depth: Callable[[], int], sent: Callable[[], int]) -> None:
        self._folder, self._generator = folder, generator
        self._queue_depth, self._sent = queue_depth, sent
        self._children = MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterable[Metric]:
        """All families; the queue's depth is absent while Redis does not answer."""
        up = GaugeMetricFamily("noisemill_redis_up", "1 where Redis answered this scrape, else 0.")
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
        refused = CounterMetricFamily("noisemill_messages_refused", "Messages in its queue that were no wake-ups.")
        refused.add_metric([], messages_refused(self._folder))
        yield from (up, depth, sent, refused)
        self._forget_the_dead()
        yield from self._children.collect()

    def _forget_the_dead(self) -> None:
        """What a dead child was doing is no state of now; what it counted stays."""
        for pid in {int(path.stem.rpartition("_")[2]) for path in self._folder.glob("gauge_live*.db")}:
            if not _is_alive(pid):
                mark_process_dead(pid, str(self._folder))


def serve(collector: Collector, host: str, port: int, child: Callable[[], int | None]) -> None:
    """Serves /metrics from a thread: the collector, and the memory and time of the process `child` names.

    Raises WorkerError where the address cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(collector)
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
