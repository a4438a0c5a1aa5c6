"""A connection to Redis (or Valkey), and clear messages for its failures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from pipeline.common.errors import LedgerError, UsageError

_SCHEMES = ("redis", "rediss", "unix")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_CHECKS = ("required", "optional", "none")
_UNREADABLE = "(unreadable URL)"


def connect(url: str) -> redis.Redis:
    """A client that gives up on a dead connection after seconds.

    Raises UsageError if redis-py does not understand the URL. Does not connect yet.
    """
    if redacted(url) == _UNREADABLE:
        raise UsageError(
            "the Redis URL cannot be read: write redis://USER:PASSWORD@HOST:PORT/DATABASE, "
            "and special characters of the password as %2F (/), %40 (@), %23 (#), %3F (?)"
        )
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"Redis URL {redacted(url)!r} must start with redis://, rediss:// or unix://")
    for name, value in parse_qsl(parts.query):
        if name in _TLS_FILES and not os.access(value, os.R_OK):
            raise UsageError(f"Redis URL {redacted(url)!r}: {name} {value} cannot be read")
        if name == "ssl_cert_reqs" and value not in _TLS_CHECKS:
            raise UsageError(f"Redis URL {redacted(url)!r}: ssl_cert_reqs is required, optional or none, not {value}")
    if parts.scheme != "unix" and not re.fullmatch("/?|/[0-9]+/?", parts.path):
        raise UsageError(f"Redis URL {redacted(url)!r}: the database is a number, as in redis://host:6379/0")
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=10,
            socket_connect_timeout=5,
            health_check_interval=25,
            # One immediate retry, for a connection that the server has closed. Longer waiting is up to the caller.
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), 1, supported_errors=(redis.ConnectionError,)),
        )
    except (ValueError, redis.exceptions.RedisError) as error:
        raise UsageError(f"Redis URL {redacted(url)!r} cannot be used: {error}") from None


def celery_url(url: str) -> str:
    """The same server, user and database as a URL for Celery; `celery_tls` handles TLS."""
    if url.startswith("unix://"):
        socket, _, query = url.removeprefix("unix://").partition("?")
        options = [("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(query)]
        return f"redis+socket://{socket}" + (f"?{urlencode(options)}" if options else "")
    # Parsed by redis-py, so that both use the same server; quoted, since Celery splits servers at semicolons.
    parts = connect(url).connection_pool.connection_kwargs
    user, password = (quote(str(parts.get(name) or ""), safe="") for name in ("username", "password"))
    host = parts.get("host", "localhost")
    place = f"[{host}]" if ":" in host else host
    at = f"{user}:{password}@" if password else f"{user}@" if user else ""
    return f"{urlsplit(url).scheme}://{at}{place}:{parts.get('port', 6379)}/{parts.get('db', 0)}"


def celery_tls(url: str) -> dict[str, Any] | bool:
    """How Celery checks a rediss:// server: as redis-py does for this URL; False for a URL without TLS.

    By default, Celery checks no certificate unless the URL demands it.
    """
    if not url.startswith("rediss://"):
        return False
    options = connect(url).connection_pool.connection_kwargs
    return {"ssl_cert_reqs": "required", **{name: value for name, value in options.items() if name.startswith("ssl_")}}


def has_password(url: str) -> bool:
    """Whether a URL holds a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.password or dict(parse_qsl(parts.query)).get("password"))


def redacted(url: str) -> str:
    """The URL without its password, for messages."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return _UNREADABLE
    if parts.netloc and "@" not in parts.netloc and "@" in url:
        return _UNREADABLE  # The password contains a slash, so its rest was parsed as the path.
    user = f"{parts.username or ''}:***@" if parts.password else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


#: Errors of a server that cannot carry out a command for now -> message.
_REFUSALS = {
    "MISCONF": "cannot save its snapshots (RDB) to its disk, and takes no writes until it can: check that disk",
    "READONLY": "is a replica, which takes no writes: give the URL of its primary",
    "LOADING": "is still loading its data: try again once it has",
    "MASTERDOWN": "is a replica that has lost its primary: check the primary",
    "NOREPLICAS": "takes no writes until enough replicas are up (min-replicas-to-write): check them",
    "CLUSTERDOWN": "is part of a cluster that is down; noisemill needs a single Redis or Valkey",
    "MOVED": "is part of a cluster; noisemill needs a single Redis or Valkey",
    "cluster support": "is part of a cluster; noisemill needs a single Redis or Valkey",
    "BUSY": "is busy with a script: try again once it has ended",
}


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Turns errors of redis-py into LedgerError with the server, the cause and what to do."""
    shown = redacted(url)
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise LedgerError(
            f"Redis at {shown} refuses the password: {error}\n"
            "Give it as redis://USER:PASSWORD@HOST in NOISEMILL_REDIS_URL."
        ) from error
    except redis.exceptions.NoPermissionError as error:
        raise LedgerError(f"Redis at {shown} does not permit it to this user: {error}") from error
    except redis.exceptions.OutOfMemoryError as error:
        raise LedgerError(f"Redis at {shown} is full: raise its maxmemory or remove what is not needed.") from error
    except (redis.exceptions.InvalidResponse, redis.exceptions.ResponseError) as error:
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise LedgerError(
                f"Redis at {shown} asks for a password: give it as redis://:PASSWORD@HOST in NOISEMILL_REDIS_URL."
            ) from error
        for word, meaning in _REFUSALS.items():
            if word in str(error):
                raise LedgerError(f"Redis at {shown} {meaning}") from error
        raise LedgerError(f"The server at {shown} did not respond as Redis does: {error}") from error
    except (redis.exceptions.TimeoutError, TimeoutError) as error:
        raise LedgerError(f"Redis at {shown} did not respond in time: is it Redis, and is it up?") from error
    except (redis.exceptions.ConnectionError, OSError) as error:
        raise LedgerError(_unreachable(shown, str(error))) from error


def _unreachable(shown: str, error: str) -> str:
    """Why there is no connection, and what to do."""
    if "CERTIFICATE_VERIFY_FAILED" in error:
        reason = error.partition("CERTIFICATE_VERIFY_FAILED]")[2].strip(" .") or "it cannot be verified"
        return (
            f"Redis at {shown} shows a certificate that is not trusted: {reason}\n"
            "Name the CA that signed it: rediss://HOST?ssl_ca_certs=FILE in NOISEMILL_REDIS_URL."
        )
    if "alert" in error and "certificate" in error.lower():
        return (
            f"Redis at {shown} requires a client certificate ({error}):\n"
            "add ssl_certfile=FILE&ssl_keyfile=FILE to the URL."
        )
    if "WRONG_VERSION_NUMBER" in error:
        return f"Redis at {shown} does not use TLS: write redis:// instead of rediss://."
    return f"Redis at {shown} cannot be reached: start it, or set NOISEMILL_REDIS_URL or --redis.\n({error})"
