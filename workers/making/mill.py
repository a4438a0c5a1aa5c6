"""The mill makes shards: noise, predict, examine, encode and write, overlapped.

    calling thread     submits the batches of all lanes for prediction, on a CPU two at a time
    each lane          makes one shard after another, by three threads:
      feeder             claims shards, draws the rows and labels of their batches
      maker              copies samples to the host, checks them, converts them to stored values, collects statistics;
                         encodes, hashes, writes
      placer             puts finished shards in place, with their receipts

There is one lane at first. If its maker keeps a core busy, another lane is opened, up to a number that follows cores
and memory. If makers mostly wait, for the device, the disk, the interpreter or a core, all lanes but the first end
after their shard. So a slow generator has one shard in progress, and a fast one uses the cores that are left.

A lane has a few batches on their way, whatever the size of its shard, and prediction continues while a shard is flushed
and put in place. Batches are aligned to the start of the shard, so its bytes are the same whichever worker or lane
makes it.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.limits import usable_cores, usable_memory
from pipeline.datasets.candidates import CandidateStatistics
from pipeline.datasets.inputs import Inputs
from pipeline.datasets.receipts import Statistics
from pipeline.datasets.shard_statistics import ShardStatistics, check_finite
from pipeline.formats import FORMATS
from pipeline.formats.format import ShardWriter
from pipeline.formats.values import to_stored
from pipeline.jobs.ledger import Claim
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import Shard
from pipeline.stores.store import Store, StoredFile
from workers.engine.engine import Engine, Prediction
from workers.making.stage_clock import StageClock, TimedDraft

log = logging.getLogger("noisemill")

#: Batches of a lane from drawing to writing, besides those being predicted: one being drawn, one waiting, one being
#: written.
_UNDER_WAY = 3
#: Shards of a lane that wait to be put in place, besides the one that is being put in place.
_SHARDS_WAITING = 1
#: Memory for all lanes, and the share of the usable memory that it may be; what a draft takes besides its batches (S3).
_MOST_BYTES, _MOST_SHARE, _DRAFT_BYTES = 2**30, 1 / 8, 2**25

#: After this many batches, the few still in progress hardly change the rate.
_ENOUGH_BATCHES = 40

#: Share of their time in which makers work. Above the first another lane is opened, below the second lanes end.
_OPEN_ABOVE, _END_BELOW = 0.75, 0.5
#: Weight of the last batch in that share: one batch alone opens no lane.
_WEIGHT = 0.2

_NOTHING = np.empty((0, 0), np.float32)


@dataclass
class Work:
    """One claimed shard on its way through the mill."""

    claim: Claim
    shard: Shard
    #: Samples that have been encoded.
    samples: int = 0
    #: Why it cannot be finished; None if nothing has failed.
    trouble: Exception | None = None
    #: Whether its lease went to another worker, which may have put the same files in place.
    lost: bool = False
    draft: TimedDraft | None = None
    writer: ShardWriter | None = None
    statistics: ShardStatistics | None = None
    #: None if samples are not chosen among candidates.
    candidates: CandidateStatistics | None = None


class Shift(Protocol):
    """What the mill needs from the slice that runs it. All methods may be called from any of the mill's threads."""

    def next_work(self) -> Work | None:
        """The next shard to make; None if no more should be started. Called by one thread at a time."""
        ...

    def stopping(self) -> bool:
        """Whether to stop at once: the job is cancelled or the worker has to stop."""
        ...

    def still_ours(self, work: Work) -> bool:
        """Whether the lease of a shard still holds. Called before the shard is put in place."""
        ...

    def made(self, work: Work, files: list[StoredFile], statistics: Statistics) -> None:
        """Called after a shard was put in place."""
        ...

    def gave_up(self, work: Work) -> None:
        """Called if a shard was not made: `work.trouble` has the reason, or the shift is stopping."""
        ...


@dataclass(frozen=True)
class _Batch:
    """A batch between feeder and predict."""

    lane: _Lane
    work: Work
    first: int
    rows: NDArray[np.float32]
    labels: NDArray[np.int32] | None
    last: bool
    #: Number of samples; of candidates, `rows` has more.
    count: int = 0


@dataclass(frozen=True)
class _Predicted:
    """A batch between predict and maker."""

    batch: _Batch
    #: Perhaps still in progress; its result is None if the batch was skipped.
    prediction: Future[Prediction | None]


