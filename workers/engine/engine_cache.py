"""A loaded generator and its engines: compiled on first use, within what fits into memory."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.common.limits import usable_memory
from pipeline.generators import Choice, Generator, Judge
from pipeline.generators.interface import Constant
from pipeline.spec.sampler import Sampler
from workers.engine.devices import Device, confirm_device
from workers.engine.engine import ENGINES, BestOf, Engine
from workers.engine.generators import Rank, load_generator, load_judge
from workers.engine.tensorflow_start import start_tensorflow

#: (engine, batch, precision, settings, sampler)
_How = tuple[str, int, str, tuple[Constant, ...], Sampler | None]
#: How, and the identity of the choice among candidates, if any.
_Key = tuple[_How, tuple[int, str, float | None] | None]

#: The number of engines that a worker keeps: more than calibration compares, so that its choice is among them.
_KEPT_ENGINES = 12

#: Batches of samples that the mill holds at once, between prediction and writing.
_BATCHES_HELD = 6


class EngineCache:
    """The engines of one generator on one device. The most recently used are kept."""

    def __init__(self, generator: Generator, device: Device) -> None:
        start_tensorflow()
        self.generator, self.device = generator, confirm_device(device)
        self._forwards = {"float32": load_generator(generator)}
        #: By digest.
        self._ranks: dict[str, Rank] = {}
        #: Digests of judges that XLA cannot run, as those that another library computes.
        self._without_xla: set[str] = set()
        #: The least recently used first.
        self._engines: OrderedDict[_Key, Engine] = OrderedDict()

    def engine(
        self,
        engine: str,
        batch: int,
        precision: str = "float32",
        settings: tuple[Constant, ...] = (),
        sampler: Sampler | None = None,
    ) -> Engine:
        """The engine for batches of this size, warmed up. Raises GeneratorError if it cannot run the generator."""
        return self._engine((engine, batch, precision, settings, sampler or self.generator.sampler), None)

    def judging_engine(
        self,
        engine: str,
        batch: int,
        precision: str,
        settings: tuple[Constant, ...],
        sampler: Sampler | None,
        choice: Choice,
    ) -> Engine:
        """The engine that also chooses among candidates; TensorFlow's if XLA cannot run the judge."""
        judge = choice.judge
        sampler = sampler or self.generator.sampler
        if judge.digest not in self._without_xla:
            try:
                return self._engine((engine, batch, precision, settings, sampler), choice)
            except GeneratorError:
                if engine == "tf":
                    raise
        found = self._engine(("tf", batch, precision, settings, sampler), choice)
        self._without_xla.add(judge.digest)
        return found

    def _engine(self, how: _How, choice: Choice | None) -> Engine:
        key = (how, None if choice is None else choice.identity)
        if key not in self._engines:
            engine, batch, precision, settings, sampler = how
            self._check_memory(batch * (choice.best_of if choice else 1))
            # Computing in 16 bits needs other layers. TF32 does not: the device applies it to the same ones.
            policy = precision if precision.startswith("mixed") else "float32"
            if policy not in self._forwards:
                self._forwards[policy] = load_generator(self.generator, policy)
            best_of = BestOf(choice, self._rank(choice.judge)) if choice else None
            self._engines[key] = Engine(
                self._forwards[policy], self.generator, self.device, engine, batch, precision, settings, sampler, 0.0,
                best_of,
            )  # fmt: skip
            if len(self._engines) > _KEPT_ENGINES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]

    def _rank(self, judge: Judge) -> Rank:
        if judge.digest not in self._ranks:
            self._ranks[judge.digest] = load_judge(judge, self.generator)
        return self._ranks[judge.digest]

    def disturbed_engine(self, engine: Engine, disturbance: float) -> Engine:
        """An engine like this one of a denoiser, each of whose predictions is disturbed at random by this share."""
        policy = engine.precision if engine.precision.startswith("mixed") else "float32"
        return Engine(
            self._forwards[policy], self.generator, self.device, engine.engine, engine.batch, engine.precision,
            engine.settings, engine.sampler, disturbance, engine.best_of,
        )  # fmt: skip

    def _check_memory(self, batch: int) -> None:
        """Raises GeneratorError for a batch whose samples do not fit into memory: the kernel would kill the process."""
        interface = self.generator.interface
        sample_bytes = 4 * (interface.row_dim + math.prod(interface.sample_shape))
        needed, memory = _BATCHES_HELD * batch * sample_bytes, usable_memory()
        if needed > memory:
            most = memory // (_BATCHES_HELD * sample_bytes)
            raise GeneratorError(
                f"batches of {batch:,} samples take {needed / 1e9:.1f} GB, this process may use {memory / 1e9:.1f} GB "
                f"of memory: use --batch {max(1, most)} or less"
            )

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

    def _engine_if_any(self, engine: str, batch: int, precision: str, sampler: Sampler | None) -> Engine | None:
        """The engine, or None if it is XLA and cannot run the generator."""
        try:
            return self.engine(engine, batch, precision, sampler=sampler)
        except GeneratorError:
            if engine == "tf":
                raise
            return None

    def _some_input(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """Random rows, and labels if there are classes."""
        interface = self.generator.interface
        latents = np.random.default_rng(0).standard_normal((count, interface.row_dim), np.float32)
        if interface.classes is None:
            return latents, None
        return latents, (np.arange(count) % len(interface.classes)).astype(np.int32)
