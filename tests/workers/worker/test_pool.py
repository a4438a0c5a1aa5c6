"""How Celery's pool of one process passes wake-ups to the child; the child and Celery's event loop are stand-ins.

With real ones it is in `tests/end_to_end/test_kills.py` and `tests/faults`.
"""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
from celery.exceptions import WorkerShutdown

from pipeline.common.errors import LedgerError
from pipeline.jobs.broker import Wakeup, Wakeups
from workers.worker.child_process import ChildProcess, Message
from workers.worker.pool import ChildPool


class Child:
    """A child whose messages come from the test; None is its death."""

    def __init__(self) -> None:
        self.pid = 1000
        self.says: deque[Message | None] = deque()
        self.heard: list[Message] = []
        self.signals: list[int] = []
        self.send, self.signal = self.heard.append, self.signals.append

    def fileno(self) -> int:
        return self.pid

    def receive(self) -> Message | None:
        return self.says.popleft()

    def wait(self) -> str:
        return "signal 9 (SIGKILL)"

    def restart(self) -> None:
        self.pid += 1


class Loop:
    """Celery's event loop."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.add_reader, self.remove = self.readers.__setitem__, self.readers.pop


class Rig:
    """A pool with its child, and what it has acknowledged."""

    def __init__(self) -> None:
        self.child, self.loop = Child(), Loop()
        self.sent: list[dict[str, Any]] = []
        self.accepted: list[int] = []
        self.acknowledged: list[int] = []
        self.pool = ChildPool(1)
        self.pool.serve(cast(ChildProcess, self.child), cast(Wakeups, self))
        self.pool.register_with_event_loop(self.loop)

    def send(self, **wakeup: Any) -> None:
        """As `Wakeups` does."""
        self.sent.append(wakeup)

    def receive(self, token: int) -> None:
        """A message comes from the queue."""
        body = json.dumps([[], Wakeup(job="job-1", token=token, serial=1).arguments(), {}])
        self.pool.on_apply(
            None, ("task", "id", {}, body, "application/json", "utf-8"), {},
            accept_callback=lambda pid, _: self.accepted.append(pid),
            callback=lambda _: self.acknowledged.append(token),
        )  # fmt: skip

    def say(self, message: Message | None) -> None:
        """The child says something, or dies."""
        self.child.says.append(message)
        self.loop.readers[self.child.pid]()

    @property
    def tokens(self) -> list[int]:
        """The wake-ups that the child has got."""
        return [message["token"] for message in self.child.heard if "token" in message]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_wakeup_waits_until_the_child_is_ready_and_is_acknowledged_once_it_is_done(rig: Rig) -> None:
    rig.receive(0)
    assert rig.tokens == []
    rig.say({"ready": True})
    assert (rig.tokens, rig.accepted, rig.acknowledged) == ([0], [1000], [])
    rig.receive(1)
    assert rig.tokens == [0], "one at a time"
    rig.say({"done": True})
    assert (rig.tokens, rig.acknowledged) == ([0, 1], [0])


def test_another_child_takes_the_place_of_one_that_died(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.say({"ready": True})
    rig.receive(0)
    rig.receive(1)
    rig.say(None)
    assert "exited with 'signal 9 (SIGKILL)'" in caplog.text
    assert rig.acknowledged == [0], "the reconciler will send another"
    assert (list(rig.loop.readers), rig.tokens) == ([1001], [0])
    rig.say({"ready": True})
    assert rig.tokens == [0, 1]


def test_a_generator_that_kills_the_process_is_given_up(rig: Rig) -> None:
    rig.receive(0)
    for _ in range(2):
        rig.say(None)
    with pytest.raises(WorkerShutdown):
        rig.say(None)
    assert rig.pool.fatal == "the process died 3 times while it loaded the generator: is it too large?"
    assert rig.acknowledged == []


def test_deaths_are_counted_from_the_last_load_that_went_well(rig: Rig) -> None:
    for _ in range(3):
        rig.say(None)
        rig.say(None)
        rig.say({"ready": True})
        rig.say(None)
        rig.say({"ready": True})
    assert rig.pool.fatal is None


def test_a_child_that_cannot_work_stops_the_worker(rig: Rig) -> None:
    with pytest.raises(WorkerShutdown):
        rig.say({"fatal": "it is too large"})
    rig.child.says.append(None)
    rig.pool.stop()
    assert rig.pool.fatal == "it is too large"


def test_it_stops_once_the_child_has_ended_and_all_it_said_is_heard(rig: Rig) -> None:
    rig.say({"ready": True})
    rig.receive(0)
    wakeup = {"job_id": "job-1", "digest": "sha256:abc", "priority": 5, "token": 0, "serial": 2}
    rig.child.says += [{"send": wakeup}, {"done": True}, None]
    rig.pool.stop()
    rig.pool.stop()
    assert rig.child.heard[-1] == {"stop": True}
    assert (rig.sent, rig.acknowledged) == ([wakeup], [0])


def test_a_child_that_was_told_to_end_is_not_replaced(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.pool.end_slice()
    rig.say(None)
    assert (rig.child.pid, rig.child.signals, rig.loop.readers) == (1000, [signal.SIGUSR2], {})
    rig.child.says.append(None)
    rig.pool.stop()
    assert caplog.text == ""


def test_a_wakeup_that_cannot_be_sent_is_left_to_the_reconciler(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def send(**_: Any) -> None:
        raise LedgerError("Redis is away")

    monkeypatch.setattr(rig, "send", send)
    rig.say({"send": {}})
    assert "Redis is away" in caplog.text


def test_what_waits_is_forgotten_with_the_connection(rig: Rig) -> None:
    rig.receive(0)
    rig.pool.flush()
    rig.say({"ready": True})
    assert rig.tokens == []


def test_a_task_that_is_terminated_takes_its_child_along(rig: Rig) -> None:
    rig.pool.terminate_job(rig.child.pid, signal.SIGQUIT)
    rig.pool.terminate()
    assert rig.child.signals == [signal.SIGKILL, signal.SIGKILL]
