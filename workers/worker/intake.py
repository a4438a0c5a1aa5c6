"""What may come in by the queue: wake-ups, and nothing else.

Who can write to Redis can put anything into a worker's queue. Here it is looked at before Celery sees it: what is no
wake-up is dropped, logged in one line and counted, and of a wake-up only its four values go on, in a message that is
made anew. So no header of a stranger's (a callback, a date, a time limit, another serialiser) ever has an effect.
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

log = logging.getLogger("noisemill")

#: Has a byte for every message that the parent refused; the child, which announces the worker, reads its length.
_REFUSED = "refused"


def guard_intake() -> None:
    """Has this process take messages from Redis through here. To be called before Celery connects."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def messages_refused(run_folder: Path) -> int:
    """How many messages the worker of this run folder has refused since it started."""
    path = run_folder / _REFUSED
    return path.stat().st_size if path.exists() else 0


class Channel(redis.Channel):
    """Takes messages from the lists of a queue."""

    def _brpop_read(self, **options: Any) -> Any:
        """Reads one message; kombu parses it, and hands it to `Transport._deliver`."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc] # unknown to kombu's stubs
        except RefusedMessage as refused:
            _refuse(str(refused))
        except (ValueError, RecursionError):  # What kombu could not parse; it has left the queue.
            _refuse("it is no JSON")
        return True


class Transport(redis.Transport):
    """Hands on what is a wake-up."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        """Raises RefusedMessage."""
        super()._deliver(_made_anew(message, read_wakeup(message), queue), queue)


def _made_anew(message: dict[str, Any], wakeup: Wakeup, queue: str | None) -> dict[str, Any]:
    """A message that says nothing but the wake-up, in Celery's protocol 2."""
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
            # Where it goes back to, should this worker lose it; the empty exchange names the queue itself.
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
    with (Path(os.environ[RUN_FOLDER_VARIABLE]) / _REFUSED).open("ab") as file:
        file.write(b".")