def most_lanes(engine: Engine, spec: JobSpec) -> int:
    """The greatest number of lanes: one per core, as far as their batches fit into memory; one for some formats.

    What the forward pass uses is not deducted: a lane that waits for it or for a core opens no other.
    """
    if FORMATS[spec.format].per_sample:
        return 1
    batch_bytes = engine.batch * math.prod(spec.sample_shape) * np.dtype(np.float32).itemsize
    # A writer keeps another batch while it is encoded.
    lane_bytes = (engine.at_once + _UNDER_WAY + 1) * batch_bytes + _DRAFT_BYTES
    return max(1, min(usable_cores(), int(min(_MOST_BYTES, usable_memory() * _MOST_SHARE) / lane_bytes)))


class Pace:
    """Whether another lane would have work and a core, by the share of their time in which makers work."""

    def __init__(self) -> None:
        #: A moving average.
        self._working = _END_BELOW

    @property
    def has_many_lanes(self) -> bool:
        """Whether fewer lanes would do."""
        return self._working < _END_BELOW

    def wants_lane(self, worked_s: float, elapsed_s: float) -> bool:
        """Whether another lane is needed, after a batch that took a maker so long, with so much processor time."""
        self._working += _WEIGHT * (worked_s / max(elapsed_s, 1e-9) - self._working)
        if self._working <= _OPEN_ABOVE:
            return False
        self._working = _END_BELOW  # The effect of another lane shows over the next batches.
        return True


class Mill:
    """Makes the shards of one job with one engine."""

    def __init__(self, engine: Engine, spec: JobSpec, store: Store, shift: Shift, lanes: int | None = None) -> None:
        """`lanes`: the greatest number of shards in progress; by default `most_lanes`."""
        self.clock = StageClock()
        #: Samples per second that the device took. It may be capable of more, if other stages kept it waiting.
        #: 0 until there were `_ENOUGH_BATCHES`.
        self.rate = 0.0
        self.engine, self.spec, self.store, self.shift = engine, spec, store, shift
        self.inputs = Inputs(spec, store)
        #: One lane claims at a time.
        self._claiming = threading.Lock()
        self._most_lanes = lanes or most_lanes(engine, spec)
        #: Batches, and each lane after its last batch. Bounded by the room of the lanes.
        self._to_predict: queue.SimpleQueue[_Batch | _Lane] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        #: Lanes that may send another batch.
        self._feeding = 0
        #: Whether the shift has no more work.
        self._all_claimed = False
        self._pace = Pace()
        self._broken: BaseException | None = None

    def run(self) -> None:
        """Predicts until the shift has no more work or is stopping. Then the device is free; see `wait`."""
        with self._lock:
            self._open_lane()
        try:
            self._predict_all()
        except BaseException as error:
            self.fail(error)

    def wait(self) -> None:
        """Waits, after `run`, until the last shard is in place. Raises the error that broke the run, if any."""
        if self._broken is not None:
            self._end_lanes()
        for lane in self._lanes:
            lane.join()
        if self._broken is not None:
            raise self._broken

    @property
    def broken(self) -> bool:
        """Whether a stage has failed, so that no shard in progress will be finished."""
        return self._broken is not None

    @property
    def lanes(self) -> int:
        """The number of lanes that are open."""
        return max(1, sum(lane.is_alive() for lane in self._lanes))

    def fail(self, error: BaseException) -> None:
        """Ends the run because of an error that is not that of a shard."""
        self._broken = self._broken or error
        with self._lock:
            for lane in self._lanes:  # What `run` took last, if it was interrupted, makes no room again.
                lane.make_room()

    def stopping(self) -> bool:
        """Whether to stop at once."""
        try:
            return self._broken is not None or self.shift.stopping()
        except Exception as error:
            self.fail(error)
            return True

    @property
    def has_many_lanes(self) -> bool:
        """Whether fewer lanes would do."""
        return self._pace.has_many_lanes

    def note_batch(self, worked_s: float, elapsed_s: float) -> None:
        """Takes from a lane how long a batch took its maker, and the processor time; perhaps opens another lane."""
        with self._lock:
            wanted = self._pace.wants_lane(worked_s, elapsed_s)
            if wanted and self._feeding and not (self._all_claimed or self.broken):
                # The system may allow no more threads: then those that there are go on.
                with suppress(RuntimeError):
                    self._open_lane()

    def _open_lane(self) -> None:
        """Opens another lane, unless there are as many as there may be."""
        self._lanes = [lane for lane in self._lanes if lane.is_alive()]
        if len(self._lanes) < self._most_lanes:
            lane = _Lane(self, is_first=not self._lanes)
            lane.start()
            self._lanes.append(lane)
            self._feeding += 1

    def next_work(self) -> Work | None:
        """The next shard for a lane; None if there is none."""
        with self._claiming:
            work = self.shift.next_work()
        self._all_claimed = work is None
        return work

    def predict_soon(self, batch: _Batch) -> None:
        """Takes a batch from a lane, which gets it back once it is being predicted."""
        self._to_predict.put(batch)

    def end_feeding(self, lane: _Lane) -> None:
        """Takes note that this was the lane's last batch."""
        self._to_predict.put(lane)

    def _end_lanes(self) -> None:
        """Ends the lanes after a failure: `run` may have been interrupted before it passed on what it took last."""
        for lane in self._lanes:
            lane.join_feeder()
        skipped: Future[Prediction | None] = Future()
        skipped.set_result(None)
        while not self._to_predict.empty():
            batch = self._to_predict.get()
            if isinstance(batch, _Batch):
                batch.lane.to_make.put(_Predicted(batch, skipped))
        for lane in self._lanes:
            lane.to_make.put(None)

    def _predict_all(self) -> None:
        first, samples, batches = math.inf, 0, 0
        with ThreadPoolExecutor(self.engine.at_once, thread_name_prefix="predict") as predictors:
            while self._feeding:
                batch = self._to_predict.get()
                if isinstance(batch, _Lane):
                    batch.to_make.put(None)
                    with self._lock:
                        self._feeding -= 1
                    continue
                now = time.perf_counter()
                if batches >= _ENOUGH_BATCHES:
                    self.rate = samples / (now - first)
                first, samples, batches = min(first, now), samples + batch.count, batches + 1
                batch.lane.to_make.put(_Predicted(batch, predictors.submit(self._predict, batch)))

    def _predict(self, batch: _Batch) -> Prediction | None:
        if batch.work.trouble is not None or self.stopping():
            return None
        with self.clock.busy("predict"):
            return self.engine.predict(batch.rows, batch.labels)


