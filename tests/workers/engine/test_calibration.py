"""Which engine and batch a worker settles for, and when it measures again.

Engines are stand-ins that advance a clock of the test: no TensorFlow and no sleeping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.spec.sampler import Sampler
from workers.engine import calibration as calibration_module
from workers.engine.calibration import CalibratedEngines, Calibration


class Clock:
    """Returns the seconds that engines have spent."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedEngine:
    """Stands in for an engine: a batch advances the clock, ten times as far in the first `disturbed` measurements."""

    def __init__(self, engine: str, batch: int, seconds: float, disturbed: int, clock: Clock) -> None:
        self.engine, self.batch, self.seconds, self.disturbed, self.clock = engine, batch, seconds, disturbed, clock
        self.precision, self.sampler = "float32", None
        self.at_once = 1

    def predict(self, latents: Any, labels: Any) -> TimedEngine:
        return self

    def samples(self) -> None:
        self.disturbed -= 1
        self.clock.now += self.seconds * (10 if self.disturbed >= 0 else 1)


class TimedEngines(CalibratedEngines):
    """Engines that take given seconds a batch; XLA takes them twice unless it is missing."""

    def __init__(
        self,
        folder: Path,
        seconds: dict[int, float],
        *,
        xla: bool = True,
        disturbed: int = 0,
        flop: int | None = 1000,
        most: int = 512,
        sampler: Sampler | None = None,
    ) -> None:
        self.folder, self.seconds, self.xla, self.disturbed = folder, seconds, xla, disturbed
        #: Multiplications and additions per sample, and the largest batch that there is memory for.
        self.flop, self.most, self.sampler = flop, most, sampler
        self.measured = 0
        self._first_batches = {}
        self.tried: list[tuple[str, int]] = []
        self._clock = self.clock = Clock()

    @property
    def generator(self) -> Any:  # type: ignore[override]
        class Interface:
            row_dim, classes = 4, None

        class Structure:
            flop = self.flop

        class Generator:
            interface, structure, sampler = Interface, Structure, self.sampler

        return Generator

    def engine(
        self, engine: str, batch: int, precision: str = "float32", settings: Any = (), sampler: Any = None
    ) -> Any:
        self.measured += 1
        self.tried.append((engine, batch))
        if engine == "xla" and not self.xla:
            raise GeneratorError("XLA does not take it")
        if batch > self.most:
            raise GeneratorError("out of memory")
        disturbed, self.disturbed = self.disturbed, 0
        seconds = self.seconds[batch] * (1 if engine == "xla" else 2)
        return TimedEngine(engine, batch, seconds, disturbed, self.clock)

    def _cache_path(self, kind: str, precision: str = "float32", sampler: Sampler | None = None) -> Path:
        return self.folder / f"{kind} {precision} {sampler or self.sampler}.json"


