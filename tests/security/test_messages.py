"""Messages are JSON wake-ups; all else that lands in a worker's queue is refused, counted, and does no harm."""

from __future__ import annotations

import base64
import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from kombu import Connection, Queue

from pipeline.generators import find_generator
from pipeline.jobs.broker import SLICE_TASK, RefusedMessage, Wakeup, queue_name, read_wakeup
from pipeline.jobs.connection import celery_url
from tests.end_to_end.fleet import TINY, Fleet, Worker

GOOD = Wakeup(job="tiny-0123456789", token=0, serial=1).arguments()
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


def task(**changes: Any) -> dict[str, Any]:
    """Headers of Celery's protocol 2."""
    return {"task": SLICE_TASK, "id": "x", "lang": "py", "root_id": "x", "parent_id": None, "group": None, **changes}


def body(arguments: Any = None, positional: Any = (), embed: Any = None) -> bytes:
    return json.dumps([list(positional), GOOD if arguments is None else arguments, embed or EMBED]).encode()


#: Wrong arguments of the right task.
ARGUMENTS: dict[str, Any] = {
    "none": {},
    "a field too few": {name: GOOD[name] for name in ("version", "job", "token")},
    "a field too many": {**GOOD, "command": "rm"},
    "a path for a job": {**GOOD, "job": "../../etc/passwd"},
    "control characters": {**GOOD, "job": "x\r\n\x1b[2J\x00"},
    "an endless job": {**GOOD, "job": "x" * 2000},
    "a job of a number": {**GOOD, "job": 7},
    "a surrogate": {**GOOD, "job": "\ud800"},
    "a huge token": {**GOOD, "token": 10**400},
    "a negative token": {**GOOD, "token": -1},
    "a token of text": {**GOOD, "token": "0"},
    "a token that is true": {**GOOD, "token": True},
    "a fraction": {**GOOD, "serial": 1.5},
    "infinity": {**GOOD, "serial": float("inf")},
    "nothing": {**GOOD, "serial": None},
    "a newer version": {**GOOD, "version": 2},
    "an older version": {**GOOD, "version": 0},
    "a list": [1, 2],
}


def sent(tmp: Path) -> dict[str, tuple[bytes | str, dict[str, Any]]]:
    """What strangers send: body, and what kombu's `publish` is told."""
    plain = {"content_type": "application/json", "content_encoding": "utf-8"}
    pickled = pickle.dumps([[], {"job": Bomb(tmp / "unpickled")}, EMBED])
    there = yaml.safe_dump([[], GOOD, EMBED]).encode()
    exploding = f"!!python/object/apply:os.open [{tmp / 'unpickled'}, {os.O_CREAT | os.O_WRONLY}]".encode()
    messages: dict[str, tuple[bytes | str, dict[str, Any]]] = {
        f"arguments: {name}": (body(arguments), {**plain, "headers": task()}) for name, arguments in ARGUMENTS.items()
    }
    python = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    return messages | {
        "pickle": (pickled, {**python, "headers": task()}),
        "pickle of protocol 1": (pickle.dumps({"task": SLICE_TASK, "args": [Bomb(tmp / "unpickled")]}), python),
        "pickle said to be JSON": (pickled, {**plain, "headers": task()}),
        "yaml": (there, {"content_type": "application/x-yaml", "content_encoding": "utf-8", "headers": task()}),
        "yaml that runs": (exploding, {"content_type": "application/x-yaml", "content_encoding": "utf-8"}),
        "msgpack": (
            b"\x93\x90\x80\x80",
            {"content_type": "application/x-msgpack", "content_encoding": "binary", "headers": task()},
        ),
        "no content type": (body(), {"headers": task()}),
        "broken JSON": (body()[:-7], {**plain, "headers": task()}),
        "no UTF-8": (b"\xff\xfe\x00", {**plain, "headers": task()}),
        "deep JSON": (b"[" * 2000, {**plain, "headers": task()}),
        "large": (body({**GOOD, "x": "y" * 10**6}), {**plain, "headers": task()}),
        "compressed": (b"x\x9cbomb", {**plain, "headers": task(compression="application/x-gzip")}),
        "positional": (body(positional=[1]), {**plain, "headers": task()}),
        "another task": (body(), {**plain, "headers": task(task="os.system")}),
        "a task of Celery's own": (
            json.dumps([[SLICE_TASK, [GOOD]], {}, EMBED]).encode(),
            {**plain, "headers": task(task="celery.map")},
        ),
        "a list for a task": (body(), {**plain, "headers": task(task=[1])}),
        "no task": (body(), plain),
        "protocol 1": (json.dumps({"task": SLICE_TASK, "id": "x", "kwargs": GOOD}), plain),
        "empty": (b"", {**plain, "headers": task()}),
    }