class _Lane:
    """Makes one shard after another, by a thread for each of three stages."""

    def __init__(self, mill: Mill, *, is_first: bool) -> None:
        self._mill, self._is_first = mill, is_first
        self.to_make: queue.SimpleQueue[_Predicted | None] = queue.SimpleQueue()
        self._to_place: queue.Queue[Work | None] = queue.Queue(_SHARDS_WAITING)
        self._room = threading.Semaphore(mill.engine.at_once + _UNDER_WAY)
        #: Processor time of the maker for the current batch, without the wait for the device, which may be a busy loop.
        self._worked_s = 0.0
        stages = (("feeder", self._feed_all), ("maker", self._make_all), ("placer", self._place_all))
        self._threads = [threading.Thread(target=stage, name=name, daemon=True) for name, stage in stages]

    def start(self) -> None:
        """Starts its threads. Raises RuntimeError if the system allows no more."""
        try:
            for thread in reversed(self._threads):
                thread.start()
        except RuntimeError:
            self.to_make.put(None)
            self._to_place.put(None)
            raise

    def join(self) -> None:
        """Waits until its last shard is in place."""
        for thread in self._threads:
            thread.join()

    def join_feeder(self) -> None:
        """Waits until it sends no more batches."""
        self._threads[0].join()

    def make_room(self) -> None:
        """Lets another batch be on its way."""
        self._room.release()

    def is_alive(self) -> bool:
        """Whether a shard is in progress."""
        return any(thread.is_alive() for thread in self._threads)

    # -- feeder ------------------------------------------------------------------------------------

    def _feed_all(self) -> None:
        try:
            while not self._mill.stopping() and (work := self._mill.next_work()) is not None:
                for batch in self._batches(work):
                    self._mill.predict_soon(batch)
                    if self._mill.stopping():
                        return
                if self._mill.has_many_lanes and not self._is_first:
                    return
        except BaseException as error:
            self._mill.fail(error)
        finally:
            self._mill.end_feeding(self)

    def _batches(self, work: Work) -> Iterator[_Batch]:
        shard, size = work.shard, self._mill.engine.batch
        for start in range(0, shard.count, size):
            count = min(size, shard.count - start)
            last = start + count == shard.count
            first = shard.first + start
            self._room.acquire()
            if work.trouble is not None:
                yield _Batch(self, work, first, _NOTHING, None, last=True)
                return
            try:
                with self._mill.clock.busy("noise"):
                    rows = self._mill.inputs.rows(first, count)
                    labels = self._mill.inputs.labels(first, count)
            except Exception as error:
                work.trouble = error
                yield _Batch(self, work, first, _NOTHING, None, last=True)
                return
            yield _Batch(self, work, first, rows, labels, last, count)

    # -- maker -------------------------------------------------------------------------------------

    def _make_all(self) -> None:
        current: Work | None = None
        ended = 0.0
        while (predicted := self.to_make.get()) is not None:
            # The time until a shard is claimed does not count.
            began = time.perf_counter() if current is None else ended
            current = predicted.batch.work
            self._worked_s = 0.0
            try:
                self._make(predicted)
            except Exception as error:
                current.trouble = current.trouble or error
            except BaseException as error:  # Ctrl-C in a thread that predicts.
                self._mill.fail(error)
            self._room.release()
            ended = time.perf_counter()
            self._mill.note_batch(self._worked_s, ended - began)
            if predicted.batch.last:
                self._to_place.put(current)
                current = None
        if current is not None:  # The run ended in the middle of it.
            self._to_place.put(current)
        self._to_place.put(None)

    def _make(self, predicted: _Predicted) -> None:
        batch, work = predicted.batch, predicted.batch.work
        prediction = predicted.prediction.result()
        if work.trouble is not None or prediction is None:
            return
        with self._mill.clock.busy("predict"):
            samples = prediction.samples()
        start = time.thread_time()
        if work.draft is None:
            work.draft = TimedDraft(self._mill.store.draft())
        with self._encoding_into(work.draft):
            stored = self._examine(samples, prediction, batch)
            if work.writer is None:
                spec = self._mill.spec
                work.writer = FORMATS[spec.format].writer(work.draft, work.shard, spec.sample_type)
            work.writer.write(stored, batch.labels)
            work.samples += len(stored)
            if work.samples == work.shard.count:
                work.writer.close()
        self._worked_s = time.thread_time() - start

    def _examine(self, samples: NDArray[np.float32], prediction: Prediction, batch: _Batch) -> NDArray[Any]:
        """The stored values of a batch; adds its statistics to those of the shard."""
        spec, work = self._mill.spec, batch.work
        if spec.dtype != "float32":  # The statistics check stored values.
            check_finite(samples, batch.first)
        stored = to_stored(samples, spec.dtype, spec.value_range)
        if work.statistics is None:
            self._begin_statistics(work)
        assert work.statistics is not None
        work.statistics.add(stored, batch.labels)
        if work.candidates is not None:
            work.candidates.add(prediction.winners(), prediction.scores(), batch.labels, batch.first)
        return stored

    def _begin_statistics(self, work: Work) -> None:
        spec = self._mill.spec
        classes = None if spec.classes is None else len(spec.classes)
        work.statistics = ShardStatistics(work.shard.count, classes, first=work.shard.first)
        if spec.best_of > 1:
            work.candidates = CandidateStatistics(spec.best_of, spec.min_score, classes)

    @contextmanager
    def _encoding_into(self, draft: TimedDraft) -> Iterator[None]:
        """Counts the time inside: time in the store as "write", the rest as "encode"; each lane's as its share."""
        start, stored_before = time.perf_counter(), draft.seconds
        try:
            yield
        finally:
            stored, lanes = draft.seconds - stored_before, self._mill.lanes
            self._mill.clock.add("write", stored / lanes)
            self._mill.clock.add("encode", (time.perf_counter() - start - stored) / lanes)

    # -- placer ------------------------------------------------------------------------------------

    def _place_all(self) -> None:
        failed = False
        while (work := self._to_place.get()) is not None:
            try:
                if failed or not self._place(work):
                    self._clear_away(work)
                    if not failed:
                        self._mill.shift.gave_up(work)
            except BaseException as error:
                failed = True
                self._mill.fail(error)

    def _place(self, work: Work) -> bool:
        """Puts a shard in place if it is whole and its lease still holds. Returns whether it did."""
        if work.trouble is not None or work.samples != work.shard.count:
            return False
        assert work.draft is not None
        assert work.statistics is not None
        try:
            if not self._mill.shift.still_ours(work):
                return False
            with self._mill.clock.busy("write"):
                files = work.draft.commit()
            self._mill.shift.made(work, files, work.statistics.result())
        except Exception as error:
            work.trouble = error
            return False
        return True

    def _clear_away(self, work: Work) -> None:
        """Removes the files of an attempt."""
        if work.draft is None:
            return
        try:
            work.draft.discard(keep_placed=work.lost)
        except Exception as error:
            log.warning("shard %d: the files of its attempt could not be removed: %s", work.shard.index, error)
