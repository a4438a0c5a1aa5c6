"""Connections to Redis, and what a user reads when there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import redis

from pipeline.common.errors import LedgerError, UsageError
from pipeline.common.settings import Settings
from pipeline.jobs.broker import Wakeups, queue_name
from pipeline.jobs.connection import celery_sentinels, celery_tls, celery_url, connect, redis_errors
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.redis_url import redacted, sentinel_address
from tests.servers import Valkey, free_port

PASSWORD = "hunter2/x@y#z?"
QUOTED = "hunter2%2Fx%40y%23z%3F"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Valkey]:
    """A server that asks for a password."""
    with Valkey(port=0, requirepass=PASSWORD) as server:
        yield server


class Talker:
    """A server that is not Redis: says one thing to everybody, whatever they say."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def ping(url: str) -> str:
    return Ledger(Settings(redis_url=url)).ping()


def complaint(url: str) -> str:
    with pytest.raises(LedgerError) as caught:
        ping(url)
    text = str(caught.value)
    assert len(text.splitlines()) <= 2
    assert "hunter2" not in text
    return text


def test_server_names_itself(valkey: Valkey) -> None:
    assert ping(valkey.url).startswith("valkey ")


def test_no_server() -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    text = complaint(url)
    assert text.startswith(f"Redis at {redacted(url)} cannot be reached: start it, or set NOISEMILL_REDIS_URL")
    assert "unix:///nowhere/x.sock cannot be reached" in complaint("unix:///nowhere/x.sock")


def test_no_such_host() -> None:
    assert "redis://nowhere.invalid:6379/0 cannot be reached" in complaint("redis://nowhere.invalid:6379/0")