#: What may lie in a queue's list that is not even an envelope of kombu's.
RAW = {
    "words": b"hello",
    "nothing": b"",
    "bytes": bytes(range(256)),
    "half": b'{"body": "W10=", "headers": {',
    "number": b"7",
    "list": b"[]",
    "null": b"null",
    "endless number": b"9" * 5000,
    "deep": b"[" * 100_000,
    "a type of kombu's": b'{"__type__": "datetime", "__value__": "yesterday"}',
    "no properties": json.dumps({"body": "", "headers": task(), "content-type": "application/json"}).encode(),
    "headers are a list": b'{"content-type": "application/json", "headers": []}',
    "body is no base64": b'{"content-type": "application/json", "headers": {"task": "noisemill.slice"}, "body": "%%"}',
}


def queue(fleet: Fleet) -> str:
    """The list of the worker's queue, for priority 0."""
    return f"{fleet.environment['NOISEMILL_KEY_PREFIX']}:celery:{queue_name(find_generator(TINY).digest)}"


def publish(fleet: Fleet, messages: list[tuple[bytes | str, dict[str, Any]]]) -> None:
    """Sends messages to the worker's queue with kombu, as any client of the same Redis can."""
    prefix, _, name = queue(fleet).rpartition(":")
    options = {"global_keyprefix": f"{prefix}:"}
    with Connection(celery_url(fleet.environment["NOISEMILL_REDIS_URL"]), transport_options=options) as connection:
        channel = connection.channel()
        producer = connection.Producer(channel)
        target = Queue(name, channel=channel)
        target.declare()
        for data, about in messages:
            producer.publish(data, routing_key=name, exchange="", declare=[], **about)


def refused(fleet: Fleet) -> int:
    return int(fleet.json("workers")[0]["messages_refused"])


def test_a_worker_refuses_what_is_no_wakeup(fleet: Fleet, worker: Worker, tmp_path: Path):
    """Real pickles and worse, in the real queue of a real worker."""
    os.close(pickle.loads(pickle.dumps(Bomb(tmp_path / "control"))))
    assert (tmp_path / "control").exists()
    child = worker.child
    messages = sent(tmp_path)
    publish(fleet, list(messages.values()))
    with redis.Redis.from_url(fleet.environment["NOISEMILL_REDIS_URL"]) as client:
        for raw in RAW.values():
            client.lpush(queue(fleet), raw)
    expected = len(messages) + len(RAW)
    fleet.wait_until(lambda: refused(fleet) >= expected, told=worker.said)

    time.sleep(2)
    assert refused(fleet) == expected, "a message came back"
    assert fleet.json("workers")[0]["messages_refused"] == expected
    lines = [line for line in worker.said().splitlines() if "refused a message" in line]
    assert len(lines) == expected
    assert "Traceback" not in worker.said()
    assert all(len(line) < 300 and line.isprintable() for line in worker.said().splitlines())
    assert not (tmp_path / "unpickled").exists()
    with redis.Redis.from_url(fleet.environment["NOISEMILL_REDIS_URL"]) as client:
        assert client.llen(queue(fleet)) == 0
        assert not client.exists(f"{fleet.environment['NOISEMILL_KEY_PREFIX']}:celery:unacked")

    done = fleet.watch(fleet.submit(TINY, "inside/after", "-n", "200"))
    assert done.returncode == 0, done.stderr
    assert worker.child == child
    assert worker.process.poll() is None


def test_a_strangers_headers_have_no_effect(fleet: Fleet, worker: Worker):
    """A date far away would keep the message, a time limit would kill the child, a callback would run a task."""
    child = worker.child
    callback: dict[str, Any] = {
        "task": "celery.backend_cleanup",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
    }
    headers = task(
        eta="2999-01-01T00:00:00+00:00", expires="x", timelimit=[0.001, 0.001], retries=10**9, shadow="x\ny",
        ignore_result=False, group="x", stamps={"a": 1}, replaced_task_nesting="x",
    )  # fmt: skip
    before = refused(fleet)
    good = {**GOOD, "job": "tiny-unknown"}
    message = body(good, embed={**EMBED, "callbacks": [callback], "errbacks": [callback], "chord": callback})
    publish(fleet, [(message, {"content_type": "application/json", "headers": headers, "reply_to": "x"})])
    job = fleet.submit(TINY, "inside/headers", "-n", "200")
    assert fleet.watch(job).returncode == 0
    assert worker.child == child
    assert refused(fleet) == before
    assert "Traceback" not in worker.said()
    assert "ERROR" not in worker.said()


def envelope(arguments: Any) -> dict[str, Any]:
    text = base64.b64encode(body(arguments)).decode()
    return {"content-type": "application/json", "headers": {"task": SLICE_TASK}, "body": text}


def test_a_wakeup_is_read():
    assert read_wakeup(envelope(GOOD)) == Wakeup(version=1, job="tiny-0123456789", token=0, serial=1)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_are_none_of_a_wakeup(name: str):
    with pytest.raises(RefusedMessage) as caught:
        read_wakeup(envelope(ARGUMENTS[name]))
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
