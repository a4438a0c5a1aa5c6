"""Sentinels and servers that speak TLS alone, with a user of the least rights."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.common.errors import LedgerError
from pipeline.common.settings import Settings
from pipeline.jobs.broker import Wakeups
from pipeline.jobs.ledger import Ledger
from tests.security.tls_redis import PASSWORD, TlsRedis
from tests.servers import free_port

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("openssl")), reason="TLS needs Debian's redis-server and openssl"
)


@contextmanager
def sentinel(server: TlsRedis) -> Iterator[int]:
    """The port of a sentinel that knows the server."""
    port, folder = free_port(), server.folder / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass wache\n"
        + "".join(
            f"tls-{kind} {server.folder}/{name}\n"
            for kind, name in (("cert-file", "server.pem"), ("key-file", "server.key"), ("ca-cert-file", "ca.pem"))
        )
        + f"tls-replication yes\nsentinel monitor main 127.0.0.1 {server.port} 1\n"
        "sentinel auth-user main admin\nsentinel auth-pass main admin\n"
    )
    command = [shutil.which("redis-server") or "", str(folder / "sentinel.conf"), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    names = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
    files: dict[str, Any] = {option: str(server.folder / name) for option, name in names.items()}
    try:
        with redis.Redis(
            "127.0.0.1",
            port,
            password="wache",
            ssl=True,
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 400),
            **files,
        ) as client:
            deadline = time.monotonic() + 60
            while client.sentinel_masters()["main"]["is_sdown"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(600)


def test_ledger_and_celery_by_tls(tmp_path: Path) -> None:
    with TlsRedis() as server, sentinel(server) as port:
        plain = server.url().replace("rediss://", "rediss+sentinel://").replace(f":{server.port}/0", f":{port}/main/0")
        url = f"{plain}&sentinel_password=wache"
        settings = Settings(redis_url=url)
        ledger = Ledger(settings)
        assert ledger.ping().startswith("redis ")
        Wakeups(settings, ledger).send("job", "sha256:abcdef", 0, 0, 1)
        assert Wakeups(settings, ledger).waiting("sha256:abcdef") == 1
        for wrong in (url.replace("ca.pem", "other.pem"), plain, f"redis+sentinel://127.0.0.1:{port}/main/0"):
            with pytest.raises(LedgerError) as caught:
                Ledger(Settings(redis_url=wrong)).ping()
            assert PASSWORD not in str(caught.value)
            assert len(str(caught.value).splitlines()) <= 2
