"""A connection to Redis (or Valkey), and clear messages for its failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.common.errors import LedgerError, UsageError
from pipeline.jobs.redis_url import SentinelAddress, check_url, redacted, sentinel_address

#: How long a client waits for a server; it gives up on a dead connection after seconds.
_PATIENCE: dict[str, Any] = {"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 25}
#: The same for a sentinel: of several, the next one is asked.
_SENTINEL_PATIENCE: dict[str, Any] = {"socket_timeout": 3, "socket_connect_timeout": 2}


def connect(url: str) -> redis.Redis:
    """A client that gives up on a dead connection after seconds.

    Raises UsageError if redis-py does not understand the URL. Does not connect yet.
    """
    check_url(url)
    # One immediate retry, for a connection that the server has closed. Longer waiting is up to the caller.
    retry = Retry(ExponentialBackoff(cap=0.1, base=0.05), 1, supported_errors=(redis.ConnectionError,))
    try:
        address = sentinel_address(url)
        if address is not None:
            client = _behind_sentinels(address, retry)
        else:
            client = redis.Redis.from_url(url, decode_responses=True, retry=retry, **_PATIENCE)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # Does not connect, but knows all options.
    except (ValueError, redis.exceptions.RedisError) as error:
        raise UsageError(f"Redis URL {redacted(url)!r} cannot be used: {error}") from None
    except TypeError as error:
        option = str(error).rpartition("keyword argument ")[2]
        raise UsageError(
            f"Redis URL {redacted(url)!r} cannot be used: {option} is unknown, or for TLS alone (rediss)"
        ) from None
    return client


def _behind_sentinels(address: SentinelAddress, retry: Retry) -> redis.Redis:
    """A client of the server that takes writes, which is asked of the sentinels for each new connection."""
    manager: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(address.sentinels), sentinel_kwargs=_sentinel_options(address), **_PATIENCE
    )
    client: redis.Redis = manager.master_for(
        address.master, **address.server_options, ssl=address.tls, decode_responses=True, retry=retry
    )
    return client


def _sentinel_options(address: SentinelAddress) -> dict[str, Any]:
    """redis-py's options for the sentinels themselves."""
    retry = Retry(NoBackoff(), 0)
    return {**_SENTINEL_PATIENCE, **address.sentinel_options, "ssl": address.tls, "retry": retry}


def celery_url(url: str) -> str:
    """The same server, user and database as a URL for Celery; `celery_tls` handles TLS."""
    if url.startswith("unix://"):
        socket, _, query = url.removeprefix("unix://").partition("?")
        options = [("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(query)]
        return f"redis+socket://{socket}" + (f"?{urlencode(options)}" if options else "")
    address = sentinel_address(url)
    # Parsed by redis-py, so that both use the same server; quoted, since Celery splits servers at semicolons.
    parts = connect(url).connection_pool.connection_kwargs
    user, password = (quote(str(parts.get(name) or ""), safe="") for name in ("username", "password"))
    at = f"{user}:{password}@" if password else f"{user}@" if user else ""
    hosts = address.sentinels if address else [(str(parts.get("host", "localhost")), int(parts.get("port", 6379)))]
    scheme = "sentinel" if address else urlsplit(url).scheme
    places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    return ";".join(f"{scheme}://{at}{place}/{parts.get('db', 0)}" for place in places)


def celery_sentinels(url: str) -> dict[str, Any]:
    """What Celery's transport has to know of sentinels besides the URL; empty without sentinels."""
    address = sentinel_address(url)
    return {"master_name": address.master, "sentinel_kwargs": _sentinel_options(address)} if address else {}


def celery_tls(url: str) -> dict[str, Any] | bool:
    """How Celery checks a server by TLS: as redis-py does for this URL; False for a URL without TLS.

    By default, Celery checks no certificate unless the URL demands it.
    """
    if not url.startswith(("rediss://", "rediss+sentinel://")):
        return False
    options = connect(url).connection_pool.connection_kwargs
    return {"ssl_cert_reqs": "required", **{name: value for name, value in options.items() if name.startswith("ssl_")}}


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
    if "No master found" in error:
        if any(word in error for word in ("Authentication", "NOAUTH", "WRONGPASS")):
            return f"The sentinels of {shown} ask for a password: add ?sentinel_password=PASSWORD to the URL."
        return (
            f"No sentinel of {shown} knows a server that takes writes: check that they are up, and the master's name."
            f"\n({error})"
        )
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
