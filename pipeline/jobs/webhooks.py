"""Notifications of a job's end: a webhook for queued jobs, a command for jobs made on this machine.

A webhook is called at least once for each end of its job. The ledger records the call in the step that ends the job;
any worker takes it, posts it, and deletes the record after a 2xx response. Requests follow the Standard Webhooks
specification (standardwebhooks.com): `webhook-id` is the same for each try of one call, and `webhook-signature` is
`v1,` and the base64 of HMAC-SHA256 over id, `webhook-timestamp` and body, joined by dots.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from pipeline.common.errors import UsageError
from pipeline.common.files import read_regular
from pipeline.common.settings import Settings
from pipeline.common.version import VERSION
from pipeline.jobs.connection import connect, redis_errors

SECRET_VARIABLE = "NOISEMILL_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable

#: Longest time of a call from its first byte to the last header of the response, seconds. A timeout of the socket
#: would not do: it restarts with each byte, so a receiver that sends one byte at a time would never reach it.
_DEADLINE_S = 10.0
#: A worker that took a call and has not finished it after this time has died, seconds.
_LEASE_S = 60.0
#: Pause before the second try; doubled each time up to the longest, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0
#: A call that was not accepted for this long is given up, seconds.
_GIVE_UP_S = 24 * 3600.0

_NUMBERS = ("count", "samples_done", "shards", "shards_done", "bytes_done")
_TIMES = ("queued_at", "running_at", "ended_at")
_TEXTS = ("destination", "generator", "digest", "schedule", "error")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One end of a job, to be posted to a webhook."""

    #: The same for each try, so that the receiver can recognize duplicates.
    id: str
    #: May contain credentials: never print it.
    url: str = field(repr=False)
    #: The JSON document to send.
    body: bytes = field(repr=False)
    #: The number of tries, including this one.
    tries: int
    #: When the job ended, Unix time.
    ended_at: float


class Webhooks:
    """The pending calls in Redis. Every method raises LedgerError if Redis cannot be reached."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._notes = f"{settings.key_prefix}:webhooks"
        self._due, self._tries = f"{self._notes}:due", f"{self._notes}:tries"

    def take(self) -> Call | None:
        """Takes a due call, for a minute; None if there is none."""
        with self._talk(), self._redis.pipeline() as pipe:
            pipe.watch(self._due)  # type: ignore[no-untyped-call]
            now_ms = self._now_ms()
            found = pipe.zrangebyscore(self._due, "-inf", now_ms, start=0, num=1)
            if not found:
                return None
            call = str(found[0])
            pipe.multi()
            pipe.zadd(self._due, {call: now_ms + _LEASE_S * 1000})
            pipe.hincrby(self._tries, call, 1)
            pipe.hget(self._notes, call)
            try:
                _, tries, note = pipe.execute()
            except redis.WatchError:  # Another worker has it.
                return None
        if note is None:
            self.drop(call)
            return None
        return _call(call, json.loads(note), int(tries))

    def drop(self, call: str) -> None:
        """Deletes a call: the receiver has accepted it, or it is given up."""
        with self._talk(), self._redis.pipeline() as pipe:
            pipe.zrem(self._due, call)
            pipe.hdel(self._notes, call)
            pipe.hdel(self._tries, call)
            pipe.execute()

    def put_off(self, call: Call) -> float | None:
        """Schedules the next try of a call. Returns the seconds until then, or None if the call is given up."""
        with self._talk():
            now_ms = self._now_ms()
            if now_ms / 1000 - call.ended_at > _GIVE_UP_S:
                self.drop(call.id)
                return None
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(call.tries - 1, 20))
            self._redis.zadd(self._due, {call.id: now_ms + pause_s * 1000}, xx=True)
        return pause_s

    def postpone(self, call: Call, pause_s: float) -> None:
        """Gives back a call that was taken but not made: due in `pause_s` seconds, and not counted as a try."""
        with self._talk(), self._redis.pipeline() as pipe:
            pipe.zadd(self._due, {call.id: self._now_ms() + pause_s * 1000}, xx=True)
            pipe.hincrby(self._tries, call.id, -1)
            pipe.execute()

    def _now_ms(self) -> float:
        seconds, microseconds = self._redis.time()
        return float(seconds * 1000 + microseconds // 1000)

    @contextmanager
    def _talk(self) -> Iterator[None]:
        with redis_errors(self._settings.redis_url):
            yield


def _call(call: str, note: Mapping[str, str], tries: int) -> Call:
    data: dict[str, Any] = {"job": note["id"], "state": note["state"]}
    data |= {name: note.get(name) for name in _TEXTS}
    data |= {name: int(note.get(name, 0)) for name in _NUMBERS}
    data |= {name: int(note[name]) / 1000 if name in note else None for name in _TIMES}
    moment = datetime.fromtimestamp(data["ended_at"], UTC).isoformat(timespec="milliseconds")
    document = {"type": f"job.{note['state']}", "timestamp": moment, "data": data}
    body = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    return Call(id=call, url=note["webhook"], body=body, tries=tries, ended_at=data["ended_at"])


def send(call: Call, secret: bytes | None) -> str | None:
    """Posts a call, signed if there is a secret. Returns None after a 2xx response, else the reason of the failure.

    The whole exchange has a deadline, headers are bounded (by http.client) and the body of the response is not read.
    Redirects are not followed, so a receiver cannot redirect this worker.
    """
    stamp = str(int(time.time()))
    headers = {
        "content-type": "application/json",
        "user-agent": f"noisemill/{VERSION}",
        "webhook-id": call.id,
        "webhook-timestamp": stamp,
    }
    if secret is not None:
        signed = f"{call.id}.{stamp}.".encode() + call.body
        headers["webhook-signature"] = "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    parts = urlsplit(call.url)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(url, data=call.body, headers=headers, method="POST")  # noqa: S310 - checked
    deadline = _Deadline(_DEADLINE_S)
    try:
        with deadline, _opener(deadline).open(request, timeout=_DEADLINE_S) as answer:
            status = int(answer.status)
    except (OSError, http.client.HTTPException) as error:
        if not deadline.passed and not isinstance(error, TimeoutError):
            return str(getattr(error, "reason", None) or error) or type(error).__name__
        deadline.passed = True
    if deadline.passed:  # http.client accepts truncated headers as complete.
        return f"no response within {_DEADLINE_S:g} s"
    return None if 200 <= status < 300 else f"it responded with {status}"


class _Deadline:
    """Shuts the connections of one call once its time is over, so that waiting for them fails."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._connections: list[http.client.HTTPConnection] = []
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def watch(self, connection: http.client.HTTPConnection) -> None:
        self._connections.append(connection)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _shut(self) -> None:
        self.passed = True
        for connection in self._connections:
            if connection.sock is not None:
                # The method of the plain socket: that of a TLS socket first drops its TLS state.
                with suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Plain HTTP and HTTPS, through the environment's proxies; every status code is returned, none is an error."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            deadline.watch(self)
            super().connect()

    class Encrypted(http.client.HTTPSConnection):
        def connect(self) -> None:
            deadline.watch(self)
            super().connect()

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class EncryptedHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, request)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, PlainHandler, EncryptedHandler):
        opener.add_handler(handler())
    return opener


