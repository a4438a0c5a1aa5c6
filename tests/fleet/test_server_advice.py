"""What doctor warns of: by table, and with real servers."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.common.settings import Settings
from pipeline.fleet.server_advice import advice
from pipeline.jobs.ledger import Ledger
from tests.servers import Valkey

GOOD: dict[str, Any] = {"maxmemory_policy": "noeviction", "aof_enabled": 1, "redis_version": "7.2.4"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("unix:///run/valkey.sock", None),
        ("redis://127.0.0.1:6379/0", None),
        ("redis://localhost", None),
        ("redis://[::1]:6379", None),
        ("redis://127.8.9.1", None),
        ("rediss://user:password@redis.example.org", None),
        ("redis://192.0.2.7:6379/0", "it requires no password and 192.0.2.7 is not on loopback"),
        ("redis://redis.example.org", "it requires no password"),
        ("rediss://redis.example.org", "it requires no password"),
        ("redis://[2001:db8::1]", "it requires no password"),
        ("redis://:password@192.0.2.7", "the password is sent to 192.0.2.7 unencrypted: use rediss://"),
        ("redis://192.0.2.7?password=password", "the password is sent to"),
    ],
)
def test_access(url: str, says: str | None) -> None:
    told = advice(url, GOOD)
    assert len(told) == (says is not None)
    assert says is None or told[0].startswith(says)
    assert "password@" not in "".join(told)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "its eviction policy is allkeys-lru"),
        ({"aof_enabled": 0}, "it keeps no append-only file"),
        ({"redis_version": "6.2.14"}, "Redis 6.2.14 is old"),
    ],
)
def test_settings_of_the_server(changes: dict[str, Any], says: str) -> None:
    [told] = advice("unix:///x", {**GOOD, **changes})
    assert told.startswith(says)
    assert "; " in told or ": use" in told


def test_real_servers() -> None:
    with Valkey(appendonly="yes") as good:
        assert advice(good.url, Ledger(Settings(redis_url=good.url)).server_info()) == []
    with Valkey(maxmemory_policy="volatile-ttl") as bad:
        eviction, persistence = advice(bad.url, Ledger(Settings(redis_url=bad.url)).server_info())
        assert "volatile-ttl" in eviction
        assert "append-only" in persistence
