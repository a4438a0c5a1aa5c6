"""Warnings about the configuration of a Redis server, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Redis versions from this one on are recommended.
_GOOD_VERSION = 7


def advice(url: str, info: Mapping[str, Any]) -> list[str]:
    """Warnings about a server at `url` with this `info` (Redis's INFO), each with what to do."""
    return [*_about_access(url), *_about_memory(info), *_about_persistence(info), *_about_version(info)]


def _about_access(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme == "unix" or _is_loopback(parts.hostname or "localhost"):
        return []
    if not (parts.password or parse_qs(parts.query).get("password")):
        return [
            (
                f"it requires no password and {parts.hostname} is not on loopback: anyone who reaches it can queue and "
                "change jobs; set 'requirepass' or an ACL user, and put both into NOISEMILL_REDIS_URL"
            )
        ]
    if not parts.scheme.startswith("rediss"):
        secure = parts.scheme.replace("redis", "rediss", 1)
        return [
            f"the password is sent to {parts.hostname} unencrypted: use {secure}:// with a server that supports TLS"
        ]
    return []


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _about_memory(info: Mapping[str, Any]) -> list[str]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return []
    return [
        (
            f"its eviction policy is {policy}: when memory is short it drops jobs and queues silently; "
            "run 'CONFIG SET maxmemory-policy noeviction', and set it in its configuration"
        )
    ]


def _about_persistence(info: Mapping[str, Any]) -> list[str]:
    if int(info.get("aof_enabled", 1)):
        return []
    return [
        (
            "it keeps no append-only file: a restart loses jobs that are queued or running (their datasets stay, and "
            "'noisemill resume DEST' continues); run 'CONFIG SET appendonly yes', and set it in its configuration"
        )
    ]


def _about_version(info: Mapping[str, Any]) -> list[str]:
    version = str(info.get("redis_version", ""))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) >= _GOOD_VERSION:
        return []
    return [f"Redis {version} is old: use Redis {_GOOD_VERSION} or later, or Valkey"]
