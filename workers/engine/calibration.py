"""The engines of a generator, and the calibration that chooses the fastest of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError
from pipeline.common.limits import usable_cores
from pipeline.generators import Generator
from pipeline.generators.interface import Constant
from pipeline.spec.sampler import Sampler
from workers.engine.devices import Device
from workers.engine.engine import ENGINES, Engine
from workers.engine.engine_cache import EngineCache

BATCHES = (64, 128, 256, 512)

#: How often each candidate is measured, in turn with the others, and the duration of each measurement, seconds. On a
#: shared machine other load seldom disturbs all measurements of one candidate.
_ROUNDS = 4
_MEASURE_S = 0.08
#: Two rounds are enough if they took so long for each candidate, seconds, as with slow passes: the first job on a
#: machine waits for them.
_LEAST_ROUNDS, _ENOUGH_S = 2, 0.35
#: The batch by which the engine is chosen.
_MEDIUM_BATCH = 128
#: The smallest batch whose rate is at least this share of the fastest is chosen: it pads less and stops sooner.
_TIE = 0.99
#: Greater rate of twice the batch, below which no larger one is tried.
_GAIN = 1.02
#: Work of the first batch that is tried: multiplications and additions, or seconds if those were not counted.
_FIRST_FLOP, _FIRST_S = 4e9, 0.25
#: Longest duration of a batch of a large network, seconds: a cancelled job ends only after its batch.
_LONGEST_BATCH_S = 1.0
#: A job of this many batches or fewer takes less time than calibration would.
_FEW_BATCHES = 32
#: Largest difference at which two samples count as the same, as a share of the range that samples span.
_SAME = 1e-3
#: If a job is faster than its calibration by this factor, other load disturbed the calibration.
_DISTURBED = 1.25


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The fastest engine and batch of a generator on a device."""

    engine: str
    batch: int
    #: Samples per second of the bare forward pass.
    rate: float
    #: Load average per core when it was measured; more than 1 is a busy machine.
    load: float = 0.0


