"""How a worker's child begins and how its one task is carried out, without TensorFlow: what is loaded is a stand-in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.common.errors import GeneratorError, LedgerError, NoisemillError
from pipeline.fleet.launch import RUN_FOLDER_VARIABLE, WorkerConfig
from pipeline.jobs.broker import Wakeup
from tests.jobs.test_ledger import worker_info
from workers.worker import child, tasks
from workers.worker.identity import FATAL

CONFIG = WorkerConfig(generator="tiny", redis_url="redis://nowhere")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Signals that the child has sent; it has a run folder, and never sleeps."""
    signals: list[tuple[int, int]] = []
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("workers.worker.child.os.kill", lambda pid, number: signals.append((pid, number)))
    monkeypatch.setattr("workers.worker.child.time.sleep", lambda _: None)
    return signals


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A worker that loads at once; it announces itself once and then stops."""
    calls: list[Any] = []
    stop = threading.Event()

    def announce(info: Any) -> bool:
        calls.append(info)
        stop.set()
        return True

    worker = SimpleNamespace(
        stop=stop, info=worker_info(), ledger=SimpleNamespace(announce=announce), job=None, samples=5, unreachable=(),
        calls=calls,
    )  # fmt: skip
    monkeypatch.setattr(child, "_load", lambda _: worker)
    before = signal.getsignal(signal.SIGUSR2)
    yield worker
    signal.signal(signal.SIGUSR2, before)


def test_it_announces_itself_once_it_is_loaded(told: list[Any], announced: Any, tmp_path: Path) -> None:
    worker: Any = child.start_child(CONFIG)
    assert worker is announced
    assert worker.stop.wait(60)
    [info] = worker.calls
    assert (info.id, info.samples, info.messages_refused) == ("host-1", 5, 0)
    assert told == []
    assert not list(tmp_path.iterdir()), "nothing is left of a load that went well"


def test_the_parents_signal_stops_it(told: list[Any], announced: Any) -> None:
    announced.ledger.announce = lambda _: False
    worker: Any = child.start_child(CONFIG)
    assert not worker.stop.is_set()
    signal.raise_signal(signal.SIGUSR2)
    assert worker.stop.is_set()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(GeneratorError("it is too large"), "it is too large"), (ValueError("no"), "no"), (KeyError(), "KeyError")],
)
def test_a_load_that_fails_stops_the_parent_and_says_why(
    told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def load(_: WorkerConfig) -> Any:
        raise error

    monkeypatch.setattr(child, "_load", load)
    for _ in range(2):  # The pool may start a second child before the parent has ended.
        with pytest.raises(type(error)):
            child.start_child(CONFIG)
    assert (tmp_path / FATAL).read_text() == reason
    assert told == [(os.getppid(), signal.SIGTERM)]


def test_a_generator_that_kills_the_process_is_given_up(told: list[Any], announced: Any, tmp_path: Path) -> None:
    class Died(BaseException):
        """The kernel ends the process: nothing is cleaned up."""

    def die(_: WorkerConfig) -> Any:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "_load", die)
        for _ in range(3):
            with pytest.raises(Died):
                child.start_child(CONFIG)
    with pytest.raises(NoisemillError, match="the process died 3 times while it loaded the generator"):
        child.start_child(CONFIG)
    assert told == [(os.getppid(), signal.SIGTERM)]


def test_redis_away_is_logged_once_while_it_announces(
    told: list[Any], announced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers: Iterator[Any] = iter([LedgerError("away"), LedgerError("away"), False])

    def announce(_: Any) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        real.set()
        return bool(answer)

    real = announced.stop
    announced.ledger.announce = announce
    announced.stop = SimpleNamespace(is_set=real.is_set, wait=lambda _: None, set=real.set)
    child.start_child(CONFIG)
    assert real.wait(60)
    assert [record.message for record in caplog.records].count("away") == 1


def test_the_task_spends_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks, "slice_worker", lambda: SimpleNamespace(run=lambda **told: ran.append(told)))
    tasks.spend_slice(**vars(Wakeup(version=1, job="job-1", token=2, serial=3)))
    assert ran == [{"job": "job-1", "token": 2, "serial": 3}]
