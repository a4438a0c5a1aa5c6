"""One slice of time on one job, in two phases: `predict`, which needs the device, and `conclude`, which does not."""

from __future__ import annotations

from dataclasses import replace

from pipeline.common.errors import DatasetError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import Statistics
from pipeline.formats import library_versions
from pipeline.stores.store import StoredFile
from workers.engine.engine import Engine
from workers.making.assignment import Assignment
from workers.making.leases import Leases
from workers.making.mill import Mill, Work
from workers.making.shard_sink import ShardSink
from workers.making.shard_source import ShardSource


class JobSlice:
    """Runs the mill between a source and a sink of shards; the mill's shift."""

    def __init__(self, assignment: Assignment, engine: Engine) -> None:
        """Raises DatasetError if the destination belongs to another job now."""
        dataset = Dataset(assignment.destination)
        if dataset.spec.sha256 != assignment.spec.sha256:
            raise DatasetError(f"{assignment.destination} has become another job's")
        self.leases = Leases(assignment)
        self._mill = Mill(engine, assignment.spec, dataset.store, self)
        versions = {**engine.record.versions, **library_versions(dataset.spec.format)}
        self._sink = ShardSink(assignment, self.leases, dataset, replace(engine.record, versions=versions))
        self._source = ShardSource(assignment, self.leases, self._sink, lambda: self._mill.broken)

    def predict(self) -> None:
        """Makes shards until the slice is over or nothing is left to predict."""
        self._mill.run()

    @property
    def frees_device(self) -> bool:
        """Whether the next slice may begin before this one is concluded.

        Not if the mill broke: the cause may be a signal to this thread, which must be raised here. A suspect shard is
        finished before the next slice begins.
        """
        return not self._mill.broken and not self.leases.has_suspect()

    def conclude(self) -> bool:
        """Puts the last shards in place and perhaps finishes the job; returns whether there may be more to do.

        Raises the error that broke the mill.
        """
        self._mill.wait()
        if self._source.waited and self._sink.has_made and not self.leases.stopping:
            self._source.claim_last_step()
        last_step = self.leases.last_step
        if last_step is not None:
            self._sink.finish(last_step)
        return not (self._source.waited or self.leases.ended or last_step is not None)

    @property
    def rate(self) -> float:
        """Samples per second that the device took; 0 if there were too few batches to tell."""
        return self._mill.rate

    # -- the mill's shift --------------------------------------------------------------------------

    def next_work(self) -> Work | None:
        """The next shard to make."""
        return self._source.next_work()

    def stopping(self) -> bool:
        """Whether to stop at once."""
        return self.leases.stopping

    def still_ours(self, work: Work) -> bool:
        """Whether the shard may be put in place."""
        return self._sink.still_ours(work)

    def made(self, work: Work, files: list[StoredFile], statistics: Statistics) -> None:
        """A shard is in place."""
        self._sink.made(work, files, statistics, self._mill.clock.take())

    def gave_up(self, work: Work) -> None:
        """A shard was not made."""
        self._sink.gave_up(work)
