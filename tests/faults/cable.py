"""A cable to a server that can be cut, and can go dead without a word: a small TCP proxy."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.servers import free_port

#: So closed, a socket sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


class Cable:
    """Passes connections on to 127.0.0.1:`port`, from a port of its own."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._passing = threading.Event()
        self._passing.set()
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._passing.set()
        self.cut()

    @property
    def connections(self) -> int:
        """How many pass through it now."""
        with self._lock:
            return len(self._ends) // 2

    def cut(self) -> None:
        """Resets every connection; new ones pass."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            self._close(end)

    def go_dead(self) -> None:
        """From now nothing passes; who waits hears nothing, not even that new connections lead nowhere."""
        self._passing.clear()

    def recover(self) -> None:
        """What was held back passes."""
        self._passing.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._passing.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            self._ends |= {near, far}
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
        self._close(source)
        self._close(sink)

    def _close(self, end: socket.socket) -> None:
        """Ends it also for the thread that waits for it: closing alone would leave that one waiting."""
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
        with self._lock:
            self._ends.discard(end)
