"""The compiled predict: one fixed batch shape, warmed up; and the calibration that chooses it."""

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
from workers.engine.devices import Device, confirm_device
from workers.engine.generators import Forward, load_generator, memory_bytes
from workers.engine.tensorflow_start import start_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

ENGINES = ("xla", "tf")
BATCHES = (64, 128, 256, 512)

#: Engines that a worker keeps: more than calibration compares, so that what it chooses is among them.
_KEPT_ENGINES = 12

#: Batches of samples that the mill holds at a time, between predicting and writing.
_BATCHES_HELD = 6

#: How often each candidate is measured, in turn with the others, and how long each time, seconds: on a machine that
#: others use as well, what disturbs one measurement seldom disturbs all of them.
_ROUNDS = 4
_MEASURE_S = 0.08
#: A smaller batch is taken if it is within so much of the fastest: it pads less and stops sooner.
_TIE = 0.99
#: The first batch that is tried takes about so many multiplications and additions, or so many seconds.
_FIRST_FLOP, _FIRST_S = 4e9, 0.25
#: A batch of a large network takes at most about so long, seconds: a job that is cancelled ends after its batch.
_LONGEST_BATCH_S = 1.0
#: A job of so many batches or fewer is made faster than it would be measured how to make it fast.
_FEW_BATCHES = 32
#: Share of what samples span within which one counts as the same among other neighbours.
_SAME = 1e-3
#: Where a job goes faster than calibration by this factor, calibration was disturbed.
_DISTURBED = 1.25


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a device does best with a generator."""

    engine: str
    batch: int
    #: Samples per second of the bare forward pass.
    rate: float
    #: Processes that wanted a core, per core, when it was measured; more than 1 is a busy machine.
    load: float = 0.0


class Engine:
    """A forward pass compiled for batches of one size, with one precision (see `pipeline.spec.job_spec.PRECISIONS`)."""

    def __init__(
        self,
        forward: Forward,
        generator: Generator,
        device: Device,
        engine: str,
        batch: int,
        precision: str = "float32",
        settings: tuple[Constant, ...] = (),
    ) -> None:
        import keras
        import tensorflow as tf

        self.engine, self.batch, self.precision = engine, batch, precision
        #: Batches that are best computed at the same time. Where one waits for the last of its threads, whose core
        #: something else had, the other goes on; a GPU queues them itself.
        self.at_once = 2 if device.kind == "cpu" else 1
        self._allow_tf32 = tf.config.experimental.enable_tensor_float_32_execution
        self._row_dim = generator.interface.row_dim
        self._conditional = generator.interface.classes is not None
        self._sample_shape = generator.interface.sample_shape
        signature = [tf.TensorSpec((batch, self._row_dim), tf.float32)]
        if self._conditional:
            signature.append(tf.TensorSpec((batch,), tf.int32))

        def compiled(rows: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return tf.cast(forward(rows, labels, settings), tf.float32)

        self._function = tf.function(
            compiled,
            input_signature=signature,
            jit_compile=engine == "xla",
            # Nothing here branches on tensors; and what AutoGraph puts into the temporary folder, workers leave there.
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
            },
        )
        self._warm_up()

    def predict(self, rows: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Prediction:
        """Samples of up to `batch` rows of latent, noise and attributes, (n, row_dim); what is missing is padded.

        May be called by several threads. On a GPU the answer may still be under way; `Prediction.samples` waits for it.
        """
        count = len(rows)
        if count < self.batch:
            rows = _padded(rows, self.batch)
            labels = None if labels is None else _padded(labels, self.batch)
        arguments = (rows, labels) if self._conditional else (rows,)
        # One switch for the whole process, and jobs of every precision come by.
        self._allow_tf32(self.precision == "tf32")
        return Prediction(self._function(*arguments), count)

    def _warm_up(self) -> None:
        """Compiles, and checks that samples have the shape that the interface tells."""
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
                f"the generator makes samples of {shape}, its interface speaks of {self._sample_shape}"
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
    """A loaded generator and its engines: each is compiled when it is first asked for, and kept while it is used."""

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
        #: The latest that were asked for, least recently first.
        self._engines: OrderedDict[tuple[str, int, str, tuple[Constant, ...]], Engine] = OrderedDict()
        self._cache_dir, self._clock = cache_dir, clock
        self._first_batch: int | None = None
        self._reproducible: bool | None = None

    def engine(
        self, engine: str, batch: int, precision: str = "float32", settings: tuple[Constant, ...] = ()
    ) -> Engine:
        """The engine for batches of this size, warmed up. Raises GeneratorError where the generator cannot run so."""
        key = (engine, batch, precision, settings)
        if key not in self._engines:
            self._check_memory(batch)
            # Other layers, where layers compute in 16 bits; the same ones with TF32, which is the device's affair.
            policy = precision if precision.startswith("mixed") else "float32"
            if policy not in self._forwards:
                self._forwards[policy] = load_generator(self.generator, policy)
            self._engines[key] = Engine(
                self._forwards[policy], self.generator, self.device, engine, batch, precision, settings
            )
            if len(self._engines) > _KEPT_ENGINES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]

    def _check_memory(self, batch: int) -> None:
        """Refuses a batch whose samples could only end with this process killed. Raises GeneratorError."""
        interface = self.generator.interface
        sample_bytes = 4 * (interface.row_dim + math.prod(interface.sample_shape))
        needed, memory = _BATCHES_HELD * batch * sample_bytes, memory_bytes()
        if needed > memory:
            most = memory // (_BATCHES_HELD * sample_bytes)
            raise GeneratorError(
                f"batches of {batch:,} samples take {needed / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB of "
                f"memory: use --batch {max(1, most)} or less"
            )

    def quick_engine(self, settings: tuple[Constant, ...] = ()) -> Engine:
        """An engine without measuring: as calibration chose it, else one that agrees with it bit for bit mostly.

        XLA at any batch from 64 on makes the same bits (docs/decisions/0070-how-engines-agree.md).
        """
        calibration = self._kept_calibration()
        if calibration is not None:
            return self.engine(calibration.engine, calibration.batch, settings=settings)
        engine = self._first_that_runs(self.first_batch())
        return self.engine(engine.engine, engine.batch, settings=settings) if settings else engine

    def calibrate(self, precision: str = "float32", *, batch: int = 0, samples: int = 0) -> Calibration:
        """The fastest engine and batch on this device, measured once and then kept in the cache.

        What was measured on a busy machine is measured again once that is less so. Where the one job that is to be
        made names its `batch`, only that is tried; where it has so few `samples` that measuring would take longer than
        it gains, nothing is measured that is not known already.
        """
        kept, load = self._kept_calibration(precision), _load()
        if batch or (kept is None and 0 < samples <= _FEW_BATCHES * self.first_batch()):
            engine = self._engine_for(precision, batch or self.first_batch(), kept, samples)
            rate = _bare_rate(engine, *self._some_input(engine.batch), self._clock)
            return Calibration(engine=engine.engine, batch=engine.batch, rate=round(rate, 1))
        if kept is not None and (kept.load <= 1 or kept.load < 2 * load):
            return kept
        path, calibration = self._calibration_path(precision), replace(self._measure(precision), load=round(load, 2))
        keep(path, json.dumps(asdict(calibration)))
        return calibration

    def first_batch(self) -> int:
        """A batch that takes a fraction of a second, and so not too much memory: a power of two up to BATCHES[0]."""
        if self._first_batch is None:
            flop = self.generator.structure.flop
            if flop is None:
                # Nobody has counted what it computes: one sample tells.
                engine = self._first_that_runs(1)
                samples = _FIRST_S * _bare_rate(engine, *self._some_input(1), self._clock)
            else:
                samples = _FIRST_FLOP / max(1, flop)
            self._first_batch = min(BATCHES[0], 1 << max(0, int(samples).bit_length() - 1))
        return self._first_batch

    def _engine_for(self, precision: str, batch: int, kept: Calibration | None, samples: int) -> Engine:
        """The engine for batches of this size: the one that calibration chose, or the faster of both in a long job."""
        if kept is not None:
            return self.engine(kept.engine, batch, precision)
        if samples > _FEW_BATCHES * batch:
            rates = self._rates([(engine, batch) for engine in ENGINES], precision)
            return self.engine(*max(rates, key=lambda key: rates[key]), precision)
        return self._first_that_runs(batch, precision)

    def _first_that_runs(self, batch: int, precision: str = "float32") -> Engine:
        """XLA, else TensorFlow; with a smaller batch where that takes more memory than there is."""
        while True:
            for engine in ENGINES:
                try:
                    return self.engine(engine, batch, precision)
                except GeneratorError as error:
                    failed = error
            if batch == 1:
                raise failed
            batch //= 2

    def is_reproducible(self) -> bool:
        """Whether a sample depends on its latent and label alone. Found once, by trying.

        It does not where the network draws random numbers or changes itself, nor where it takes statistics over its
        batch: the same latents then give other samples among other neighbours.
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
        """Hears how fast a job went. Where calibration said much less, the next worker measures again."""
        kept = self._kept_calibration(engine.precision)
        if kept is None or (kept.engine, kept.batch) != (engine.engine, engine.batch):
            return
        if rate > _DISTURBED * kept.rate:
            self._calibration_path(engine.precision).unlink(missing_ok=True)

    def _kept_calibration(self, precision: str = "float32") -> Calibration | None:
        try:
            return Calibration(**json.loads(self._calibration_path(precision).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _measure(self, precision: str) -> Calibration:
        """First the engine, at a middling batch; then the batch."""
        first = self.first_batch()
        if first < BATCHES[0]:
            return self._climb(first, precision)
        rates = self._rates([(engine, 256) for engine in ENGINES], precision)
        engine = max(rates, key=lambda key: rates[key])[0]
        rates = self._rates([(engine, batch) for batch in BATCHES], precision)
        return _best(rates)

    def _climb(self, batch: int, precision: str) -> Calibration:
        """For a large network: doubles the batch while that is not too long, nor too large for the memory."""
        engine = self._first_that_runs(batch, precision)
        batch = engine.batch
        rates = self._rates([(name, batch) for name in ENGINES], precision)
        name = max(rates, key=lambda key: rates[key])[0]
        rates = {(name, batch): rates[name, batch]}
        while 2 * batch / rates[name, batch] <= _LONGEST_BATCH_S and batch < BATCHES[-1]:
            batch *= 2
            try:
                rates |= self._rates([(name, batch)], precision)
            except GeneratorError:  # Out of memory, mostly.
                break
            if rates[name, batch] == 0.0:
                break
        return _best({key: rate for key, rate in rates.items() if rate})

    def _rates(self, candidates: list[tuple[str, int]], precision: str) -> dict[tuple[str, int], float]:
        """Samples per second of the bare forward pass, the best of several measurements that take turns."""
        engines = {key: self._engine_if_any(*key, precision) for key in candidates}
        rates = dict.fromkeys(candidates, 0.0)
        for _ in range(_ROUNDS):
            for key, engine in engines.items():
                if engine is not None:
                    rates[key] = max(rates[key], _bare_rate(engine, *self._some_input(engine.batch), self._clock))
        return rates

    def _some_input(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """Latents, and labels where there are classes."""
        interface = self.generator.interface
        latents = np.random.default_rng(0).standard_normal((count, interface.row_dim), np.float32)
        if interface.classes is None:
            return latents, None
        return latents, (np.arange(count) % len(interface.classes)).astype(np.int32)

    def _engine_if_any(self, engine: str, batch: int, precision: str) -> Engine | None:
        """None where XLA cannot run the generator."""
        try:
            return self.engine(engine, batch, precision)
        except GeneratorError:
            if engine == "tf":
                raise
            return None

    def _calibration_path(self, precision: str) -> Path:
        import tensorflow as tf

        device = f"{self.device.name} {self.device.model} {os.cpu_count()} {tf.__version__} {_threads()} {precision}"
        key = sha256(f"{self.generator.digest} {device}".encode()).hexdigest()[:24]
        return self._cache_dir / "calibrations" / f"{key}.json"


def _best(rates: dict[tuple[str, int], float]) -> Calibration:
    """The smallest batch that is about as fast as the fastest."""
    best = max(rates.values())
    engine, batch = next(key for key in sorted(rates, key=lambda key: key[1]) if rates[key] >= _TIE * best)
    return Calibration(engine=engine, batch=batch, rate=round(rates[engine, batch], 1))


def _load() -> float:
    """How many processes want a core, per core, over the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def _threads() -> str:
    return os.environ.get("TF_NUM_INTRAOP_THREADS", "")


def _bare_rate(
    engine: Engine, latents: NDArray[np.float32], labels: NDArray[np.int32] | None, clock: Callable[[], float]
) -> float:
    """Samples per second of the fastest of the passes that fit into the measuring time: noise only ever adds.

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
