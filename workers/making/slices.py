"""The Celery task: spend a slice of time on a job. Claims shards, makes them in the mill, commits them.

A slice is a Python generator that yields once, when it has nothing left to predict. From then on it needs no device:
it puts its last shards in place, and perhaps finishes its job, while the next slice runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any, TypeVar

from pipeline.common.errors import (
    DatasetError,
    DestinationError,
    GeneratorError,
    LedgerError,
    NewerVersionError,
    NoisemillError,
    StoreError,
    StoreUnavailableError,
    UsageError,
    one_line,
    shown,
)
from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.receipts import Receipt, Statistics
from pipeline.datasets.verification import damaged_inputs
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.job import LIVE_STATES
from pipeline.jobs.ledger import Claim, Ledger
from pipeline.jobs.queueing import destination_lease
from pipeline.jobs.worker_info import UNREACHABLE_KEPT, WorkerInfo, output_allowed, roots_in_words
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.sampler import Sampler
from pipeline.stores import is_canonical, normalise, open_store
from pipeline.stores.lease import Lease
from pipeline.stores.store import StoredFile
from workers.engine.engine import BATCHES, ENGINES, Calibration, Engine, EngineRoom
from workers.making.background import Background
from workers.making.mill import Mill, Work
from workers.telemetry import metrics
from workers.telemetry.logs import about

log = logging.getLogger("noisemill")

_Answer = TypeVar("_Answer")

#: Interval at which leases are renewed, progress is reported and cancellation is noticed, seconds.
_PULSE_S = 0.5
#: Longest pause before a failed shard is tried again, seconds.
_LONGEST_DELAY_S = 30.0
#: The number of jobs whose refusals and checked inputs a worker remembers.
_REMEMBERED = 100
#: Pause before a worker returns the wake-up of a job that it cannot make, seconds.
_REFUSAL_S = 1.0
#: Pause before a worker tries again to write to a destination where it could not, seconds.
_UNREACHABLE_S = 30.0
#: Pause before a call to Redis is repeated, seconds.
_AGAIN_S = 0.5
#: Poll interval while waiting to start a shard that must be made alone, seconds.
_LOOK_S = 0.01

#: Returned by `next` for a slice that ended without yielding.
_OVER = object()


@dataclass
class SliceWorker:
    """What a worker needs to carry out slices, and the state that it announces meanwhile."""

    settings: Settings
    ledger: Ledger
    wakeups: Wakeups
    rooms: EngineRoom
    #: By precision and sampler; those that the worker does not start with are calibrated when a job first needs them.
    calibrations: dict[tuple[str, Sampler | None], Calibration]
    info: WorkerInfo
    #: Set when the worker has to stop.
    stop: threading.Event
    #: The process that this worker ends with (`pipeline.stores.lease.this_process`); empty: none.
    client: str = ""
    #: Samples made since the start.
    samples: int = 0
    _slices: int = field(default=0)
    #: The jobs of the slices in progress: one that predicts, and up to two that no longer need the device.
    _jobs: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: Runs the slices that no longer need the device.
    background: Background = field(default_factory=Background)
    #: Job -> why it was refused.
    _refused: dict[str, str] = field(default_factory=dict)
    #: Jobs whose inputs are intact and whose destination is writable.
    _checked: list[str] = field(default_factory=list)
    #: Destinations that could not be written to -> when to try again, by the monotonic clock.
    _unreachable: dict[str, float] = field(default_factory=dict)

    @property
    def job(self) -> str | None:
        """The job in progress; of several, the one that predicts."""
        with self._lock:
            return self._jobs[-1] if self._jobs else None

    def run(self, *, job: str, token: int, serial: int) -> None:
        """One wake-up: takes its token and spends a slice on the job. Returns when the device is free for the next.

        The rest of the slice runs in the background, after the rest of the slice before it.
        """
        self._slices += 1
        rest = self._carry_out(job, token, serial, f"{self.info.id}/{self._slices}")
        if next(rest, _OVER) is not _OVER:
            self.background.take_over(rest)

    def count(self, samples: int) -> None:
        """Adds to the number of samples made."""
        with self._lock:
            self.samples += samples

    def _carry_out(self, job: str, token: int, serial: int, holder: str) -> Generator[None]:
        """A slice. Yields once, when the device is free, unless it ends earlier."""
        try:
            if self.ledger.take_wakeup(job, token, serial, holder):
                with self._counted(job):
                    yield from self._spend(job, token, holder)
        except LedgerError as error:
            reason = _in_words(error)
            log.warning("job %s: the slice ends; the reconciler will send another wake-up: %s", job, reason,
                        extra=about(job))  # fmt: skip

    @contextmanager
    def _counted(self, job: str) -> Iterator[None]:
        """Counts a slice, and marks the worker as busy for its duration."""
        metrics.SLICES.inc()
        with self._lock:
            self._jobs.append(job)
            metrics.BUSY.set(1)
        try:
            yield
        finally:
            with self._lock:
                self._jobs.remove(job)
                metrics.BUSY.set(bool(self._jobs))

    def _spend(self, job: str, token: int, holder: str) -> Generator[None]:
        again = False
        try:
            again = yield from self._work_on(job, token, holder)
        except NewerVersionError as error:
            self._refuse(job, "version", str(error))
            time.sleep(_REFUSAL_S)
            again = True
        except (DatasetError, DestinationError, GeneratorError, DamagedEntryError) as error:
            # Another slice would fail in the same way, until the user fixes the cause.
            log.error("job %s cannot be carried out: %s", job, error, extra=about(job))
            self.ledger.abandon(job, str(error))
        except StoreError as error:
            self.hold(job, error)
        except LedgerError:
            raise
        except Exception as error:
            # It may not be temporary: trying again and again could flood the queue with wake-ups.
            reason = _in_words(error)
            log.exception("job %s failed with an unexpected error: %s", job, reason, extra=about(job))
            self.ledger.abandon(job, f"unexpected error: {reason}; the worker's log has the traceback")
        finally:
            self._put_down(job, token, holder, again)

    def hold(self, job: str, error: StoreError, claim: Claim | None = None) -> None:
        """Holds the job because its store fails: its other shards would fail in the same way.

        After a failure that may be temporary the reconciler sends another wake-up; any other fails the job.
        """
        passing = isinstance(error, StoreUnavailableError)
        patience_s = self.settings.store_patience_s if passing else 0.0
        answer = self.ledger.hold(job, _in_words(error), patience_s=patience_s, claim=claim)
        if answer != "stale":  # Other shards in progress fail too; the first of them has been logged.
            log.warning("job %s, whose store fails, is %s: %s", job, answer, error, extra=about(job))

    def _put_down(self, job: str, token: int, holder: str, again: bool) -> None:
        """Ends the slice; puts the wake-up at the end of the queue if there is more to do."""
        try:
            serial = self.ledger.put_down_wakeup(job, token, holder, again=again and not self.stop.is_set())
            if serial is not None:
                state = self.ledger.job(job)
                self.wakeups.send(job, state.digest, state.priority, token, serial)
        except NoisemillError as error:
            log.warning(
                "job %s: the end of a slice could not be recorded; the reconciler will correct that: %s",
                job, _in_words(error),
                extra=about(job),
            )  # fmt: skip

    def _work_on(self, job: str, token: int, holder: str) -> Generator[None, None, bool]:
        """Makes shards of the job until the slice is over; returns whether there may be more to do."""
        spec, destination = self.ledger.spec(job)
        if spec.digest != self.info.digest:
            self._refuse(job, "generator", f"it wants generator {spec.digest}, this worker holds {self.info.digest}")
            return False
        if not is_canonical(destination):
            raise DestinationError(f"{shown(destination)} is no destination that noisemill writes down")
        place = normalise(destination)
        roots = self.info.output_roots
        if not (output_allowed(destination, roots) and output_allowed(place, roots)):
            through = "" if place == destination else f" (by a link it is {place})"
            below = roots_in_words(roots)
            self._refuse(
                job, "destination", f"{destination}{through} is below no --output-root of this worker ({below})"
            )
            time.sleep(_REFUSAL_S)
            return True
        self._check_fit(spec)
        if not self._reaches(job, destination, place):
            time.sleep(_REFUSAL_S)
            return True
        engine = self._settled_engine(job, spec)
        lease = destination_lease(place, f"job {job}", self.ledger, process=self.client)
        lease.take_now()
        going_on = False
        try:
            with lease.kept():
                piece = _Slice(self, job, spec, place, token, holder, lease)
                again = yield from piece.run(engine)
                going_on = not piece.ended
        finally:
            # The lease belongs to this Redis: while the job goes on, the next worker renews it.
            if not going_on:
                lease.give_back()
        return again

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Destinations below its output roots that it could not write to recently."""
        now = time.monotonic()
        return tuple(sorted(place for place, until in self._unreachable.items() if now < until))

    def _reaches(self, job: str, destination: str, place: str) -> bool:
        """Whether this worker finds the job and its inputs at the destination and can write there.

        If not, and another worker may be able to, it records the reason and returns False. Raises StoreError or
        DatasetError if no other worker is left, and StoreUnavailableError if the failure may be temporary.
        """
        known = job in self._checked and destination not in self._unreachable
        if known and self.ledger.job(job).held_at is None:
            return True
        try:
            # Inputs first, so that no folder is made where there is no job. This also shows within seconds whether a
            # store works again, before a shard is computed for it.
            if not known:
                self._check_inputs(place)
            open_store(place).check_writable()
        except (NewerVersionError, StoreUnavailableError):
            raise
        except (StoreError, DatasetError) as error:
            if not self._may_be_left_to_others(destination):
                raise
            self._refuse(job, "destination", str(error))
            return False
        self._unreachable.pop(destination, None)
        self._checked = [*self._checked[-_REMEMBERED:], job]
        return True

    def _may_be_left_to_others(self, destination: str) -> bool:
        """Announces at once that it cannot write there, so that the last of several workers knows that it is the last.

        Returns whether another worker may be able to write there.
        """
        now = time.monotonic()
        recent = [pair for pair in self._unreachable.items() if now < pair[1] and pair[0] != destination]
        self._unreachable = dict(recent[1 - UNREACHABLE_KEPT :]) | {destination: now + _UNREACHABLE_S}
        self.ledger.announce(replace(self.info, job=self.job, samples=self.samples, unreachable=self.unreachable))
        if any(worker.may_write(destination) for worker in self.ledger.workers(self.info.digest)):
            return True
        del self._unreachable[destination]  # The job fails with the cause. After a resume, try again at once.
        return False

    def _check_fit(self, spec: JobSpec) -> None:
        """Raises GeneratorError if the spec does not match the generator's inputs and outputs."""
        generator = self.rooms.generator
        told = (spec.latent_shape, spec.sample_shape, spec.classes)
        if told != (self.info.latent_shape, self.info.sample_shape, self.info.classes):
            raise GeneratorError("the job's shapes or classes are not those of its generator")
        beside = (generator.interface.noise_sizes, generator.interface.attributes_dim)
        if (spec.noise_sizes, spec.attributes_dim) != beside:
            raise GeneratorError("the job's noise or attributes are not those of its generator")
        try:
            fits = generator.settings(dict(spec.settings)) == spec.settings
        except UsageError:
            fits = False
        if not fits:
            raise GeneratorError("the job's settings are not those of its generator")
        try:
            generator.check_sampler(spec.sampling)
        except UsageError as error:
            raise GeneratorError(f"the job's sampler is not one of its generator's: {error}") from None

    def _check_inputs(self, place: str) -> None:
        """Raises DatasetError if the user's own latents or labels are not those that the job was submitted with."""
        problems = damaged_inputs(Dataset(place))
        if problems:
            raise DatasetError(f"{place}: {problems[0]}")

    def _refuse(self, job: str, reason: str, message: str) -> None:
        """Records why this worker leaves the job to others, for `status` and, once, in the log."""
        metrics.REFUSED.labels(reason).inc()
        if self._refused.get(job) != message:
            log.warning("job %s: %s", job, message, extra=about(job))
        self._refused = dict(list(self._refused.items())[-_REMEMBERED:]) | {job: message}
        self.ledger.complain(job, f"worker {self.info.id}, noisemill {self.info.version}, cannot make it: {message}")

    def _settled_engine(self, job: str, spec: JobSpec) -> Engine:
        """The engine that all slices of a job use; the first slice chooses it."""
        fitting = next((batch for batch in BATCHES if batch >= spec.shard_size), BATCHES[-1])
        way = (spec.precision, spec.sampling)
        if way not in self.calibrations:
            self.calibrations[way] = self.rooms.calibrate(*way, batch=spec.batch, samples=spec.count)
        calibration = self.calibrations[way]
        batch = spec.batch or min(calibration.batch, fitting)
        settled, batch = self.ledger.settle(job, calibration.engine, batch)
        try:
            replace(spec, batch=batch).check()
        except UsageError as error:
            raise DamagedEntryError(job, str(error)) from None
        if settled not in ENGINES:
            raise DamagedEntryError(job, f"engine is {shown(settled)}")
        engine = self.rooms.engine(settled, batch, spec.precision, spec.settings, spec.sampling)
        metrics.BATCH.set(engine.batch)
        return engine