SECONDS = {64: 0.004, 128: 0.004, 256: 0.004, 512: 0.012}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "_MEASURE_S", 0.005)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How busy the machine is, per core."""
    load = {"now": 0.0}
    monkeypatch.setattr(calibration_module, "_load", lambda: load["now"])
    return load


def test_the_fastest_is_taken_and_kept(tmp_path: Path, load: dict[str, float]) -> None:
    first = TimedEngines(tmp_path, SECONDS)
    calibration = first.calibrate()
    assert (calibration.engine, calibration.batch) == ("xla", 256)
    assert calibration.rate == 64_000
    second = TimedEngines(tmp_path, {})
    assert second.calibrate() == calibration
    assert second.measured == 0


def test_what_disturbs_one_measurement_does_not_matter(tmp_path: Path, load: dict[str, float]) -> None:
    """The first engine to be measured, XLA at 256, takes ten times as long at first."""
    calibration = TimedEngines(tmp_path, SECONDS, disturbed=2).calibrate()
    assert (calibration.engine, calibration.batch) == ("xla", 256)


def test_a_network_that_xla_does_not_take(tmp_path: Path, load: dict[str, float]) -> None:
    assert TimedEngines(tmp_path, SECONDS, xla=False).calibrate().engine == "tf"


def test_of_batches_that_are_as_fast_the_smaller(tmp_path: Path, load: dict[str, float]) -> None:
    calibration = TimedEngines(tmp_path, {64: 0.04, 128: 0.0198, 256: 0.04, 512: 0.0804}).calibrate()
    assert calibration.batch == 128


@pytest.mark.parametrize(
    ("then", "now", "again"), [(0.4, 0.0, False), (1.0, 0.0, False), (3.0, 1.0, True), (3.0, 2.0, False)]
)
def test_what_was_measured_on_a_busy_machine_is_measured_again_on_a_quieter_one(
    tmp_path: Path, load: dict[str, float], then: float, now: float, again: bool
) -> None:
    load["now"] = then
    assert TimedEngines(tmp_path, SECONDS).calibrate().load == then
    load["now"] = now
    of_a_short_job = TimedEngines(tmp_path, SECONDS)
    assert of_a_short_job.calibrate(samples=100).load == then
    assert not of_a_short_job.measured
    engines = TimedEngines(tmp_path, SECONDS)
    assert engines.calibrate().load == (now if again else then)
    assert (engines.measured > 0) == again


@pytest.mark.parametrize(("share", "again"), [(0.5, False), (1.0, False), (1.2, False), (1.3, True)])
def test_a_job_that_is_much_faster_has_the_next_worker_measure_again(
    tmp_path: Path, load: dict[str, float], share: float, again: bool
) -> None:
    engines = TimedEngines(tmp_path, SECONDS)
    calibration = engines.calibrate()
    other: Any = TimedEngine("tf", 256, 0, 0, engines.clock)
    engines.compare(other, 100 * calibration.rate)
    used: Any = TimedEngine(calibration.engine, calibration.batch, 0, 0, engines.clock)
    engines.compare(used, share * calibration.rate)
    following = TimedEngines(tmp_path, SECONDS)
    following.calibrate()
    assert (following.measured > 0) == again


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"engine": "xla"}', "\x00"])
def test_a_damaged_cache_is_measured_again(tmp_path: Path, load: dict[str, float], text: str) -> None:
    engines = TimedEngines(tmp_path, SECONDS)
    engines._cache_path("calibrations").write_text(text)
    assert isinstance(engines.calibrate(), Calibration)
    assert engines.measured
    assert np.isfinite(TimedEngines(tmp_path, {}).calibrate().rate)


def test_a_sampler_counts_in_the_batch_and_is_measured_for_itself(tmp_path: Path, load: dict[str, float]) -> None:
    usual = Sampler(method="euler", steps=10)
    engines = TimedEngines(tmp_path, SECONDS, flop=4_000_000, sampler=usual)
    assert [engines.first_batch(sampler) for sampler in (None, usual)] == [64, 64]
    assert engines.first_batch(Sampler(method="euler", steps=100, guidance=2.0)) == 4
    assert engines.first_batch(Sampler(method="heun", steps=500, guidance=2.0)) == 1
    engines.calibrate()
    other = TimedEngines(tmp_path, SECONDS, flop=4_000_000, sampler=usual)
    other.calibrate(sampler=usual)
    assert other.measured == 0
    other.calibrate(sampler=Sampler(method="euler", steps=11))
    assert other.measured > 0


#: A network that takes a quarter of a second a sample, however many are in a batch.
LARGE = {batch: 0.25 * batch for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}


@pytest.mark.parametrize("flop", [30_000_000_000, None])
def test_a_large_network_is_tried_with_small_batches_alone(
    tmp_path: Path, load: dict[str, float], flop: int | None
) -> None:
    engines = TimedEngines(tmp_path, LARGE, flop=flop)
    calibration = engines.calibrate()
    assert (calibration.engine, calibration.batch) == ("xla", 1), "a larger one is not faster"
    assert max(batch for _, batch in engines.tried) == 2, "twice the batch gains nothing"


def test_slow_passes_are_measured_twice(tmp_path: Path, load: dict[str, float]) -> None:
    seconds = dict.fromkeys(SECONDS, 0.4)
    engines = TimedEngines(tmp_path, seconds, flop=1_000_000)
    assert engines.calibrate().batch == 512
    # Two engines, of which TensorFlow's takes twice as long, then four batches.
    assert engines.clock() == pytest.approx(2 * (0.4 + 0.8 + 4 * 0.4))


def test_a_large_network_that_gains_by_batches(tmp_path: Path, load: dict[str, float]) -> None:
    seconds = {batch: 0.2 + 0.01 * batch for batch in LARGE}
    calibration = TimedEngines(tmp_path, seconds, flop=4_000_000_000).calibrate()
    assert calibration.batch == 32
    assert seconds[calibration.batch] <= 1.0


@pytest.mark.parametrize("most", [1, 2, 8])
def test_what_is_too_large_for_the_memory_is_left_out(tmp_path: Path, load: dict[str, float], most: int) -> None:
    seconds = dict.fromkeys(LARGE, 0.01)
    calibration = TimedEngines(tmp_path, seconds, flop=500_000_000, most=most).calibrate()
    assert calibration.batch == most


def test_a_batch_that_the_job_names_is_the_only_one(tmp_path: Path, load: dict[str, float]) -> None:
    engines = TimedEngines(tmp_path, LARGE, flop=30_000_000_000)
    calibration = engines.calibrate(batch=8, samples=64)
    assert (calibration.engine, calibration.batch) == ("xla", 8)
    assert {batch for _, batch in engines.tried} == {8}
    assert not list(tmp_path.iterdir()), "it is not what is best for other jobs"


def test_a_long_job_with_a_batch_of_its_own_gets_the_faster_engine(tmp_path: Path, load: dict[str, float]) -> None:
    engines = TimedEngines(tmp_path, SECONDS | {8: 0.001})
    assert engines.calibrate(batch=8, samples=100_000).engine == "xla"
    assert set(engines.tried) == {("xla", 8), ("tf", 8)}


def test_few_samples_are_not_worth_measuring(tmp_path: Path, load: dict[str, float]) -> None:
    engines = TimedEngines(tmp_path, SECONDS)
    calibration = engines.calibrate(samples=1000)
    assert (calibration.engine, calibration.batch) == ("xla", 64)
    assert engines.tried == [("xla", 64)]
    TimedEngines(tmp_path, SECONDS).calibrate(samples=100_000)
    assert TimedEngines(tmp_path, SECONDS).calibrate(samples=1000).batch == 256, "what is known is used"


def test_a_generator_that_never_runs(tmp_path: Path, load: dict[str, float]) -> None:
    with pytest.raises(GeneratorError, match="out of memory"):
        TimedEngines(tmp_path, LARGE, most=0).calibrate(samples=10)
