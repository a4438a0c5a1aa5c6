"""The mill makes shards: noise, predict, examine, encode and write, overlapped.

    feeder thread      claims shards, draws the rows and labels of their batches
    calling thread     submits batches for prediction, on a CPU two at a time
    examiner thread    copies samples to the host, checks them, converts them to stored values, collects statistics
    writer thread      encodes, hashes, writes
    placer thread      puts finished shards in place, with their receipts

Short queues between them bound the memory to a few batches, whatever the shard size, and let prediction continue
while the shard before is flushed and put in place. Batches are aligned to the start of the shard, so its bytes are the
same whichever worker makes it.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.candidates import CandidateStatistics
from pipeline.datasets.inputs import Inputs
from pipeline.datasets.receipts import Statistics
from pipeline.datasets.shard_statistics import ShardStatistics, check_finite
from pipeline.datasets.stages import STAGES
from pipeline.formats import FORMATS
from pipeline.formats.format import ShardWriter
from pipeline.formats.values import to_stored
from pipeline.jobs.ledger import Claim
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import Shard
from pipeline.stores.store import Draft, Sink, Store, StoredFile
from workers.engine.engine import Engine, Prediction

log = logging.getLogger("noisemill")

#: Batches of rows that wait for prediction.
_LATENTS_WAITING = 2
#: Batches of samples, which are large, that wait between two stages. Each stage holds another one.
_SAMPLES_WAITING = 1
#: Shards that wait to be put in place, besides the one that is being put in place.
_SHARDS_WAITING = 1

#: After this many batches, the few still in progress hardly change the rate.
_ENOUGH_BATCHES = 40

_NOTHING = np.empty((0, 0), np.float32)

_EXAMINE = "examine"
_TIMED = (*STAGES, _EXAMINE)


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
    draft: _TimedDraft | None = None
    writer: ShardWriter | None = None
    statistics: ShardStatistics | None = None
    #: None if samples are not chosen among candidates.
    candidates: CandidateStatistics | None = None


class Shift(Protocol):
    """What the mill needs from the slice that runs it. All methods may be called from any of the mill's threads."""

    def next_work(self) -> Work | None:
        """The next shard to make; None if no more should be started."""
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

    work: Work
    first: int
    rows: NDArray[np.float32]
    labels: NDArray[np.int32] | None
    last: bool
    #: Number of samples; of candidates, `rows` has more.
    count: int = 0


@dataclass(frozen=True)
class _Predicted:
    """A batch between predict and examiner."""

    batch: _Batch
    #: Perhaps still in progress; its result is None if the batch was skipped.
    prediction: Future[Prediction | None]


@dataclass(frozen=True)
class _Examined:
    """A batch between examiner and writer."""

    batch: _Batch
    #: The stored values, (n, *sample_shape); None if there is nothing to write.
    stored: NDArray[Any] | None


@dataclass(frozen=True)
class _Ended:
    """A shard between writer and placer; not whole if the run ended in the middle of it."""

    work: Work
    whole: bool


