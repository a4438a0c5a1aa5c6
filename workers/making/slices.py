"""The Celery task: spend a slice of time on a job. Checks that this worker can make it, then runs a `JobSlice`.

When nothing is left to predict, the rest of a slice needs no device: it puts the last shards in place, and perhaps
finishes the job, in the background while the next slice runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

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
    shown,
)
from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.verification import damaged_inputs
from pipeline.generators import Choice, Judge
from pipeline.jobs.entries import DamagedEntryError
from pipeline.jobs.ledger import Claim, Ledger
from pipeline.jobs.queueing import destination_lease
from pipeline.jobs.worker_info import UNREACHABLE_KEPT, WorkerInfo, describe_roots, output_allowed
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.sampler import Sampler
from pipeline.stores import is_canonical, normalise, open_store
from workers.engine.calibration import BATCHES, CalibratedEngines, Calibration
from workers.engine.engine import ENGINES, Engine
from workers.making.assignment import Assignment, Clock, in_words
from workers.making.background import Background
from workers.making.job_slice import JobSlice
from workers.telemetry import metrics
from workers.telemetry.logs import about

log = logging.getLogger("noisemill")

_Answer = TypeVar("_Answer")

#: The number of jobs whose refusals and checked inputs a worker remembers.
_REMEMBERED = 100
#: Pause before a worker returns the wake-up of a job that it cannot make, seconds.
_REFUSAL_S = 1.0
#: Pause before a worker tries again to write to a destination where it could not, seconds.
_UNREACHABLE_S = 30.0


class WakeupSender(Protocol):
    """Puts wake-ups into the queue."""

    def send(self, job_id: str, digest: str, priority: int, token: int, serial: int) -> None:
        """Sends one wake-up to the end of the queue of the generator's digest."""


@dataclass
class _Flag:
    """A yes or no that is known at the end."""

    is_set: bool = False


