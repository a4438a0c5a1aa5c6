"""Which engines a worker keeps. Without TensorFlow: what stands in for an engine does nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from pipeline.generators import find_generator
from workers.engine import engine_cache
from workers.engine.calibration import BATCHES, CalibratedEngines
from workers.engine.engine import ENGINES


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> CalibratedEngines:
    """Engines that are objects without content."""
    monkeypatch.setattr(engine_cache, "Engine", lambda *_: object())
    engines: Any = object.__new__(CalibratedEngines)
    engines.generator, engines.device = find_generator("article-28"), None
    engines._forwards, engines._engines = {"float32": None}, OrderedDict()
    return engines


def test_engines_of_a_thousand_batch_sizes_are_not_all_kept(engines: CalibratedEngines) -> None:
    for batch in range(1, 1001):
        engines.engine("tf", batch)
    assert len(engines._engines) == 12


def test_an_engine_that_is_used_stays(engines: CalibratedEngines) -> None:
    used = engines.engine("xla", 256)
    for batch in range(1, 100):
        engines.engine("tf", batch)
        assert engines.engine("xla", 256) is used


def test_calibration_keeps_all_that_it_compares(engines: CalibratedEngines) -> None:
    compared = [(engine, 256) for engine in ENGINES] + [("xla", batch) for batch in BATCHES]
    first = {key: engines.engine(*key) for key in compared}
    assert {key: engines.engine(*key) for key in compared} == first
