"""Threads are used where the first call mostly waits, and only there."""

from __future__ import annotations

import threading

import pytest

from pipeline.common import adaptive_map as module
from pipeline.common.adaptive_map import adaptive_map


class Clock:
    """Stands in for `time`: each call of the function takes so long, and so much processor time."""

    def __init__(self, elapsed_s: float, worked_s: float) -> None:
        self._steps = {"perf_counter": elapsed_s, "thread_time": worked_s}
        self._now = {"perf_counter": 0.0, "thread_time": 0.0}

    def perf_counter(self) -> float:
        return self._next("perf_counter")

    def thread_time(self) -> float:
        return self._next("thread_time")

    def _next(self, name: str) -> float:
        self._now[name] += self._steps[name]
        return self._now[name]


def threads_of(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[threading.Thread]:
    """The threads that process three items."""
    monkeypatch.setattr(module, "time", clock)
    return list(adaptive_map(lambda _: threading.current_thread(), range(3), 2))


def test_what_waits_is_done_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = threads_of(monkeypatch, Clock(elapsed_s=1.0, worked_s=0.4))
    assert first is threading.current_thread()
    assert first not in others


def test_what_computes_is_done_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(threads_of(monkeypatch, Clock(elapsed_s=1.0, worked_s=0.6))) == {threading.current_thread()}


@pytest.mark.parametrize("worked_s", [0.1, 0.9])
def test_results_keep_the_order_and_errors_are_raised(monkeypatch: pytest.MonkeyPatch, worked_s: float) -> None:
    monkeypatch.setattr(module, "time", Clock(1.0, worked_s))
    assert list(adaptive_map(str, range(50), 4)) == [str(number) for number in range(50)]
    assert list(adaptive_map(str, [], 4)) == []
    with pytest.raises(ZeroDivisionError):
        list(adaptive_map(lambda number: 1 // number, [1, 2, 0], 4))