def webhook_secret() -> bytes | None:
    """The secret for signing calls, from the environment or the file that it names; None if there is none.

    `whsec_` and base64 is decoded, anything else is used as UTF-8. Raises UsageError if it cannot be read.
    """
    path = os.environ.get(f"{SECRET_VARIABLE}_FILE")
    text = os.environ.get(SECRET_VARIABLE, "")
    if path:
        try:
            text = read_regular(Path(path)).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{SECRET_VARIABLE}_FILE={path} cannot be read: {error}") from None
    text = text.strip()
    if not text.startswith("whsec_"):
        return text.encode() or None
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise UsageError(f"{SECRET_VARIABLE} begins with whsec_, but is not base64 after it") from None


def check_webhook(url: str) -> str:
    """The URL. Raises UsageError, without its credentials, unless it is http or https and complete."""
    shown_url = shown_webhook(url)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url or "\\" in url or len(url) > 2000:
        raise UsageError(f"webhook {shown_url} cannot be called: give http://HOST/PATH or https://HOST/PATH")
    return url


def receiver_of(url: str) -> str:
    """Scheme, host and port of a webhook's URL, which identify the server."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def shown_webhook(url: str) -> str:
    """The part of a webhook's URL that may be shown: user, path and query may be secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        return "(unreadable URL)"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}/..."


def run_on_done(command: str, *, state: str, destination: str, count: int, error: str | None = None) -> int:
    """Runs a shell command after a job made on this machine is done or has failed; returns its exit code.

    Its environment has NOISEMILL_STATE, NOISEMILL_DESTINATION, NOISEMILL_COUNT and NOISEMILL_ERROR. Its output goes to
    stderr, since stdout has the result.
    """
    variables = {"STATE": state, "DESTINATION": destination, "COUNT": str(count), "ERROR": error or ""}
    environment = {**os.environ, **{f"NOISEMILL_{name}": value for name, value in variables.items()}}
    sys.stderr.flush()
    return subprocess.run(["/bin/sh", "-c", command], env=environment, stdout=sys.stderr, check=False).returncode