@dataclass
class SliceWorker:
    """What a worker needs to carry out slices, and the state that it announces meanwhile."""

    settings: Settings
    ledger: Ledger
    wakeups: WakeupSender
    engines: CalibratedEngines
    #: By precision and sampler; those that the worker does not start with are calibrated when a job first needs them.
    calibrations: dict[tuple[str, Sampler | None], Calibration]
    info: WorkerInfo
    #: Set when the worker has to stop.
    stop: threading.Event
    #: The judges that it may load, by digest: the built-in ones, and those that its user named.
    judges: Mapping[str, Judge] = field(default_factory=dict)
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
    clock: Clock = field(default_factory=Clock)

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
        rest: Callable[[], None] | None = None
        with ExitStack() as slice_end:  # It handles what goes wrong.
            conclude = self._begin(job, token, serial, f"{self.info.id}/{self._slices}", slice_end)
            if conclude is not None:
                rest = partial(_conclude, conclude, slice_end.pop_all())
        if rest is not None:
            self.background.take_over(rest)

    def count(self, samples: int) -> None:
        """Adds to the number of samples made."""
        with self._lock:
            self.samples += samples

    def _begin(self, job: str, token: int, serial: int, holder: str, slice_end: ExitStack) -> Callable[[], None] | None:
        """Predicts; returns how to conclude the slice while the device is free, or None if it is over.

        What has to happen at the end of the slice, in the background or here, is entered into `slice_end`.
        """
        slice_end.enter_context(self._ledger_errors_logged(job))
        if not self.ledger.take_wakeup(job, token, serial, holder):
            return None
        slice_end.enter_context(self._counted(job))
        again = slice_end.enter_context(self._return_wakeup(job, token, holder))
        slice_end.enter_context(self._failures_recorded(job, again))
        found = self._prepare(job, again)
        if found is None:
            return None
        spec, place = found
        engine = self._settled_engine(job, spec)
        lease = destination_lease(place, f"job {job}", self.ledger, process=self.client)
        lease.take_now()
        going_on = _Flag()
        # The lease belongs to this Redis: while the job goes on, the next worker renews it.
        slice_end.callback(lambda: None if going_on.is_set else lease.give_back())
        slice_end.enter_context(lease.kept())
        assignment = Assignment(
            job=job,
            spec=spec,
            destination=place,
            worker_id=self.info.id,
            token=token,
            holder=holder,
            lease=lease,
            ledger=self.ledger,
            settings=self.settings,
            stop=self.stop,
            hold=self.hold,
            count=self.count,
            is_busy=lambda: self.background.busy,
            is_reproducible=self.engines.is_reproducible,
            about_generator=self.engines.generator.about,
            clock=self.clock,
        )
        piece = JobSlice(assignment, engine)
        slice_end.enter_context(piece.leases.renewed())

        def conclude() -> None:
            again.is_set = piece.conclude()
            self.engines.compare(engine, piece.rate)
            going_on.is_set = not piece.leases.ended

        piece.predict()
        if piece.frees_device:
            return conclude
        conclude()
        return None

    @contextmanager
    def _ledger_errors_logged(self, job: str) -> Iterator[None]:
        try:
            yield
        except LedgerError as error:
            reason = in_words(error)
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

    @contextmanager
    def _failures_recorded(self, job: str, again: _Flag) -> Iterator[None]:
        """Records what ends a slice early: the job fails or is held, or is left to newer workers."""
        try:
            yield
        except NewerVersionError as error:
            self._refuse(job, "version", str(error))
            self.clock.sleep(_REFUSAL_S)
            again.is_set = True
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
            reason = in_words(error)
            log.exception("job %s failed with an unexpected error: %s", job, reason, extra=about(job))
            self.ledger.abandon(job, f"unexpected error: {reason}; the worker's log has the traceback")

    def hold(self, job: str, error: StoreError, claim: Claim | None = None) -> None:
        """Holds the job because its store fails: its other shards would fail in the same way.

        After a failure that may be temporary the reconciler sends another wake-up; any other fails the job.
        """
        passing = isinstance(error, StoreUnavailableError)
        patience_s = self.settings.store_patience_s if passing else 0.0
        answer = self.ledger.hold(job, in_words(error), patience_s=patience_s, claim=claim)
        if answer != "stale":  # Other shards in progress fail too; the first of them has been logged.
            log.warning("job %s, whose store fails, is %s: %s", job, answer, error, extra=about(job))

    @contextmanager
    def _return_wakeup(self, job: str, token: int, holder: str) -> Iterator[_Flag]:
        """Ends the slice; puts the wake-up at the end of the queue if there is more to do, as the block says."""
        again = _Flag()
        try:
            yield again
        finally:
            try:
                more = again.is_set and not self.stop.is_set()
                serial = self.ledger.return_wakeup(job, token, holder, again=more)
                if serial is not None:
                    state = self.ledger.job(job)
                    self.wakeups.send(job, state.digest, state.priority, token, serial)
            except NoisemillError as error:
                log.warning(
                    "job %s: the end of a slice could not be recorded; the reconciler will correct that: %s",
                    job, in_words(error),
                    extra=about(job),
                )  # fmt: skip

    def _prepare(self, job: str, again: _Flag) -> tuple[JobSpec, str] | None:
        """The job's spec and the real path of its destination; None if this worker leaves it to others.

        Sets `again` if the wake-up goes to another worker.
        """
        spec, destination = self.ledger.spec(job)
        if spec.digest != self.info.digest:
            self._refuse(job, "generator", f"it wants generator {spec.digest}, this worker holds {self.info.digest}")
            return None
        if spec.judge_digest is not None and spec.judge_digest not in self.judges:
            self._refuse(job, "judge", f"it wants the judge {shown(spec.judge)}: start a worker with --judge")
            self.clock.sleep(_REFUSAL_S)
            again.is_set = True
            return None
        if not is_canonical(destination):
            raise DestinationError(f"{shown(destination)} is no destination that noisemill writes down")
        place = normalise(destination)
        roots = self.info.output_roots
        if not (output_allowed(destination, roots) and output_allowed(place, roots)):
            through = "" if place == destination else f" (by a link it is {place})"
            below = describe_roots(roots)
            self._refuse(
                job, "destination", f"{destination}{through} is below no --output-root of this worker ({below})"
            )
        else:
            self._check_fit(spec)
            if self._can_write(job, destination, place):
                return spec, place
        self.clock.sleep(_REFUSAL_S)
        again.is_set = True
        return None

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Destinations below its output roots that it could not write to recently."""
        now = self.clock.now()
        return tuple(sorted(place for place, until in self._unreachable.items() if now < until))

    def _can_write(self, job: str, destination: str, place: str) -> bool:
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
            if not self._others_may_write(destination):
                raise
            self._refuse(job, "destination", str(error))
            return False
        self._unreachable.pop(destination, None)
        self._checked = [*self._checked[-_REMEMBERED:], job]
        return True

    def _others_may_write(self, destination: str) -> bool:
        """Announces at once that it cannot write there, so that the last of several workers knows that it is the last.

        Returns whether another worker may be able to write there.
        """
        now = self.clock.now()
        recent = [pair for pair in self._unreachable.items() if now < pair[1] and pair[0] != destination]
        self._unreachable = dict(recent[1 - UNREACHABLE_KEPT :]) | {destination: now + _UNREACHABLE_S}
        self.ledger.announce(replace(self.info, job=self.job, samples=self.samples, unreachable=self.unreachable))
        if any(worker.may_write(destination) for worker in self.ledger.workers(self.info.digest)):
            return True
        del self._unreachable[destination]  # The job fails with the cause. After a resume, try again at once.
        return False

    def _check_fit(self, spec: JobSpec) -> None:
        """Raises GeneratorError if the spec does not match the generator's inputs and outputs."""
        generator = self.engines.generator
        shapes = (spec.latent_shape, spec.sample_shape, spec.classes)
        if shapes != (self.info.latent_shape, self.info.sample_shape, self.info.classes):
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
        if spec.judge_digest is not None:
            try:
                judge = self.judges[spec.judge_digest]
                judge.layout(generator.interface)
                if spec.enough is not None:
                    judge.rank_of(spec.enough)
            except UsageError as error:
                raise GeneratorError(str(error)) from None

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
        self.ledger.record_error(
            job, f"worker {self.info.id}, noisemill {self.info.version}, cannot make it: {message}"
        )

    def _settled_engine(self, job: str, spec: JobSpec) -> Engine:
        """The engine that all slices of a job use; the first slice chooses it."""
        fitting = next((batch for batch in BATCHES if batch >= spec.shard_size), BATCHES[-1])
        way = (spec.precision, spec.sampling)
        if way not in self.calibrations:
            each = spec.best_of
            self.calibrations[way] = self.engines.calibrate(*way, batch=spec.batch * each, samples=spec.count * each)
        calibration = self.calibrations[way]
        # All candidates of a batch are made in one pass, so that it takes no more memory than calibration has seen.
        batch = spec.batch or max(1, min(calibration.batch // spec.best_of, fitting))
        how = (spec.precision, spec.settings, spec.sampling)
        chosen, judge = calibration.engine, self.judges.get(spec.judge_digest or "")
        if judge is not None:
            choice = Choice(best_of=spec.best_of, judge=judge, enough=spec.enough)
            chosen = self.engines.judging_engine(chosen, batch, *how, choice).engine
        settled, batch = self.ledger.settle(job, chosen, batch)
        try:
            replace(spec, batch=batch).check()
        except UsageError as error:
            raise DamagedEntryError(job, str(error)) from None
        if settled not in ENGINES:
            raise DamagedEntryError(job, f"engine is {shown(settled)}")
        if judge is None:
            engine = self.engines.engine(settled, batch, *how)
        else:
            engine = self.engines.judging_engine(settled, batch, *how, choice)
        metrics.BATCH.set(engine.batch)
        return engine


def _conclude(conclude: Callable[[], None], slice_end: ExitStack) -> None:
    with slice_end:
        conclude()
