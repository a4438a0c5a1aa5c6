"""A fleet over TLS with the least rights, on S3: it works, and no secret shows anywhere, also where things fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.security.tls_redis import PASSWORD, TlsRedis
from tests.servers import RcloneS3, free_port

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("openssl")),  # Also in CI, where it may not be had.
    reason="TLS needs Debian's redis-server and openssl",
)

#: The password as it could be written: whole, quoted, in parts.
SHAPES = (PASSWORD, quote(PASSWORD, safe=""), "Kangaroo", "Quokka", "7f3a")


class Witness(Fleet):
    """A fleet that keeps all that its commands say, and what `ps` shows meanwhile."""

    said: list[str]
    shown: set[bytes]

    def run(self, *arguments: str, timeout_s: float = 600, **changes: str) -> subprocess.CompletedProcess[str]:
        done = super().run(*arguments, timeout_s=timeout_s, **changes)
        self.said += [done.stdout, done.stderr]
        return done

    def look(self, stop: threading.Event) -> None:
        """Reads every command line on the machine until told to stop."""
        while not stop.wait(0.2):
            for process in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "comm"):
                    with suppress(OSError):  # It has ended meanwhile.
                        self.shown.add(Path("/proc", process, name).read_bytes())


@pytest.fixture(scope="module")
def server() -> Iterator[TlsRedis]:
    with TlsRedis() as running:
        yield running


@pytest.fixture(scope="module")
def s3() -> Iterator[RcloneS3]:
    with RcloneS3() as running:
        yield running


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory, server: TlsRedis, s3: RcloneS3, cache: Path) -> Iterator[Witness]:
    folder = tmp_path_factory.mktemp("witness")
    secret = tmp_path_factory.mktemp("secrets") / "redis-url"
    secret.write_text(server.url() + "\n")
    variables = environment("", "noisemill", cache, **s3.environment, NOISEMILL_REDIS_URL_FILE=str(secret))
    del variables["NOISEMILL_REDIS_URL"]
    fleet = Witness(folder, variables)
    fleet.said, fleet.shown = [], set()
    stop = threading.Event()
    watcher = threading.Thread(target=fleet.look, args=(stop,))
    watcher.start()
    yield fleet
    fleet.stop()
    stop.set()
    watcher.join()


@pytest.mark.faults
def test_a_job_over_tls_with_the_least_rights(witness: Witness, server: TlsRedis, s3: RcloneS3):
    """Submit, worker, status, cancel, resume, verify; a worker that is killed and comes back."""
    worker = witness.start_worker(TINY, "--log-level", "debug")
    place = s3.destination()
    done = witness.watch(witness.submit(TINY, place, "-n", "2k", "--shard-size", "100"))
    assert done.returncode == 0, done.stderr
    worker.kill()
    job = witness.submit(TINY, "local", "-n", "500")
    for command in (["jobs"], ["status", job], ["workers"], ["doctor", place], ["cancel", job], ["jobs", "--json"]):
        told = witness.run(*command)
        assert told.returncode == 0, (command, told.stderr)
    witness.start_worker(TINY, "--log-level", "debug")
    resumed = witness.run("resume", "local")
    assert resumed.returncode == 0, resumed.stderr
    done = witness.watch(resumed.stdout.strip())
    assert done.returncode == 0, (resumed, done, witness.workers[-1].said()[-3000:])
    assert witness.run("verify", place).returncode == 0
    assert [line["username"] for line in server.admin().acl_log()] == []
    assert "rediss://noisemill:***@" in witness.run("doctor").stdout


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ca": "other.pem"}, "shows a certificate that is not trusted"),
        ({"ca": ""}, "Name the CA that signed it"),
        ({"ca": "missing.pem"}, "missing.pem cannot be read"),
        ({"client": None}, "Redis at rediss://noisemill:***@"),
        ({"password": "Kangaroo-wrong"}, "password"),
    ],
    ids=["another CA", "no CA", "CA missing", "no client certificate", "wrong password"],
)
@pytest.mark.parametrize("command", ["jobs", "up"])
def test_refusals_are_clear(witness: Witness, server: TlsRedis, changes: dict[str, str], says: str, command: str):
    if command == "up" and "ca" not in changes:
        pytest.skip("the same as for jobs")
    words = ["jobs"] if command == "jobs" else [command, TINY]
    told = witness.run(*words, "--redis", server.url(**changes))
    assert told.returncode in (1, 2)
    assert says in told.stderr
    lines = told.stderr.splitlines()
    warned = ["the password in --redis is visible" in line for line in lines].count(True)
    assert warned == (command == "up")
    assert len(lines) - warned <= 2, told.stderr


def test_celery_checks_the_certificate_too(server: TlsRedis, tmp_path: Path):
    """Its own connection, which no other check of ours precedes."""
    script = (
        "import sys; from pipeline.jobs.broker import celery_app; from pipeline.common.settings import Settings;"
        "connection = celery_app(Settings(redis_url=sys.argv[1])).connection_for_write();"
        "connection.ensure_connection(max_retries=1, timeout=5)"
    )

    def connect(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    good = connect(server.url())
    assert good.returncode == 0, good.stderr
    for ca in ("other.pem", ""):
        bad = connect(server.url(ca=ca))
        assert bad.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in bad.stderr


@pytest.mark.faults
def test_failures(witness: Witness, server: TlsRedis, s3: RcloneS3):
    """Wrong keys, nobody there, a store that goes, a server that goes while workers wait for it."""
    wrong: Any = {"AWS_SECRET_ACCESS_KEY": s3.secret[::-1]}
    assert witness.run("submit", TINY, s3.destination(), "-n", "10", **wrong).returncode == 1
    assert witness.run("verify", s3.destination(), **wrong).returncode == 1
    assert witness.run("doctor", s3.destination(), **wrong).returncode == 1
    gone = f"redis://noisemill:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/0"
    assert witness.run("jobs", "--redis", gone).returncode == 1
    assert witness.run("worker", TINY, "--redis", gone).returncode == 1
    assert witness.run("jobs", NOISEMILL_REDIS_URL_FILE="/nowhere").returncode == 2

    worker = witness.workers[-1]
    job = witness.submit(TINY, "bad-key", "-n", "100")
    assert witness.watch(job).returncode == 0
    server.stop()
    witness.wait_until(lambda: "rediss://" in worker.said() or "Cannot connect" in worker.said(), told=worker.said)
    server.start()
    witness.stop()
    assert witness.run("status", uuid.uuid4().hex).returncode != 0


@pytest.mark.faults
def test_no_secret_was_written_or_printed(witness: Witness, s3: RcloneS3):
    """After the tests above: everything that they wrote or printed, and all command lines meanwhile."""
    assert len(witness.said) > 30
    everything = {f"output {number}": text.encode() for number, text in enumerate(witness.said)}
    folders = (witness.folder, s3.folder)
    everything |= {str(path): path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file()}
    assert any(name.endswith(".log") for name in everything)
    assert any("receipts" in name for name in everything)
    for secret in (*SHAPES, s3.secret, s3.secret[::-1]):
        assert [name for name, text in everything.items() if secret.encode() in text] == []
    mine = [line for line in witness.shown if b"workers.worker.main" in line]
    assert mine
    for secret in (*SHAPES, s3.secret):
        assert [line for line in mine if secret.encode() in line] == []
