"""Debian's redis-server with TLS and client certificates; its one user for noisemill is that of docs/security.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from tests.servers import free_port

#: With characters that a URL has to quote, and a semicolon, which divides servers for Celery.
PASSWORD = "Kangaroo;7f3a/@x&Quokka"

_DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


def documented_user(password: str) -> str:
    """The ACL of docs/security.md in one line, with a password."""
    block = re.search(r"^user noisemill (.|\n)*?(?=^```)", _DOCUMENT.read_text(), re.MULTILINE)
    assert block is not None
    return " ".join(block[0].split()).replace(">PASSWORD", f">{password}")


class TlsRedis:
    """A server on a loopback port that speaks TLS alone; to be entered by `with`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nm-tls-", dir="/tmp"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, password: str = PASSWORD, ca: str = "ca.pem", client: str | None = "client") -> str:
        """For redis-py and Celery."""
        files = [f"ssl_ca_certs={self.folder / ca}"] if ca else []
        if client:
            files += [f"ssl_certfile={self.folder / client}.pem", f"ssl_keyfile={self.folder / client}.key"]
        query = "?" + "&".join(files) if files else ""
        return f"rediss://noisemill:{quote(password, safe='')}@127.0.0.1:{self.port}/0{query}"

    def __enter__(self) -> Self:
        for ca in ("ca", "other"):
            self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                          "-days", "2", "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")  # fmt: skip
        for name in ("server", "client"):
            self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                          "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
            (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1")
            self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                          "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
        (self.folder / "users").write_text(
            f"user default off\n{documented_user(PASSWORD)}\nuser admin on >admin ~* &* +@all\n"
        )
        self.start()
        return self

    def start(self) -> None:
        """Starts it, also again after `stop`."""
        server = shutil.which("redis-server")
        assert server is not None
        command = [server, "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"]
        command += ["--aclfile", "users", "--dir", str(self.folder)]
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        self.admin().ping()

    def admin(self) -> redis.Redis:
        """A client that may everything; waits for the server."""
        url = self.url("admin").replace("noisemill:", "admin:")
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)
        return redis.Redis.from_url(url, decode_responses=True, retry=retry)

    def stop(self) -> None:
        """Stops it, so that its port refuses connections."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(600)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