class CalibratedEngines(EngineCache):
    """What a worker computes with: the engines, and which of them to use."""

    def __init__(
        self,
        generator: Generator,
        device: Device,
        cache_dir: Path,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(generator, device)
        self._cache_dir, self._clock = cache_dir, clock
        self._first_batches: dict[Sampler | None, int] = {}
        self._reproducible: bool | None = None

    def quick_engine(self, settings: tuple[Constant, ...] = (), sampler: Sampler | None = None) -> Engine:
        """An engine without calibrating: the one calibrated earlier, else one that mostly agrees with it bit for bit.

        XLA makes the same bits at any batch from 64 on (docs/decisions/0070-how-engines-agree.md).
        """
        calibration = self._kept_calibration(sampler=sampler)
        if calibration is not None:
            return self.engine(calibration.engine, calibration.batch, settings=settings, sampler=sampler)
        engine = self._first_that_runs(self.first_batch(sampler), sampler=sampler)
        if not settings:
            return engine
        return self.engine(engine.engine, engine.batch, settings=settings, sampler=sampler)

    def calibrate(
        self, precision: str = "float32", sampler: Sampler | None = None, *, batch: int = 0, samples: int = 0
    ) -> Calibration:
        """The fastest engine and batch on this device, measured once and then kept in the cache.

        Samplers with the same number of evaluations share a calibration.

        A calibration made on a busy machine is repeated once the machine is less busy. If the only job to be made has
        a `batch` of its own, only that batch is measured. If it has so few `samples` that calibration would take longer
        than it saves, any earlier calibration is used, and none is made.
        """
        kept, load = self._kept_calibration(precision, sampler), _load()
        if batch or (kept is None and self._is_short(samples, sampler)):
            engine = self._engine_for(precision, sampler, batch or self.first_batch(sampler), kept, samples)
            rate = _bare_rate(engine, *self._some_input(engine.batch), self._clock)
            return Calibration(engine=engine.engine, batch=engine.batch, rate=round(rate, 1))
        if kept is not None and (kept.load <= 1 or kept.load < 2 * load or self._is_short(samples, sampler)):
            return kept
        calibration = replace(self._measure(precision, sampler), load=round(load, 2))
        path = self._cache_path("calibrations", precision, sampler)
        keep(path, json.dumps(asdict(calibration)))
        return calibration

    def _is_short(self, samples: int, sampler: Sampler | None) -> bool:
        """Whether this is the number of samples of a job for which calibration does not pay."""
        return 0 < samples <= _FEW_BATCHES * self.first_batch(sampler)

    def first_batch(self, sampler: Sampler | None = None) -> int:
        """A batch that takes a fraction of a second, and little memory: a power of two up to BATCHES[0]."""
        sampler = sampler or self.generator.sampler
        if sampler not in self._first_batches:
            flop = self.generator.structure.flop
            if flop is None:
                # Its operations could not be counted: measure one sample.
                engine = self._first_that_runs(1, sampler=sampler)
                samples = _FIRST_S * _bare_rate(engine, *self._some_input(1), self._clock)
            else:
                samples = _FIRST_FLOP / max(1, flop * (sampler.evaluations if sampler else 1))
            self._first_batches[sampler] = min(BATCHES[0], 1 << max(0, int(samples).bit_length() - 1))
        return self._first_batches[sampler]

    def _engine_for(
        self, precision: str, sampler: Sampler | None, batch: int, kept: Calibration | None, samples: int
    ) -> Engine:
        """The calibrated engine, with this batch size; without a calibration, the faster of both if the job is long."""
        if kept is not None:
            return self.engine(kept.engine, batch, precision, sampler=sampler)
        if samples > _FEW_BATCHES * batch:
            rates = self._rates([(engine, batch) for engine in ENGINES], precision, sampler)
            return self.engine(*max(rates, key=lambda key: rates[key]), precision, sampler=sampler)
        return self._first_that_runs(batch, precision, sampler)

    def is_reproducible(self) -> bool:
        """Whether a sample depends on its latent and label alone. Found by experiment, once, and kept in the cache.

        It does not if the network draws random numbers, changes its own state or takes statistics over the batch: the
        same latent then gives another sample in another batch.
        """
        if self._reproducible is None:
            verdict = self._kept("reproducible")
            self._reproducible = verdict if isinstance(verdict, bool) else None
        if self._reproducible is None:
            plain = [engine for engine in self._engines.values() if engine.best_of is None and engine.batch > 1]
            engine = min(plain, key=lambda each: each.batch, default=None)
            engine = engine or self._first_that_runs(max(2, self.first_batch()))
            self._reproducible = self._gives_the_same(engine)
            with contextlib.suppress(OSError):  # It can be found again.
                keep(self._cache_path("reproducible"), json.dumps(self._reproducible))
        return self._reproducible

    def _gives_the_same(self, engine: Engine) -> bool:
        latents, labels = self._some_input(engine.batch)
        others, kept = latents.copy(), (engine.batch + 1) // 2
        others[kept:] = 3 * others[kept:][::-1] + 1
        answers = [engine.predict(each, labels).samples()[:kept] for each in (latents, latents, others)]
        span = float(np.ptp(answers[0])) or 1.0
        return all(bool(np.abs(answers[0] - each).max() <= _SAME * span) for each in answers[1:])

    def compare(self, engine: Engine, rate: float) -> None:
        """Compares the rate of a job with the calibration. If that was much lower, the next worker calibrates again."""
        kept = self._kept_calibration(engine.precision, engine.sampler)
        if kept is None or (kept.engine, kept.batch) != (engine.engine, engine.batch):
            return
        if rate > _DISTURBED * kept.rate:
            self._cache_path("calibrations", engine.precision, engine.sampler).unlink(missing_ok=True)

    def _kept_calibration(self, precision: str = "float32", sampler: Sampler | None = None) -> Calibration | None:
        try:
            return Calibration(**self._kept("calibrations", precision, sampler))
        except TypeError:
            return None

    def _measure(self, precision: str, sampler: Sampler | None) -> Calibration:
        """Chooses the engine at a medium batch, then the batch."""
        first = self.first_batch(sampler)
        if first < BATCHES[0]:
            return self._climb(first, precision, sampler)
        rates = self._rates([(engine, _MEDIUM_BATCH) for engine in ENGINES], precision, sampler)
        engine = max(rates, key=lambda key: rates[key])[0]
        rates = self._rates([(engine, batch) for batch in BATCHES], precision, sampler)
        return _best(rates)

    def _climb(self, batch: int, precision: str, sampler: Sampler | None) -> Calibration:
        """For a large network: doubles the batch until that gains little, takes long or does not fit into memory."""
        engine = self._first_that_runs(batch, precision, sampler)
        batch = engine.batch
        rates = self._rates([(name, batch) for name in ENGINES], precision, sampler)
        name = max(rates, key=lambda key: rates[key])[0]
        rates = {(name, batch): rates[name, batch]}
        while 2 * batch / rates[name, batch] <= _LONGEST_BATCH_S and batch < BATCHES[-1]:
            batch *= 2
            try:
                rates |= self._rates([(name, batch)], precision, sampler)
            except GeneratorError:  # Out of memory, mostly.
                break
            if rates[name, batch] < _GAIN * rates[name, batch // 2]:
                break
        return _best({key: rate for key, rate in rates.items() if rate})

    def _rates(
        self, candidates: list[tuple[str, int]], precision: str, sampler: Sampler | None
    ) -> dict[tuple[str, int], float]:
        """Samples per second of the bare forward pass, the best of several interleaved measurements."""
        engines = {key: self._engine_if_any(*key, precision, sampler) for key in candidates}
        rates = dict.fromkeys(candidates, 0.0)
        start = self._clock()
        for number in range(_ROUNDS):
            if number >= _LEAST_ROUNDS and self._clock() - start > _ENOUGH_S * len(candidates):
                break
            for key, engine in engines.items():
                if engine is not None:
                    rates[key] = max(rates[key], _bare_rate(engine, *self._some_input(engine.batch), self._clock))
        return rates

    def _kept(self, kind: str, precision: str = "float32", sampler: Sampler | None = None) -> Any:
        """What is in the cache, not checked; None if nothing is, or if it cannot be read."""
        try:
            return json.loads(self._cache_path(kind, precision, sampler).read_text())
        except (OSError, ValueError):
            return None

    def _cache_path(self, kind: str, precision: str = "float32", sampler: Sampler | None = None) -> Path:
        import tensorflow as tf

        device = f"{self.device.name} {self.device.model} {usable_cores()} {tf.__version__} {_threads()} {precision}"
        sampler = sampler or self.generator.sampler
        work = f" {sampler.evaluations} evaluations" if sampler else ""
        key = sha256(f"{self.generator.digest} {device}{work}".encode()).hexdigest()[:24]
        return self._cache_dir / kind / f"{key}.json"


def _best(rates: dict[tuple[str, int], float]) -> Calibration:
    """The smallest batch whose rate is close to the highest."""
    best = max(rates.values())
    engine, batch = next(key for key in sorted(rates, key=lambda key: key[1]) if rates[key] >= _TIE * best)
    return Calibration(engine=engine, batch=batch, rate=round(rates[engine, batch], 1))


def _load() -> float:
    """Load average of the last minute, per core: both are the machine's, also in a container."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _threads() -> str:
    return os.environ.get("TF_NUM_INTRAOP_THREADS", "")


def _bare_rate(
    engine: Engine, latents: NDArray[np.float32], labels: NDArray[np.int32] | None, clock: Callable[[], float]
) -> float:
    """Samples per second of the fastest pass within the measuring time: other load can only slow a pass down.

    `clock` returns seconds.
    """

    def compute(_: int) -> None:
        engine.predict(latents, labels).samples()

    least, deadline = math.inf, clock() + _MEASURE_S
    with ThreadPoolExecutor(engine.at_once) as predictors:
        while least == math.inf or clock() < deadline:
            start = clock()
            list(predictors.map(compute, range(engine.at_once)))
            least = min(least, clock() - start)
    return engine.at_once * engine.batch / least
