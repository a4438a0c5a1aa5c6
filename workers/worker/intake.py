"""Accepts wake-ups from the queue, and nothing else.

Anyone who can write to Redis can put anything into a worker's queue. Messages are checked here before Celery sees them:
anything but a wake-up is dropped, logged in one line and counted. Of a wake-up, four checked values are used, in a new
message, so no header of the sender (a callback, a date, a time limit, another serializer) has any effect.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from pipeline.fleet.launch import RUN_FOLDER_VARIABLE
from pipeline.jobs.broker import PRIORITIES, SLICE_TASK, RefusedMessage, Wakeup, read_wakeup
from workers.worker.identity import REFUSED

log = logging.getLogger("noisemill")


def register_transport() -> None:
    """Makes this process receive messages through this transport. Call it before Celery connects."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"


class _WakeupsOnly:
    """Of a channel: reads messages from the lists of a queue, and drops what is not a wake-up."""

    def _brpop_read(self, **options: Any) -> Any:
        """Reads one message; kombu parses it and passes it to the transport's `_deliver`."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc] # unknown to kombu's stubs
        except RefusedMessage as refused:
            _refuse(str(refused))
        except (ValueError, RecursionError):  # kombu could not parse it; it has left the queue already.
            _refuse("it is no JSON")
        return True

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledges a message; while Redis is away, in this process alone.

        Otherwise it would count as in progress for ever, and the worker would take no other. Nothing depends on what
        Redis keeps of it: should it be delivered again, its token is stale.
        """
        try:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[misc]
        except self.connection_errors:  # type: ignore[attr-defined]
            self.qos._quick_ack(delivery_tag)  # type: ignore[attr-defined]


class _DeliversWakeups:
    """Of a transport: delivers wake-ups only."""

    def _deliver(self, message: Any, queue: str | None) -> None:
        """Delivers a wake-up as a new message. Raises RefusedMessage for any other."""
        super()._deliver(_rebuilt(message, read_wakeup(message), queue), queue)  # type: ignore[misc]


class Channel(_WakeupsOnly, redis.Channel):
    """A channel to one server."""


class Transport(_DeliversWakeups, redis.Transport):
    """The transport of one server."""

    Channel = Channel


class SentinelChannel(_WakeupsOnly, redis.SentinelChannel):
    """A channel to the server that takes writes, as sentinels know it."""


class SentinelTransport(_DeliversWakeups, redis.SentinelTransport):
    """The transport of servers behind sentinels."""

    Channel = SentinelChannel


def _rebuilt(message: dict[str, Any], wakeup: Wakeup, queue: str | None) -> dict[str, Any]:
    """A message with the wake-up only, in Celery's protocol 2."""
    identity = str(uuid.uuid4())
    arguments = wakeup.arguments()
    body = json.dumps([[], arguments, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": SLICE_TASK,
            "id": identity,
            "root_id": identity,
            "argsrepr": "()",
            "kwargsrepr": repr(arguments),
        },
        "properties": {
            "correlation_id": identity,
            "delivery_tag": str(uuid.uuid4()),
            "delivery_mode": 2,
            # The queue to restore it to, should this worker lose it; the empty exchange routes by queue name.
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": _priority(message),
            "body_encoding": "base64",
        },
    }


def _priority(message: dict[str, Any]) -> int:
    properties = message.get("properties")
    priority = properties.get("priority") if isinstance(properties, dict) else None
    return priority if type(priority) is int and 0 <= priority < PRIORITIES else PRIORITIES - 1


def _refuse(why: str) -> None:
    log.warning("refused a message: %s", why)
    with (Path(os.environ[RUN_FOLDER_VARIABLE]) / REFUSED).open("ab") as file:
        file.write(b".")
