"""How a worker's child begins and carries out wake-ups, without TensorFlow: what is loaded is a stand-in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.common.errors import GeneratorError, LedgerError
from pipeline.fleet.launch import RUN_FOLDER_VARIABLE, WorkerConfig
from pipeline.jobs.broker import Wakeup
from tests.jobs.test_ledger import worker_info
from workers.engine.devices import Device
from workers.worker import child, loading
from workers.worker.child_process import Message, receive_message, send_message

CONFIG = WorkerConfig(generator="tiny", redis_url="redis://nowhere", output_roots=("/data",), cores=(0, 1))


class Parent:
    """The other end of the child's connection."""

    def __init__(self) -> None:
        self.end, theirs = Pipe()
        self.connection = child.ParentConnection(theirs)
        self._theirs: Connection = theirs

    def send(self, *messages: Message) -> None:
        for message in messages:
            send_message(self.end, message)

    def heard(self) -> list[Message]:
        """All that the child has sent; it is over."""
        self._theirs.close()
        return list(iter(lambda: receive_message(self.end), None))


@pytest.fixture
def parent() -> Parent:
    return Parent()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A worker that loads at once, on a device that is pinned at once."""
    worker: Any = SimpleNamespace(
        stop=threading.Event(), info=worker_info(), job=None, samples=5, unreachable=(), announced=[], ran=[],
        background=SimpleNamespace(wait=lambda: worker.ran.append("background")), loads=[],
    )  # fmt: skip

    def load(config: WorkerConfig, device: Device, wakeups: Any) -> Any:
        worker.loads.append((config, device.name))
        worker.wakeups = wakeups
        return worker

    def announce(info: Any) -> bool:
        worker.announced.append(info)
        worker.stop.set()
        return True

    worker.ledger = SimpleNamespace(announce=announce)
    worker.run = lambda **wakeup: worker.ran.append(wakeup)
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(child, "start_tensorflow", lambda: None)
    monkeypatch.setattr(child, "pin_own_device", lambda *_: Device(name="cpu", model="a processor"))
    monkeypatch.setattr(loading, "load_worker", load)
    before = signal.getsignal(signal.SIGUSR2)
    yield worker
    signal.signal(signal.SIGUSR2, before)


WAKEUP = Wakeup(job="job-1", token=2, serial=3).arguments()


def test_it_loads_what_its_parent_configures_and_carries_out_wakeups(loaded: Any, parent: Parent) -> None:
    parent.send(asdict(CONFIG), WAKEUP, {**WAKEUP, "serial": 4}, {"stop": True})
    assert child.run(CONFIG, parent.connection) == 0
    assert loaded.loads == [(CONFIG, "cpu")]
    wakeups = [{"job": "job-1", "token": 2, "serial": serial} for serial in (3, 4)]
    assert loaded.ran == [*wakeups, "background"]
    assert parent.heard() == [{"ready": True}, {"done": True}, {"done": True}]


def test_it_ends_when_its_parent_has_gone(loaded: Any, parent: Parent) -> None:
    parent.send(asdict(CONFIG))
    parent.end.close()
    assert child.run(CONFIG, parent.connection) == 0
    assert loaded.ran == ["background"]


def test_it_loads_nothing_if_its_parent_has_gone_before(loaded: Any, parent: Parent) -> None:
    parent.end.close()
    assert child.run(CONFIG, parent.connection) == 0
    assert loaded.loads == []


def test_a_wakeup_that_nobody_foresaw_is_logged_and_done(
    loaded: Any, parent: Parent, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    loaded.run = fail
    parent.send(asdict(CONFIG), WAKEUP, {"stop": True})
    assert child.run(CONFIG, parent.connection) == 0
    assert parent.heard() == [{"ready": True}, {"done": True}]
    assert "nobody foresaw this" in caplog.text


def test_a_wakeup_goes_back_by_its_parent(loaded: Any, parent: Parent) -> None:
    loaded.run = lambda **_: loaded.wakeups.send("job-1", "sha256:abc", 5, 2, 4)
    parent.send(asdict(CONFIG), WAKEUP, {"stop": True})
    assert child.run(CONFIG, parent.connection) == 0
    sent = {"job_id": "job-1", "digest": "sha256:abc", "priority": 5, "token": 2, "serial": 4}
    assert parent.heard() == [{"ready": True}, {"send": sent}, {"done": True}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(GeneratorError("it is too large"), "it is too large"), (ValueError("no"), "no"), (KeyError(), "KeyError")],
)
def test_a_load_that_fails_is_reported(
    loaded: Any, parent: Parent, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def load(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(loading, "load_worker", load)
    parent.send(asdict(CONFIG))
    assert child.run(CONFIG, parent.connection) == 1
    assert parent.heard() == [{"fatal": reason}]


def test_it_announces_itself_once_it_is_loaded(loaded: Any, parent: Parent) -> None:
    parent.send(asdict(CONFIG), {"stop": True})
    child.run(CONFIG, parent.connection)
    assert loaded.stop.wait(60)
    [info] = loaded.announced
    assert (info.id, info.samples, info.messages_refused) == ("host-1", 5, 0)


def test_the_parents_signal_stops_it(loaded: Any, parent: Parent) -> None:
    loaded.ledger.announce = lambda _: False
    parent.send(asdict(CONFIG), {"stop": True})
    child.run(CONFIG, parent.connection)
    assert not loaded.stop.is_set()
    signal.raise_signal(signal.SIGUSR2)
    assert loaded.stop.is_set()


def test_redis_away_is_logged_once_while_it_announces(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[Any] = iter([LedgerError("away"), LedgerError("away"), False])

    def announce(_: Any) -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        real.set()
        return bool(answer)

    real = loaded.stop
    loaded.ledger.announce = announce
    loaded.stop = SimpleNamespace(is_set=real.is_set, wait=lambda _: None, set=real.set)
    loading.start_announcing(loaded)
    assert real.wait(60)
    assert [record.message for record in caplog.records].count("away") == 1