class _Slice:
    """One slice of time on one job; the mill's shift."""

    def __init__(
        self,
        worker: SliceWorker,
        job: str,
        spec: JobSpec,
        destination: str,
        token: int,
        holder: str,
        lease: Lease,
    ) -> None:
        self._worker, self._ledger, self._lease = worker, worker.ledger, lease
        self._job, self._spec, self._destination = job, spec, destination
        self._token, self._holder = token, holder
        self._dataset = Dataset(destination)
        if self._dataset.spec.sha256 != spec.sha256:
            raise DatasetError(f"{destination} has become another job's")
        self._until = time.monotonic() + worker.settings.slice_s
        self._works: dict[int, Work] = {}
        self._lock = threading.Lock()
        self._renewed = time.monotonic()
        self._over = threading.Event()
        #: Whether the job has ended, or cannot continue for now.
        self.ended = False
        #: Whether all shards that are left were leased at the last claim.
        self._waited = False
        self._made = 0
        self._final: Claim | None = None
        self._mill: Mill | None = None
        self._engine: Engine | None = None

    def run(self, engine: Engine) -> Generator[None, None, bool]:
        """Makes shards until the slice is over; returns whether there may be more to do."""
        self._engine = engine
        self._mill = Mill(engine, self._spec, self._dataset.store, self)
        pulse = threading.Thread(target=self._pulse, name="pulse", daemon=True)
        pulse.start()
        try:
            self._mill.run()
            # What broke the mill may be a signal to this thread, which must be raised here. A suspect shard is finished
            # before the next slice begins.
            if not self._mill.broken and not self._has_suspect():
                yield
            self._mill.wait()
            self._worker.rooms.compare(engine, self._mill.rate)
            if self._waited and self._made and not self.stopping():
                self._claim_last_step()
            if self._final is not None:
                self._finish(self._final)
        finally:
            self._over.set()
            pulse.join()
        return not (self._waited or self.ended or self._final is not None)

    # -- the mill's shift --------------------------------------------------------------------------

    def next_work(self) -> Work | None:
        """The next shard, while the slice lasts. A shard that is at the destination already is not made again."""
        while time.monotonic() < self._until and not self.stopping():
            self._wait_while(self._has_suspect)
            claim = self._claim()
            if claim is None:
                return None
            if claim.shard >= len(self._spec.plan):
                raise DamagedEntryError(self._job, f"there is no shard {claim.shard}")
            work = Work(claim=claim, shard=self._spec.plan[claim.shard])
            with self._lock:
                self._works[claim.shard] = work
            if claim.attempt == 1:
                return work
            try:
                if not self._found_done(work):
                    self._wait_while(self._has_others, work)
                    return work
            except StoreError as error:
                work.trouble = error
                self.gave_up(work)
        return None

    def stopping(self) -> bool:
        """Whether the job has ended or the worker has to stop."""
        return self.ended or self._worker.stop.is_set()

    def still_ours(self, work: Work) -> bool:
        """Checks the leases of the shard and of the destination. Raises StoreError, as when the latter is lost."""
        self._patiently(self._renew)
        if work.lost or self.ended:
            return False
        self._lease.check()
        return True

    def made(self, work: Work, files: list[StoredFile], statistics: Statistics) -> None:
        """Writes the receipt, then commits the shard in the ledger."""
        if not self.still_ours(work):
            self._forget(work)
            return
        assert self._engine is not None
        assert self._mill is not None
        receipt = Receipt(
            samples_sha256=self._spec.samples_sha256,
            shard=work.shard.index,
            first=work.shard.first,
            count=work.shard.count,
            files=tuple(files),
            statistics=statistics,
            made_by=self._engine.record,
            attempt=work.claim.attempt,
            worker=self._worker.info.id,
            finished_at=time.time(),
            seconds=self._mill.clock.take(),
        )
        self._dataset.store.write(shards.receipt_name(receipt.shard), receipt.to_json().encode())
        self._commit(work, receipt)
        self._made += 1
        self._worker.count(receipt.count)

    def gave_up(self, work: Work) -> None:
        """Gives the shard back, or records its failure."""
        if work.trouble is None or isinstance(work.trouble, LedgerError):
            if not work.lost:
                self._give_back(work)
            self._forget(work)
            return
        self._forget(work)
        try:
            self._tell_trouble(work, work.trouble)
        except LedgerError as error:
            log.warning(
                "job %s shard %d: its failure could not be recorded in Redis (%s): %s",
                self._job, work.shard.index, _in_words(work.trouble), _in_words(error),
                extra=self._about(work),
            )  # fmt: skip

    def _tell_trouble(self, work: Work, trouble: Exception) -> None:
        if isinstance(trouble, StoreError):
            self.ended = True
            self._worker.hold(self._job, trouble, work.claim)
            return
        message = _in_words(trouble)
        delay_s = min(_LONGEST_DELAY_S, 0.5 * 4 ** (work.claim.attempt - 1))
        answer = self._patiently(lambda: self._ledger.fail(self._job, work.claim, message, delay_s=delay_s))
        if answer != "stale":
            metrics.FAILURES.labels(answer).inc()
        log.warning(
            "job %s shard %d attempt %d failed (%s): %s",
            self._job, work.shard.index, work.claim.attempt, answer, message,
            exc_info=None if isinstance(trouble, NoisemillError) else trouble,
            extra=self._about(work),
        )  # fmt: skip

    # -- inside ------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        """The next shard, or None. Notes if the job has ended, all shards are leased or only the last step is left."""
        claim = self._patiently(lambda: self._ledger.claim(self._job, self._worker.info.id))
        self._waited = claim == "wait"
        if claim == "stop":
            self._patiently(self._renew)
            self.ended = True
        if not isinstance(claim, Claim):
            return None
        if claim.shard < 0:
            self._final = claim
            return None
        return claim

    def _claim_last_step(self) -> None:
        """Claims again after all shards were leased: by now this slice may have committed the last of them.

        If that yields a shard, it is given back for the next slice: another slice may have the device now.
        """
        claim = self._claim()
        if claim is not None:
            self._ledger.give_back(self._job, claim)

    def _patiently(self, call: Callable[[], _Answer]) -> _Answer:
        """Repeats a call that fails for want of Redis, for as long as a lease lasts: a short outage costs no work."""
        deadline = time.monotonic() + self._worker.settings.lease_s
        while True:
            try:
                return call()
            except DamagedEntryError:
                raise
            except LedgerError:
                if self.stopping() or time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_S)

    def _wait_while(self, condition: Callable[..., bool], *arguments: Work) -> None:
        """Waits while the condition holds, unless the mill is broken, which would never change it."""
        while condition(*arguments) and not self.stopping() and self._mill is not None and not self._mill.broken:
            self._worker.stop.wait(_LOOK_S)

    def _has_suspect(self) -> bool:
        """Whether a shard is in progress whose earlier attempt may have crashed the process.

        Such a shard is made alone, so that the next crash identifies it and loses no others.
        """
        with self._lock:
            return any(work.claim.attempt > 1 for work in self._works.values())

    def _has_others(self, work: Work) -> bool:
        """Whether this process has any other shard or slice in progress."""
        with self._lock:
            return any(other is not work for other in self._works.values()) or self._worker.background.busy

    def _found_done(self, work: Work) -> bool:
        """Commits the shard if an earlier attempt wrote its receipt and died before it was committed."""
        receipt = self._dataset.finished_shard(work.shard.index)
        if receipt is None:
            return False
        self._commit(work, receipt)
        return True

    def _commit(self, work: Work, receipt: Receipt) -> None:
        self._forget(work)
        answer = self._patiently(
            lambda: self._ledger.commit(
                self._job,
                work.claim,
                samples=receipt.count,
                size_bytes=receipt.size_bytes,
                stage_seconds=receipt.seconds,
            )
        )
        metrics.spent(receipt.seconds)
        if answer == "done":
            metrics.committed(receipt.count, receipt.size_bytes)
        log.info(
            "job %s shard %d attempt %d: %s", self._job, work.shard.index, work.claim.attempt, answer,
            extra=self._about(work),
        )  # fmt: skip

    def _give_back(self, work: Work) -> None:
        try:
            self._ledger.give_back(self._job, work.claim)
        except LedgerError as error:
            log.warning(
                "job %s shard %d could not be given back; its lease will expire: %s",
                self._job, work.shard.index, _in_words(error),
                extra=self._about(work),
            )  # fmt: skip

    def _forget(self, work: Work) -> None:
        with self._lock:
            self._works.pop(work.shard.index, None)

    def _finish(self, claim: Claim) -> None:
        """The last step of the job. Writes no manifest for a selection, or if shards were given up."""
        state = self._ledger.job(self._job)
        try:
            self._lease.check()
            if not state.failed and state.selection is None:
                finish_dataset(self._destination, self._job, reproducible=self._worker.rooms.is_reproducible())
            answer = self._patiently(lambda: self._ledger.finish(self._job, claim))
            self.ended = True
            log.info("job %s is %s", self._job, answer, extra=about(self._job))
        except StoreError as error:
            self._worker.hold(self._job, error, claim)
        except LedgerError:
            raise
        except (NoisemillError, OSError) as error:
            # Shards have vanished since: only `resume`, which reads the destination, can put that right.
            self._ledger.abandon(self._job, str(error))

    def _pulse(self) -> None:
        """Renews leases in a thread of its own, so that a long prediction does not delay it."""
        told = False
        while not self._over.wait(_PULSE_S):
            try:
                self._renew()
                told = False
            except LedgerError as error:
                if not told:
                    reason = _in_words(error)
                    log.warning("job %s: leases could not be renewed: %s", self._job, reason, extra=about(self._job))
                told = True
                if time.monotonic() - self._renewed > self._worker.settings.lease_s:
                    self._lose_all()

    def _renew(self) -> None:
        with self._lock:
            works = dict(self._works)
        claims = {index: (work.claim.fence, work.samples) for index, work in works.items()}
        if self._final is not None:
            claims[self._final.shard] = (self._final.fence, 0)
        renewal = self._ledger.renew(self._job, claims, token=self._token, holder=self._holder)
        self._renewed = time.monotonic()
        if renewal.state not in LIVE_STATES:
            if renewal.state == "unknown" and not self.ended:
                log.warning(
                    "job %s: Redis no longer has it; 'noisemill resume %s' makes what is missing",
                    self._job, quote(self._destination),
                    extra=about(self._job),
                )  # fmt: skip
            self.ended = True
        with self._lock:
            for index in renewal.lost & self._works.keys():
                # A shard that was committed during the renewal is not lost but done.
                self._mark_lost(self._works[index])

    def _lose_all(self) -> None:
        with self._lock:
            for work in self._works.values():
                self._mark_lost(work)

    def _mark_lost(self, work: Work) -> None:
        if work.lost:
            return
        work.lost = True
        metrics.LEASES_LOST.inc()
        log.warning("job %s shard %d: the lease went to another", self._job, work.shard.index, extra=self._about(work))

    def _about(self, work: Work) -> dict[str, Any]:
        return about(self._job, work.shard.index, work.claim.attempt)


def _in_words(error: Exception) -> str:
    """An error as one line, for the ledger."""
    text = one_line(error)
    return text if isinstance(error, NoisemillError) else f"{type(error).__name__}: {text}"[:500]
