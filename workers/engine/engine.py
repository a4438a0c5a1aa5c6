"""Engines, forward passes compiled for one batch size, and the calibration that chooses the fastest."""

from __future__ import annotations

import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError
from pipeline.common.version import VERSION
from pipeline.datasets.receipts import EngineRecord
from pipeline.formats.image import encoder_versions
from pipeline.generators import Generator
from pipeline.generators.interface import Constant
from pipeline.spec.sampler import Sampler
from workers.engine.devices import Device, confirm_device
from workers.engine.generators import Forward, load_generator, memory_bytes
from workers.engine.tensorflow_start import start_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

#: (engine, batch, precision, settings, sampler)
_Key = tuple[str, int, str, tuple[Constant, ...], Sampler | None]

ENGINES = ("xla", "tf")
BATCHES = (64, 128, 256, 512)

#: The number of engines that a worker keeps: more than calibration compares, so that its choice is among them.
_KEPT_ENGINES = 12

#: Batches of samples that the mill holds at once, between prediction and writing.
_BATCHES_HELD = 6

#: How often each candidate is measured, in turn with the others, and the duration of each measurement, seconds. On a
#: shared machine other load seldom disturbs all measurements of one candidate.
_ROUNDS = 4
_MEASURE_S = 0.08
#: The smallest batch whose rate is at least this share of the fastest is chosen: it pads less and stops sooner.
_TIE = 0.99
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


