"""The URL of a Redis (or Valkey): one server, or sentinels that know which server takes writes now."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.connection import parse_url

from pipeline.common.errors import UsageError

#: How the URL of a primary behind sentinels begins, without and with TLS.
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_CHECKS = ("required", "optional", "none")
_UNREADABLE = "(unreadable URL)"
_SENTINEL_PORT = 26379
_SENTINEL_EXAMPLE = "redis+sentinel://HOST:26379,HOST2:26379/MASTER/0"


@dataclass(frozen=True, kw_only=True)
class SentinelAddress:
    """A primary server that sentinels know by name."""

    #: Host and port of each sentinel.
    sentinels: tuple[tuple[str, int], ...]
    master: str
    tls: bool
    #: redis-py's options of the server (username, password, db, ssl_*), and of the sentinels.
    server_options: dict[str, Any]
    sentinel_options: dict[str, Any]


def check_url(url: str) -> None:
    """Raises UsageError, in one line, if the URL is not one of a Redis."""
    shown = redacted(url)
    if shown == _UNREADABLE:
        raise UsageError(
            "the Redis URL cannot be read: write redis://USER:PASSWORD@HOST:PORT/DATABASE, "
            "and special characters of the password as %2F (/), %40 (@), %23 (#), %3F (?)"
        )
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"Redis URL {shown!r} must start with redis://, rediss:// or unix://, "
            "or with redis+sentinel:// or rediss+sentinel://"
        )
    for name, value in parse_qsl(parts.query):
        if name in _TLS_FILES and not os.access(value, os.R_OK):
            raise UsageError(f"Redis URL {shown!r}: {name} {value} cannot be read")
        if name == "ssl_cert_reqs" and value not in _TLS_CHECKS:
            raise UsageError(f"Redis URL {shown!r}: ssl_cert_reqs is required, optional or none, not {value}")
    if parts.scheme in SENTINEL_SCHEMES:
        if not re.fullmatch(r"/[A-Za-z0-9._-]+(/[0-9]+)?/?", parts.path):
            raise UsageError(
                f"Redis URL {shown!r}: the master's name and the database follow, as in {_SENTINEL_EXAMPLE}"
            )
    elif parts.scheme != "unix" and not re.fullmatch("/?|/[0-9]+/?", parts.path):
        raise UsageError(f"Redis URL {shown!r}: the database is a number, as in redis://host:6379/0")


def sentinel_address(url: str) -> SentinelAddress | None:
    """What a checked URL says of sentinels; None for the URL of one server. Raises UsageError.

    `redis+sentinel://USER:PASSWORD@HOST:26379,HOST2:26379/MASTER/0`, where user and password are the server's. In the
    query, `sentinel_username` and `sentinel_password` are the sentinels' own. With `rediss+sentinel`, both use TLS.
    """
    parts = urlsplit(url)
    if parts.scheme not in SENTINEL_SCHEMES:
        return None
    user, _, hosts = parts.netloc.rpartition("@")
    query = parse_qsl(parts.query)
    own = {name.removeprefix("sentinel_"): value for name, value in query if name.startswith("sentinel_")}
    if unknown := set(own) - {"username", "password"}:
        raise UsageError(f"Redis URL {redacted(url)!r}: sentinel_{min(unknown)} is unknown")
    tls = parts.scheme == "rediss+sentinel"
    master, _, database = parts.path.strip("/").partition("/")
    rest = urlencode([(name, value) for name, value in query if not name.startswith("sentinel_")])
    # As redis-py reads the URL of one server.
    options = parse_url(f"redis{'s' if tls else ''}://{user}{'@' if user else ''}localhost/{database or 0}?{rest}")  # type: ignore[no-untyped-call]
    server = {name: value for name, value in options.items() if name not in ("host", "connection_class")}
    return SentinelAddress(
        sentinels=tuple(_sentinel(host, url) for host in hosts.split(",")),
        master=master,
        tls=tls,
        server_options=server,
        sentinel_options={**own, **{name: value for name, value in server.items() if name.startswith("ssl_")}},
    )


def has_sentinels(url: str) -> bool:
    """Whether a URL names sentinels."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


def _sentinel(text: str, url: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?", text)
    port = int(match[2] or _SENTINEL_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise UsageError(f"Redis URL {redacted(url)!r}: {text!r} is no sentinel, as in {_SENTINEL_EXAMPLE}")
    return match[1].strip("[]"), port


def has_password(url: str) -> bool:
    """Whether a URL holds a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    query = dict(parse_qsl(parts.query))
    return bool(parts.password or query.get("password") or query.get("sentinel_password"))


def redacted(url: str) -> str:
    """The URL without its password, for messages."""
    try:
        parts = urlsplit(url)
        if parts.scheme in SENTINEL_SCHEMES:
            place = parts.netloc.rpartition("@")[2]
        else:
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
            place = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return _UNREADABLE
    if parts.netloc and "@" not in parts.netloc and "@" in url:
        return _UNREADABLE  # The password contains a slash, so its rest was parsed as the path.
    user = f"{parts.username or ''}:***@" if parts.password else ""
    return f"{parts.scheme}://{user}{place}{parts.path}"
