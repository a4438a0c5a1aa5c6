"""The worker's child process, as its parent has it. Imports little: the parent starts it before all else.

Both ends of the connection exchange JSON objects. The parent sends the configuration, then wake-ups, then `stop`; the
child sends `ready` or `fatal`, then, for each wake-up, `done`, and `send` for wake-ups that go back into the queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from pipeline.common.processes import python_command
from pipeline.fleet.launch import WorkerConfig

Message = dict[str, Any]


def send_message(connection: Connection, message: Message) -> None:
    """Sends a message. Raises OSError if the other process has gone."""
    connection.send_bytes(json.dumps(message).encode())


def receive_message(connection: Connection) -> Message | None:
    """The next message, for which it waits; None if the other process has gone."""
    try:
        message: Message = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None
    return message


class ChildProcess:
    """Starts a child at once; it imports TensorFlow while its parent prepares. A context manager, which ends it.

    To be used by the main thread alone: on Linux a child ends with the thread that has started it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._config: WorkerConfig | None = None
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Its stdin is the connection.
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                python_command("workers.worker.child"), env=self._environment, stdin=theirs.fileno()
            )
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor that is readable if there is a message, or if the child has ended."""
        return self._connection.fileno()

    def configure(self, config: WorkerConfig) -> None:
        """Sends the configuration, without which it only starts TensorFlow."""
        self._config = config
        self.send(asdict(config))

    def send(self, message: Message) -> None:
        """Sends a message; if the child has ended, the next `receive` returns None."""
        with contextlib.suppress(OSError):
            send_message(self._connection, message)

    def receive(self) -> Message | None:
        """The next message, for which it waits; None if the child has ended."""
        return receive_message(self._connection)

    def signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        self._process.send_signal(number)

    def wait(self) -> str:
        """Waits until it has ended; returns how."""
        code = self._process.wait()
        return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.Signals(-code).name})"

    def restart(self) -> None:
        """Starts another one in place of one that has ended, with the same configuration."""
        self._connection.close()
        self._start()
        if self._config is not None:
            self.configure(self._config)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


def connection_of_child() -> Connection:
    """The child's end of the connection, which is its stdin. Call it once: stdin is empty afterwards."""
    connection = Connection(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return connection