class Engine:
    """A forward pass compiled for batches of one size, with one precision (see `pipeline.spec.job_spec.PRECISIONS`).

    Of a denoiser it is all passes of a sampler, the generator's usual one unless another is named.
    """

    def __init__(
        self,
        forward: Forward,
        generator: Generator,
        device: Device,
        engine: str,
        batch: int,
        precision: str = "float32",
        settings: tuple[Constant, ...] = (),
        sampler: Sampler | None = None,
        disturbance: float = 0.0,
    ) -> None:
        import keras
        import tensorflow as tf

        self.engine, self.batch, self.precision = engine, batch, precision
        self.settings, self.sampler = settings, sampler or generator.sampler
        #: Batches to compute at the same time. On a CPU, while one waits for its last thread, the other continues; a
        #: GPU queues them itself.
        self.at_once = 2 if device.kind == "cpu" else 1
        self._allow_tf32 = tf.config.experimental.enable_tensor_float_32_execution
        self._row_dim = generator.interface.row_dim
        self._conditional = generator.interface.classes is not None
        self._sample_shape = generator.interface.sample_shape
        signature = [tf.TensorSpec((batch, self._row_dim), tf.float32)]
        if self._conditional:
            signature.append(tf.TensorSpec((batch,), tf.int32))

        def compiled(rows: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return tf.cast(forward(rows, labels, settings, self.sampler, disturbance), tf.float32)

        self._function = tf.function(
            compiled,
            input_signature=signature,
            jit_compile=engine == "xla",
            # Not needed, as nothing here branches on tensors; and it leaves files in the temporary folder.
            autograph=False,
        )
        self.record = EngineRecord(
            engine=engine,
            batch=batch,
            precision="float32" if precision == "tf32" and device.kind == "cpu" else precision,
            device=device.kind,
            device_name=device.model,
            versions={
                "noisemill": VERSION,
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
                **encoder_versions(),
                **{file.path.name: f"sha256:{file.sha256}" for file in generator.code},
            },
        )
        self._warm_up()

    def predict(self, rows: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Prediction:
        """Samples of up to `batch` rows of latent, noise, attributes and key, (n, row_dim); fewer rows are padded.

        May be called by several threads. On a GPU it returns before the samples are ready; `Prediction.samples` waits.
        """
        count = len(rows)
        if count < self.batch:
            rows = _padded(rows, self.batch)
            labels = None if labels is None else _padded(labels, self.batch)
        arguments = (rows, labels) if self._conditional else (rows,)
        # The switch belongs to the whole process, whose jobs may have different precisions.
        self._allow_tf32(self.precision == "tf32")
        return Prediction(self._function(*arguments), count)

    def _warm_up(self) -> None:
        """Compiles, and checks that samples have the shape of the interface. Raises GeneratorError."""
        rows = np.zeros((self.batch, self._row_dim), np.float32)
        labels = np.zeros(self.batch, np.int32) if self._conditional else None
        try:
            shape = self.predict(rows, labels).samples().shape[1:]
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise GeneratorError(
                f"the generator fails on a batch of {self.batch} with {self.engine}: {reason}"
            ) from error
        if shape != self._sample_shape:
            raise GeneratorError(
                f"the generator makes samples of {shape}, but its interface declares {self._sample_shape}"
            )


@dataclass(frozen=True)
class Prediction:
    """Samples of one batch, perhaps still on the device."""

    tensor: Any
    count: int

    def samples(self) -> NDArray[np.float32]:
        """The samples on the host, float32 of shape (count, *sample_shape), without the padding."""
        host: NDArray[np.float32] = self.tensor.numpy()[: self.count]
        return host


class EngineRoom:
    """A loaded generator and its engines. Each is compiled on first use; the most recently used are kept."""

    def __init__(
        self,
        generator: Generator,
        device: Device,
        cache_dir: Path,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        start_tensorflow()
        self.generator, self.device = generator, confirm_device(device)
        self._forwards = {"float32": load_generator(generator)}
        #: The least recently used first.
        self._engines: OrderedDict[_Key, Engine] = OrderedDict()
        self._cache_dir, self._clock = cache_dir, clock
        self._first_batches: dict[Sampler | None, int] = {}
        self._reproducible: bool | None = None

    def engine(
        self,
        engine: str,
        batch: int,
        precision: str = "float32",
        settings: tuple[Constant, ...] = (),
        sampler: Sampler | None = None,
    ) -> Engine:
        """The engine for batches of this size, warmed up. Raises GeneratorError if it cannot run the generator."""
        sampler = sampler or self.generator.sampler
        key = (engine, batch, precision, settings, sampler)
        if key not in self._engines:
            self._check_memory(batch)
            # Computing in 16 bits needs other layers. TF32 does not: the device applies it to the same ones.
            policy = precision if precision.startswith("mixed") else "float32"
            if policy not in self._forwards:
                self._forwards[policy] = load_generator(self.generator, policy)
            self._engines[key] = Engine(
                self._forwards[policy], self.generator, self.device, engine, batch, precision, settings, sampler
            )
            if len(self._engines) > _KEPT_ENGINES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]

    def disturbed_engine(self, engine: Engine, disturbance: float) -> Engine:
        """An engine like this one of a denoiser, each of whose predictions is disturbed at random by this share."""
        policy = engine.precision if engine.precision.startswith("mixed") else "float32"
        return Engine(
            self._forwards[policy], self.generator, self.device, engine.engine, engine.batch, engine.precision,
            engine.settings, engine.sampler, disturbance,
        )  # fmt: skip

    def _check_memory(self, batch: int) -> None:
        """Raises GeneratorError for a batch whose samples do not fit into memory: the kernel would kill the process."""
        interface = self.generator.interface
        sample_bytes = 4 * (interface.row_dim + math.prod(interface.sample_shape))
        needed, memory = _BATCHES_HELD * batch * sample_bytes, memory_bytes()
        if needed > memory:
            most = memory // (_BATCHES_HELD * sample_bytes)
            raise GeneratorError(
                f"batches of {batch:,} samples take {needed / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB of "
                f"memory: use --batch {max(1, most)} or less"
            )

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
        """The fastest engine and batch on this device, measured once for each sampler and then kept in the cache.

        A calibration made on a busy machine is repeated once the machine is less busy. If the only job to be made has
        a `batch` of its own, only that batch is measured. If it has so few `samples` that calibration would take longer
        than it saves, only an earlier calibration is used.
        """
        kept, load = self._kept_calibration(precision, sampler), _load()
        if batch or (kept is None and 0 < samples <= _FEW_BATCHES * self.first_batch(sampler)):
            engine = self._engine_for(precision, sampler, batch or self.first_batch(sampler), kept, samples)
            rate = _bare_rate(engine, *self._some_input(engine.batch), self._clock)
            return Calibration(engine=engine.engine, batch=engine.batch, rate=round(rate, 1))
        if kept is not None and (kept.load <= 1 or kept.load < 2 * load):
            return kept
        calibration = replace(self._measure(precision, sampler), load=round(load, 2))
        path = self._calibration_path(precision, sampler)
        keep(path, json.dumps(asdict(calibration)))
        return calibration

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

    def _first_that_runs(self, batch: int, precision: str = "float32", sampler: Sampler | None = None) -> Engine:
        """XLA, else TensorFlow; with a smaller batch if neither can run this one, which may not fit into memory."""
        while True:
            for engine in ENGINES:
                try:
                    return self.engine(engine, batch, precision, sampler=sampler)
                except GeneratorError as error:
                    failed = error
            if batch == 1:
                raise failed
            batch //= 2

    def is_reproducible(self) -> bool:
        """Whether a sample depends on its latent and label alone. Found by experiment, once.

        It does not if the network draws random numbers, changes its own state or takes statistics over the batch: the
        same latent then gives another sample in another batch.
        """
        if self._reproducible is None:
            engine = next(reversed(self._engines.values()), None) or self._first_that_runs(max(2, self.first_batch()))
            if engine.batch == 1:
                engine = self._first_that_runs(2)
            self._reproducible = self._gives_the_same(engine)
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
            self._calibration_path(engine.precision, engine.sampler).unlink(missing_ok=True)

    def _kept_calibration(self, precision: str = "float32", sampler: Sampler | None = None) -> Calibration | None:
        try:
            return Calibration(**json.loads(self._calibration_path(precision, sampler).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _measure(self, precision: str, sampler: Sampler | None) -> Calibration:
        """Chooses the engine at a medium batch, then the batch."""
        first = self.first_batch(sampler)
        if first < BATCHES[0]:
            return self._climb(first, precision, sampler)
        rates = self._rates([(engine, 256) for engine in ENGINES], precision, sampler)
        engine = max(rates, key=lambda key: rates[key])[0]
        rates = self._rates([(engine, batch) for batch in BATCHES], precision, sampler)
        return _best(rates)

    def _climb(self, batch: int, precision: str, sampler: Sampler | None) -> Calibration:
        """For a large network: doubles the batch until it takes too long or does not fit into memory."""
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
            if rates[name, batch] == 0.0:
                break
        return _best({key: rate for key, rate in rates.items() if rate})

    def _rates(
        self, candidates: list[tuple[str, int]], precision: str, sampler: Sampler | None
    ) -> dict[tuple[str, int], float]:
        """Samples per second of the bare forward pass, the best of several interleaved measurements."""
        engines = {key: self._engine_if_any(*key, precision, sampler) for key in candidates}
        rates = dict.fromkeys(candidates, 0.0)
        for _ in range(_ROUNDS):
            for key, engine in engines.items():
                if engine is not None:
                    rates[key] = max(rates[key], _bare_rate(engine, *self._some_input(engine.batch), self._clock))
        return rates

    def _some_input(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """Random rows, and labels if there are classes."""
        interface = self.generator.interface
        latents = np.random.default_rng(0).standard_normal((count, interface.row_dim), np.float32)
        if interface.classes is None:
            return latents, None
        return latents, (np.arange(count) % len(interface.classes)).astype(np.int32)

    def _engine_if_any(self, engine: str, batch: int, precision: str, sampler: Sampler | None) -> Engine | None:
        """The engine, or None if it is XLA and cannot run the generator."""
        try:
            return self.engine(engine, batch, precision, sampler=sampler)
        except GeneratorError:
            if engine == "tf":
                raise
            return None

    def _calibration_path(self, precision: str, sampler: Sampler | None) -> Path:
        import tensorflow as tf

        device = f"{self.device.name} {self.device.model} {os.cpu_count()} {tf.__version__} {_threads()} {precision}"
        sampler = sampler or self.generator.sampler
        key = sha256(f"{self.generator.digest} {device}{f' {sampler}' if sampler else ''}".encode()).hexdigest()[:24]
        return self._cache_dir / "calibrations" / f"{key}.json"


def _best(rates: dict[tuple[str, int], float]) -> Calibration:
    """The smallest batch whose rate is close to the highest."""
    best = max(rates.values())
    engine, batch = next(key for key in sorted(rates, key=lambda key: key[1]) if rates[key] >= _TIE * best)
    return Calibration(engine=engine, batch=batch, rate=round(rates[engine, batch], 1))


def _load() -> float:
    """Load average of the last minute, per core."""
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


def _padded(rows: NDArray[Any], count: int) -> NDArray[Any]:
    padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
