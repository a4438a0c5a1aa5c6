"""Which engines a worker keeps. Without TensorFlow: what stands in for an engine does nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from pipeline.generators import find_generator
from workers.engine import engines as engines_module
from workers.engine.engine import ENGINES
from workers.engine.engine_room import BATCHES, EngineRoom


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> EngineRoom:
    """An engine room whose engines are objects without content."""
    monkeypatch.setattr(engines_module, "Engine", lambda *_: object())
    room: Any = object.__new__(EngineRoom)
    room.generator, room.device = find_generator("article-28"), None
    room._forwards, room._engines = {"float32": None}, OrderedDict()
    return room


def test_engines_of_a_thousand_batch_sizes_are_not_all_kept(room: EngineRoom) -> None:
    for batch in range(1, 1001):
        room.engine("tf", batch)
    assert len(room._engines) == 12


def test_an_engine_that_is_used_stays(room: EngineRoom) -> None:
    used = room.engine("xla", 256)
    for batch in range(1, 100):
        room.engine("tf", batch)
        assert room.engine("xla", 256) is used


def test_calibration_keeps_all_that_it_compares(room: EngineRoom) -> None:
    compared = [(engine, 256) for engine in ENGINES] + [("xla", batch) for batch in BATCHES]
    first = {key: room.engine(*key) for key in compared}
    assert {key: room.engine(*key) for key in compared} == first