def test_password(guarded: Valkey) -> None:
    here = f"127.0.0.1:{guarded.port}/0"
    assert ping(f"redis://:{QUOTED}@{here}").startswith("valkey ")
    assert ping(f"redis://default:{QUOTED}@{here}").startswith("valkey ")
    for url in (f"redis://:hunter2@{here}", f"redis://{here}", f"redis://user:hunter2@{here}"):
        text = complaint(url)
        assert "password" in text
        assert f"at {redacted(url)} " in text
        assert "NOISEMILL_REDIS_URL" in text


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"",
    b"-ERR unknown command\r\n" * 3, b"ERROR\r\n",
])  # fmt: skip
def test_a_server_that_is_not_redis(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Talker(answer)
    try:
        text = complaint(server.url)
    finally:
        server.close()
    assert server.url in text
    assert "Redis" in text


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With times cut short: the real ones take a minute."""
    original = redis.Redis.from_url

    def hasty(url: str, **options: object) -> redis.Redis:
        return original(url, **{**options, "socket_timeout": 0.1, "retry": None})

    monkeypatch.setattr(redis.Redis, "from_url", hasty)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "did not respond in time" in complaint(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")


@pytest.mark.parametrize(("error", "words"), [
    (redis.exceptions.OutOfMemoryError("OOM command not allowed"), "is full"),
    (redis.exceptions.NoPermissionError("no permissions"), "does not permit"),
    (redis.exceptions.BusyLoadingError("loading"), "loading"),
    (redis.exceptions.ReadOnlyError("READONLY You can't write"), "is a replica, which takes no writes"),
    (redis.exceptions.ResponseError("MISCONF Valkey is configured to save RDB snapshots"), "cannot save its snapshots"),
    (redis.exceptions.ResponseError("MOVED 866 127.0.0.1:7001"), "is part of a cluster"),
    (redis.exceptions.MaxConnectionsError("too many"), "too many"), (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
])  # fmt: skip
def test_failures_in_words(error: Exception, words: str) -> None:
    with pytest.raises(LedgerError, match=words) as caught, redis_errors("redis://:hunter2@h:1/0"):
        raise error
    assert "hunter2" not in str(caught.value)


def test_a_full_server_is_called_full() -> None:
    with Valkey(maxmemory_policy="noeviction") as server:
        client = connect(server.url)
        client.config_set("maxmemory", "1")
        with pytest.raises(LedgerError, match="is full: raise its maxmemory"), redis_errors(server.url):
            client.set("k", "x")
        client.close()


@pytest.mark.parametrize(("url", "shown"), [
    ("redis://h:6379/0", "redis://h:6379/0"), ("redis://:hunter2@h/0", "redis://:***@h/0"),
    ("rediss://me:hunter2@h:1/2?ssl_cert_reqs=none", "rediss://me:***@h:1/2"), ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ("redis://h/0?password=hunter2", "redis://h/0"), ("unix:///tmp/s?db=0", "unix:///tmp/s"),
    ("unix://:hunter2@/tmp/s?db=0", "unix://:***@/tmp/s"), ("unix:///tmp/a@b", "unix:///tmp/a@b"),
    ("redis://:hunter2/x@h", "(unreadable URL)"), ("redis://:12/hunter2@h:1", "(unreadable URL)"),
    ("redis://:hunter2#x@h", "(unreadable URL)"), ("redis://[", "(unreadable URL)"),
    ("redis://h:x/0", "(unreadable URL)"),
    ("redis+sentinel://:hunter2@h:1,i:2/m/0", "redis+sentinel://:***@h:1,i:2/m/0"),
    ("rediss+sentinel://me:hunter2@[::1]:1,[::2]:2/m?sentinel_password=x", "rediss+sentinel://me:***@[::1]:1,[::2]:2/m"),
    ("redis+sentinel://:hunter2/x@h:1,i:2/m/0", "(unreadable URL)"),
])  # fmt: skip
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", [
    "", "localhost", "http://u:hunter2@h", "redis://[", "redis://:hunter2/x@h", "redis://:1/hunter2@h", "redis://h:x",
    "redis://h:99999/0", "redis://:hunter2#@h", "redis://h/x", "redis://h/0/1", "redis://h/0?socket_timeout=x", "amqp://h",
    "redis+socket:///tmp/x", "redis+sentinel://h", "redis+sentinel://h/0/0/0", "redis+sentinel://h:x/m",
    "redis+sentinel://h:70000/m/0", "redis+sentinel:///m/0", "redis+sentinel://h,/m/0", "redis+sentinel://h/m/x",
    "redis://h/0?color=red", "redis://h/0?ssl_ca_certs=/dev/null", "redis+sentinel://h/m/0?ssl_ca_certs=/dev/null",
    "redis+sentinel://:hunter2@h/m/0?sentinel_color=red", "rediss+sentinel://h/m/0?ssl_ca_certs=/nowhere",
])  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="Redis URL") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_celery_gets_the_same_server_in_its_own_words() -> None:
    assert celery_url("rediss://:p@h:1/2") == "rediss://:p@h:1/2"
    assert celery_url("unix:///tmp/s") == "redis+socket:///tmp/s"
    assert celery_url("unix://:p%2F@/tmp/s?db=3") == "redis+socket://:p%2F@/tmp/s?virtual_host=3"


def test_a_url_of_sentinels_names_them_their_master_and_what_each_asks_for() -> None:
    url = f"rediss+sentinel://me:{QUOTED}@h:1,[::1],i/main/3?ssl_check_hostname=false&sentinel_password=wache"
    address = sentinel_address(url)
    assert address is not None
    assert address.sentinels == (("h", 1), ("::1", 26379), ("i", 26379))
    assert (address.master, address.tls) == ("main", True)
    assert address.server_options == {"username": "me", "password": PASSWORD, "db": 3, "ssl_check_hostname": False}
    assert address.sentinel_options == {"password": "wache", "ssl_check_hostname": False}
    assert sentinel_address("redis://h/0") is None
    at = f"sentinel://me:{QUOTED}@"
    assert celery_url(url) == f"{at}h:1/3;{at}[::1]:26379/3;{at}i:26379/3"
    told = celery_sentinels(url)
    assert (told["master_name"], told["sentinel_kwargs"]["password"]) == ("main", "wache")
    assert celery_tls(url) == {"ssl_cert_reqs": "required", "ssl_check_hostname": False}
    assert celery_tls("redis+sentinel://h/main/0") is False
    assert celery_sentinels("redis://h/0") == {}


def test_sentinels_that_are_away_and_masters_that_they_do_not_know() -> None:
    text = complaint(f"redis+sentinel://:hunter2@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/main/0")
    assert "knows a server that takes writes: check that they are up, and the master's name" in text


@pytest.mark.parametrize("place", ["unix", "unix with a password", "tcp with a password"])
def test_celery_and_the_ledger_mean_the_same_database(place: str, valkey: Valkey, guarded: Valkey) -> None:
    url = f"redis://:{QUOTED}@127.0.0.1:{guarded.port}/3"
    if place == "unix":
        url = valkey.url.replace("?db=0", "?db=3")
    if place == "unix with a password":
        with Valkey(requirepass=PASSWORD) as server:
            _send_and_count(server.url.replace(PASSWORD, QUOTED).replace("?db=0", "?db=3"))
        return
    _send_and_count(url)


def _send_and_count(url: str) -> None:
    settings = Settings(redis_url=url, key_prefix="same")
    ledger = Ledger(settings)
    wakeups = Wakeups(settings, ledger)
    wakeups.send("job", "sha256:abcdef", 4, 0, 1)
    wakeups.send("job", "sha256:abcdef", 0, 1, 1)
    assert ledger.queue_length(wakeups._queue_keys("sha256:abcdef")) == 2
    client = redis.Redis.from_url(url, decode_responses=True)
    assert client.llen(f"same:celery:{queue_name('sha256:abcdef')}") == 1
    client.flushdb()
    client.close()