class Clock:
    """Seconds during which each stage was busy, with any number of threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(_TIMED, 0.0)
        self._busy = dict.fromkeys(_TIMED, 0)
        self._since = dict.fromkeys(_TIMED, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Counts the time inside as busy."""
        with self._lock:
            if not self._busy[stage]:
                self._since[stage] = time.perf_counter()
            self._busy[stage] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[stage] -= 1
                if not self._busy[stage]:
                    self.seconds[stage] += time.perf_counter() - self._since[stage]

    def add(self, stage: str, seconds: float) -> None:
        """Counts seconds as busy."""
        with self._lock:
            self.seconds[stage] += seconds

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call. "encode" is the busier of examiner and writer, which both encode."""
        with self._lock:
            now = time.perf_counter()
            for stage in filter(self._busy.get, _TIMED):  # With two batches at a time, one is always in progress.
                self.seconds[stage] += now - self._since[stage]
                self._since[stage] = now
            taken, self.seconds = self.seconds, dict.fromkeys(_TIMED, 0.0)
        taken["encode"] = max(taken["encode"], taken.pop(_EXAMINE))
        return taken


class Mill:
    """Makes the shards of one job with one engine."""

    def __init__(self, engine: Engine, spec: JobSpec, store: Store, shift: Shift) -> None:
        self.clock = Clock()
        #: Samples per second that the device took. It may be capable of more, if other stages kept it waiting.
        #: 0 until there were `_ENOUGH_BATCHES`.
        self.rate = 0.0
        self._engine = engine
        self._spec = spec
        self._store = store
        self._shift = shift
        self._inputs = Inputs(spec, store)
        self._to_predict: queue.Queue[_Batch | None] = queue.Queue(_LATENTS_WAITING)
        self._to_examine: queue.Queue[_Predicted | None] = queue.Queue(_SAMPLES_WAITING)
        self._to_write: queue.Queue[_Examined | None] = queue.Queue(_SAMPLES_WAITING)
        self._to_place: queue.Queue[_Ended | None] = queue.Queue(_SHARDS_WAITING)
        self._broken: BaseException | None = None
        self._feeder = self._thread("feeder", self._feed, partial(self._to_predict.put, None))
        self._examiner = self._thread("examiner", self._examine_all, partial(_drain, self._to_examine))
        self._writer = self._thread("writer", self._write_all, partial(_drain, self._to_write))
        self._placer = self._thread("placer", self._place_all, self._clear_remaining)

    def run(self) -> None:
        """Predicts until the shift has no more work or is stopping. Then the device is free; see `wait`."""
        for stage in (self._feeder, self._examiner, self._writer, self._placer):
            stage.start()
        self._guarded(self._predict_all, on_failure=lambda: None)

    def wait(self) -> None:
        """Waits, after `run`, until the last shard is in place. Raises the error that broke the run, if any."""
        self._to_examine.put(None)
        self._examiner.join()
        self._to_write.put(None)
        self._writer.join()
        self._to_place.put(None)
        self._placer.join()
        while self._feeder.is_alive():  # It may be blocked on a full queue that is no longer read.
            _empty(self._to_predict)
            self._feeder.join(0.05)
        if self._broken is not None:
            raise self._broken

    def _thread(self, name: str, stage: Callable[[], None], on_failure: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=self._guarded, args=(stage, on_failure), name=name, daemon=True)

    @property
    def broken(self) -> bool:
        """Whether a stage has failed, so that no shard in progress will be finished."""
        return self._broken is not None

    def _guarded(self, stage: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Runs a stage. Its failure (not that of a shard) ends the run; `on_failure` unblocks the other stages."""
        try:
            stage()
        except BaseException as error:
            self._broken = error
            on_failure()

    # -- feeder ------------------------------------------------------------------------------------

    def _feed(self) -> None:
        while not self._stopping() and (work := self._shift.next_work()) is not None:
            for batch in self._batches(work):
                self._to_predict.put(batch)
                if self._stopping():
                    break
        self._to_predict.put(None)

    def _batches(self, work: Work) -> Iterator[_Batch]:
        shard, size = work.shard, self._engine.batch
        for start in range(0, shard.count, size):
            count = min(size, shard.count - start)
            last = start + count == shard.count
            first = shard.first + start
            if work.trouble is not None:
                yield _Batch(work, first, _NOTHING, None, last=True)
                return
            try:
                with self.clock.busy("noise"):
                    rows = self._inputs.rows(first, count)
                    labels = self._inputs.labels(first, count)
            except Exception as error:
                work.trouble = error
                yield _Batch(work, first, _NOTHING, None, last=True)
                return
            yield _Batch(work, first, rows, labels, last, count)

    # -- predict -----------------------------------------------------------------------------------

    def _predict_all(self) -> None:
        first, samples, batches = math.inf, 0, 0
        with ThreadPoolExecutor(self._engine.at_once, thread_name_prefix="predict") as predictors:
            while (batch := self._to_predict.get()) is not None:
                now = time.perf_counter()
                if batches >= _ENOUGH_BATCHES:
                    self.rate = samples / (now - first)
                first, samples, batches = min(first, now), samples + batch.count, batches + 1
                self._to_examine.put(_Predicted(batch, predictors.submit(self._predict, batch)))

    def _predict(self, batch: _Batch) -> Prediction | None:
        if batch.work.trouble is not None or self._stopping():
            return None
        with self.clock.busy("predict"):
            return self._engine.predict(batch.rows, batch.labels)

    # -- examiner ----------------------------------------------------------------------------------

    def _examine_all(self) -> None:
        while (predicted := self._to_examine.get()) is not None:
            work, stored = predicted.batch.work, None
            try:
                stored = self._examine(predicted)
            except Exception as error:
                work.trouble = work.trouble or error
            self._to_write.put(_Examined(predicted.batch, stored))

    def _examine(self, predicted: _Predicted) -> NDArray[Any] | None:
        """The stored values of a batch; adds its statistics to those of the shard."""
        batch, work, prediction = predicted.batch, predicted.batch.work, predicted.prediction.result()
        if work.trouble is not None or prediction is None:
            return None
        with self.clock.busy("predict"):
            samples = prediction.samples()
        with self.clock.busy(_EXAMINE):
            check_finite(samples, batch.first)
            stored = to_stored(samples, self._spec.dtype, self._spec.value_range)
            if stored.dtype == np.float16:
                check_finite(stored, batch.first, "values that float16 cannot hold")
            if work.statistics is None:
                self._begin_statistics(work)
            assert work.statistics is not None
            work.statistics.add(stored, batch.labels)
            if work.candidates is not None:
                work.candidates.add(prediction.winners(), prediction.scores(), batch.labels, batch.first)
        return stored

    def _begin_statistics(self, work: Work) -> None:
        spec = self._spec
        classes = None if spec.classes is None else len(spec.classes)
        work.statistics = ShardStatistics(work.shard.count, classes, first=work.shard.first)
        if spec.best_of > 1:
            work.candidates = CandidateStatistics(spec.best_of, spec.min_score, classes)

    # -- writer ------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        current: Work | None = None
        while (examined := self._to_write.get()) is not None:
            current = examined.batch.work
            try:
                self._write(examined)
            except Exception as error:
                current.trouble = current.trouble or error
            if examined.batch.last:
                self._to_place.put(_Ended(current, whole=True))
                current = None
        if current is not None:
            self._to_place.put(_Ended(current, whole=False))

    def _write(self, examined: _Examined) -> None:
        batch, work = examined.batch, examined.batch.work
        if work.trouble is not None or examined.stored is None:
            return
        if work.draft is None:
            work.draft = _TimedDraft(self._store.draft())
        with self._encoding_into(work.draft):
            if work.writer is None:
                work.writer = FORMATS[self._spec.format].writer(work.draft, work.shard, self._spec.sample_type)
            work.writer.write(examined.stored, batch.labels)
        work.samples += len(examined.stored)

    @contextmanager
    def _encoding_into(self, draft: _TimedDraft) -> Iterator[None]:
        """Counts the time inside: time in the store as "write", the rest as "encode"."""
        start, stored_before = time.perf_counter(), draft.seconds
        try:
            yield
        finally:
            stored = draft.seconds - stored_before
            self.clock.add("write", stored)
            self.clock.add("encode", time.perf_counter() - start - stored)

    # -- placer ------------------------------------------------------------------------------------

    def _place_all(self) -> None:
        while (ended := self._to_place.get()) is not None:
            if not self._place(ended):
                self._clear_away(ended.work)
                self._shift.gave_up(ended.work)

    def _place(self, ended: _Ended) -> bool:
        """Puts a shard in place if it is whole and its lease still holds. Returns whether it did."""
        work = ended.work
        if not ended.whole or work.trouble is not None or work.samples != work.shard.count:
            return False
        assert work.writer is not None
        assert work.draft is not None
        assert work.statistics is not None
        try:
            with self._encoding_into(work.draft):
                work.writer.close()
            if not self._shift.still_ours(work):
                return False
            with self.clock.busy("write"):
                files = work.draft.commit()
            self._shift.made(work, files, work.statistics.result())
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

    def _clear_remaining(self) -> None:
        while (ended := self._to_place.get()) is not None:
            self._clear_away(ended.work)

    def _stopping(self) -> bool:
        return self._broken is not None or self._shift.stopping()


def _empty(waiting: queue.Queue[Any]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return


def _drain(waiting: queue.Queue[Any]) -> None:
    """Drops items until the end marker, so that the stage before is not blocked."""
    while waiting.get() is not None:
        pass


class _TimedDraft:
    """A draft that counts the seconds spent in it."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.seconds = 0.0

    @contextmanager
    def busy(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def sink(self, name: str) -> _TimedSink:
        with self.busy():
            return _TimedSink(self._draft.sink(name), self)

    def add(self, name: str, data: bytes) -> None:
        # Some formats call this for every sample, so without the cost of a context manager.
        start = time.perf_counter()
        self._draft.add(name, data)
        self.seconds += time.perf_counter() - start

    def commit(self) -> list[StoredFile]:
        return self._draft.commit()

    def discard(self, *, keep_placed: bool = False) -> None:
        self._draft.discard(keep_placed=keep_placed)


class _TimedSink:
    """A sink whose time is counted by its draft."""

    def __init__(self, sink: Sink, draft: _TimedDraft) -> None:
        self._sink, self._draft = sink, draft

    def write(self, data: Any) -> int:
        with self._draft.busy():
            return self._sink.write(data)
