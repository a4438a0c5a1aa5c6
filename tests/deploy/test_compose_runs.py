"""What compose would start is started: each noisemill service's very command, as a process of this machine.

There is no Docker here, so containers are imitated: paths that compose mounts are replaced by folders, the names of
servers by their ports; Valkey runs with compose's own flags, rclone stands in for MinIO.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.fleet import TINY
from tests.servers import RcloneS3, executable, free_port, valkey_binary

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

#: What the image says for every container.
IMAGE = dict(
    pair.split("=", 1)
    for line in re.findall(r"^ENV ((?:.|\\\n)*?)$(?!\\)", (ROOT / "Dockerfile").read_text(), re.M)
    for pair in line.replace("\\\n", " ").split()
    if pair.startswith(("NOISEMILL_", "HOME="))
)


class Installation:
    """Compose's services as processes."""

    def __init__(self, folder: Path, s3: RcloneS3) -> None:
        self.folder, self.s3 = folder, s3
        self.ports = {"valkey:6379": free_port(), "5555": free_port()}
        #: Every container has an address, and with it this port, of its own.
        self.metrics_ports = {name: str(free_port()) for name in SERVICES}
        self.secrets = folder / "secrets"
        subprocess.run([ROOT / "deploy/make-secrets.sh", self.secrets], check=True, capture_output=True)
        # Compose's names of servers are known to no resolver here; rclone has keys of its own.
        for path in self.secrets.iterdir():
            text = path.read_text().replace("valkey:6379", f"127.0.0.1:{self.ports['valkey:6379']}")
            text = re.sub("(aws_access_key_id = ).*", rf"\g<1>{s3.key}", text)
            path.write_text(re.sub("(aws_secret_access_key = ).*", rf"\g<1>{s3.secret}", text))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str, name: str) -> str:
        """A word of the compose file, said of a service, as it is on this machine."""
        text = re.sub(r"\$\{NOISEMILL_GENERATOR:-fashion\}", TINY, text)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
        text = text.replace("http://minio:9000", self.s3.endpoint).replace("/run/secrets", str(self.secrets))
        text = text.replace("/var/cache/noisemill", str(self.folder / "cache"))
        for container, port in (("9464", self.metrics_ports[name]), ("5555", self.ports["5555"])):
            text = re.sub(rf"\b{container}\b", str(port), text)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """That of the image, then that of the service; nothing of this machine's but where programs are."""
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        own |= {"HOME": str(self.folder), "NOISEMILL_METRICS_HOST": "127.0.0.1"}  # Tests use loopback alone.
        image = {key: self.here(value, name) for key, value in IMAGE.items() if key not in own}
        service = {key: self.here(str(value), name) for key, value in SERVICES[name].get("environment", {}).items()}
        return {**image, **own, **service, "AWS_EC2_METADATA_DISABLED": "true"}

    def command(self, name: str) -> list[str]:
        """The service's entrypoint and command."""
        service = SERVICES[name]
        entrypoint = service.get("entrypoint", [] if name == "valkey" else ["noisemill"])
        command = service.get("command", [])
        words = [*entrypoint, *(shlex.split(command) if isinstance(command, str) else command)]
        return [self.here(word, name) for word in words]

    def start(self, name: str, *more: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*self.command(name), *more]
            program = str(valkey_binary()) if command[0] == "valkey-server" else executable(command[0])
            self.processes[name] = subprocess.Popen(
                [program, *command[1:]], env=self.environment(name), cwd=self.folder, stdout=log, stderr=log
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def is_healthy(self, name: str) -> bool:
        """What the service's own health check answers."""
        assert self.processes[name].poll() is None, self.said(name)
        kind, *words = [self.here(word, name) for word in SERVICES[name]["healthcheck"]["test"]]
        command = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else [executable(words[0]), *words[1:]]
        done = subprocess.run(command, env=self.environment(name), cwd=self.folder, capture_output=True, check=False)
        return done.returncode == 0

    def noisemill(self, *arguments: str) -> str:
        """A command as a user of the installation would type it."""
        done = subprocess.run(
            [executable("noisemill"), *arguments], env=self.environment("scheduler"), cwd=self.folder,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            process.wait(600)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with RcloneS3() as s3:
        installed = Installation(tmp_path, s3)
        yield installed
        installed.stop()


def wait(true: Callable[[], bool], told: Callable[[], str], timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)


def test_compose_comes_up_and_makes_a_dataset(installation: Installation) -> None:
    here = installation
    # Compose publishes the port and has a network of its own; and the image has a health check's client.
    port = str(here.ports["valkey:6379"])
    here.start("valkey", "--port", port, "--bind", "127.0.0.1", "--dir", str(here.folder))
    client = here.secrets / "redis_url"
    wait(lambda: _answers(here, client), lambda: here.said("valkey"))
    settings = _config(here, client)
    assert (settings["appendonly"], settings["maxmemory-policy"]) == ("yes", "noeviction")

    for _ in range(2):  # Made, then left alone.
        here.start("bucket")
        assert here.processes["bucket"].wait(60) == 0, here.said("bucket")
    assert (here.s3.folder / "datasets").is_dir()

    for name in ("worker", "scheduler", "flower"):
        here.start(name)
    for name in ("worker", "scheduler", "flower"):
        wait(partial(here.is_healthy, name), partial(here.said, name))
    job = here.noisemill("submit", TINY, "s3://datasets/tiny", "--count", "1000")
    here.noisemill("watch", job)
    assert "1 of 1 workers" in here.noisemill("top") or "0 of 1 workers" in here.noisemill("top")
    assert (here.s3.folder / "datasets/tiny/manifest.json").exists()
    here.noisemill("verify", "s3://datasets/tiny")
    # No password is said anywhere.
    password = client.read_text().split(":")[2].partition("@")[0]
    assert all(password not in here.said(name) for name in here.processes)
    # Told to stop, each leaves in good order.
    for name in ("worker", "scheduler", "flower"):
        here.processes[name].terminate()
    assert [here.processes[name].wait(60) for name in ("worker", "scheduler")] == [0, 0]


def _answers(here: Installation, url: Path) -> bool:
    import redis

    assert here.processes["valkey"].poll() is None, here.said("valkey")
    with redis.Redis.from_url(url.read_text().strip()) as client:
        try:
            return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False


def _config(here: Installation, url: Path) -> dict[str, str]:
    import redis

    with redis.Redis.from_url(url.read_text().strip(), decode_responses=True) as client:
        found: dict[str, str] = client.config_get("*")
    stranger = redis.Redis(port=here.ports["valkey:6379"])
    with pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    stranger.close()
    return found
