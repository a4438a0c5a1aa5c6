"""A proxy in front of a real S3 server that does what servers and networks do wrong, by rule or at random from a seed.

Requests are passed on with the `Host` that the client signed, so that its signature holds. What a fault says
in the server's place is in S3's words.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import random
import re
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.servers import S3Server

#: Faults that another attempt at the same request gets past.
TRANSIENT = (
    "500", "503", "reset-before", "reset-in-body", "reset-after", "reset-in-answer", "cut", "500-stored",
)  # fmt: skip

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Rule:
    """What goes wrong with the requests that fit: the first `times` of them after `skip`.

    500, 503          answered so, and not carried out
    500-stored        carried out, then answered 500
    200-error         not carried out; answered 200 with an error as its body
    200-error-stored  carried out, then answered so
    reset-before      the connection is reset before the body is read
    reset-in-body     the connection is reset in the middle of the request's body
    reset-after       carried out, then the connection is reset without an answer
    reset-in-answer   the connection is reset in the middle of the answer
    cut               the answer ends in the middle of its body
    stall             nothing is carried out, nothing is said for `stall_s`
    stall-stored      carried out, then nothing is said for `stall_s`
    lost              not carried out, and answered as if it were
    half              the first half of the body is stored, and answered as if it were the whole
    size              the answer tells sizes that are one too large
    """

    fault: str
    method: str = ""
    #: Searched in path and query.
    pattern: str = ""
    skip: int = 0
    times: int = 10**9
    _seen: int = field(default=0)

    def applies(self, method: str, path: str) -> bool:
        """Whether this request is one of those; counts it."""
        if self.method not in ("", method) or not re.search(self.pattern, path):
            return False
        self._seen += 1
        return self.skip < self._seen <= self.skip + self.times


class FaultyS3(S3Server):
    """The proxy: an S3 endpoint with the bucket and the credentials of the server behind it."""

    def __init__(self, behind: S3Server) -> None:
        super().__init__("", behind.key, behind.secret, behind.bucket)
        self.behind = behind
        self.rules: list[Rule] = []
        #: Share of requests that meet a transient fault, and where chance comes from.
        self.rate = 0.0
        self.random = random.Random(0)
        self.stall_s = 5.0
        #: Requests as (method, path with query, fault or "").
        self.requests: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def happened(self) -> Counter[str]:
        """How often each fault has."""
        with self._lock:
            return Counter(fault for _, _, fault in self.requests if fault)

    def count(self, method: str, pattern: str = "") -> int:
        """How many requests of this method fit."""
        with self._lock:
            return sum(one == method and bool(re.search(pattern, path)) for one, path, _ in self.requests)

    def choose(self, method: str, path: str) -> str:
        """The fault that this request meets, or ""."""
        with self._lock:
            fault = next((rule.fault for rule in self.rules if rule.applies(method, path)), "")
            if not fault and self.random.random() < self.rate:
                fault = self.random.choice(TRANSIENT)
            self.requests.append((method, path, fault))
        return fault

    def wait(self) -> None:
        """Says nothing for `stall_s`, or until the test is over."""
        self._closing.wait(self.stall_s)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultyS3

    def handle_error(self, *_: object) -> None:
        """Connections that break are what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        super().finish()

    def do_any(self) -> None:
        fault = self.server.proxy.choose(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault in ("reset-before", "reset-in-body"):
            self.rfile.read(length // 2 if fault == "reset-in-body" else 0)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault in ("500", "503", "200-error", "lost", "half", "stall"):
            self._refuse(fault, body)
            return
        status, headers, answer = self._carry_out(body)
        if fault in ("500-stored", "200-error-stored"):
            self._refuse(fault.removesuffix("-stored"), body)
        elif fault == "stall-stored":
            self.server.proxy.wait()
            self._reset()
        elif fault == "reset-after":
            self._reset()
        else:
            self._pass_back(fault, status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815 - names that http.server asks for

    def _carry_out(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(urlsplit(self.server.proxy.behind.endpoint).netloc, timeout=600)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                self._upstream.putheader(name, value)
        self._upstream.endheaders(body)
        answer = self._upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _refuse(self, fault: str, body: bytes) -> None:
        """Answers in the server's place."""
        proxy = self.server.proxy
        if fault == "stall":
            proxy.wait()
            self._reset()
        elif fault in ("lost", "half"):
            if fault == "half":
                key = unquote(urlsplit(self.path).path).partition(f"/{proxy.bucket}/")[2]
                proxy.behind.client.put_object(Bucket=proxy.bucket, Key=key, Body=body[: len(body) // 2])
            self._answer(200, [("ETag", f'"{hashlib.md5(body).hexdigest()}"')], b"")
        else:
            code = {"500": "InternalError", "503": "SlowDown", "200-error": "InternalError"}[fault]
            text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made up</Message></Error>'
            self._answer(200 if fault == "200-error" else int(fault), [("Content-Type", "text/xml")], text.encode())

    def _pass_back(self, fault: str, status: int, headers: list[tuple[str, str]], answer: bytes) -> None:
        sent = answer
        if fault == "size":
            answer = sent = re.sub(rb"<Size>(\d+)</Size>", lambda m: b"<Size>%d</Size>" % (int(m[1]) + 1), answer)
            headers = [(n, str(int(v) + 1) if n.lower() == "content-length" else v) for n, v in headers]
        if fault in ("cut", "reset-in-answer"):
            sent = answer[: len(answer) // 2]
        self._answer(status, headers, answer, sent)
        if fault == "cut":
            self.close_connection = True
        if fault == "reset-in-answer":
            self._reset()

    def _answer(self, status: int, headers: list[tuple[str, str]], answer: bytes, sent: bytes | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = str(len(answer))
        if self.command == "HEAD":
            length = next((value for name, value in headers if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer if sent is None else sent)

    def _reset(self) -> None:
        """Ends the connection with a RST, as a machine does that has lost track of it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Says nothing."""
