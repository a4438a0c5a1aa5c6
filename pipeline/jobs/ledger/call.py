"""The connection to Redis, and the one call that changes the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from pipeline.common.errors import LedgerError, UnknownJobError
from pipeline.common.settings import Settings
from pipeline.jobs.connection import connect, redis_errors
from pipeline.jobs.entries import DamagedEntryError, is_of_another_type

_LUA = Path(__file__).with_name("ledger.lua")

#: Operations that add a job: a full Redis refuses them. The others are allowed then, and need hardly any memory
#: (docs/decisions/0030-a-full-redis.md).
_GROWING = ("begin", "mark_done")

#: The oldest version that supports scripts with flags.
_OLDEST_REDIS = 7


class Call:
    """One Redis URL and the script. Safe to share between threads.

    Every method raises LedgerError if Redis cannot be reached or refuses a command.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect(settings.redis_url)
        lua = _LUA.read_text(encoding="utf-8")
        self._growing = self._redis.register_script(f"#!lua\n{lua}")
        self._going_on = self._redis.register_script(f"#!lua flags=allow-oom\n{lua}")
        self._prefix = settings.key_prefix

    def ping(self) -> str:
        """The server's name and version. Raises LedgerError if it does not answer as Redis does."""
        with self._talk():
            info = self._redis.info("server")
        if "redis_version" not in info:
            raise LedgerError("the server responds, but does not report its version as Redis does")
        if int(str(info["redis_version"]).partition(".")[0]) < _OLDEST_REDIS:
            raise LedgerError(
                f"Redis {info['redis_version']} is too old: use Redis {_OLDEST_REDIS} or later, or Valkey"
            )
        name = str(info.get("server_name", "redis"))
        return f"{name} {info.get('valkey_version') or info['redis_version']}"

    def now(self) -> float:
        """Unix time by the server's clock, by which leases expire."""
        with self._talk():
            answer: Any = self._redis.time()
        seconds, microseconds = answer
        return float(seconds) + float(microseconds) / 1e6

    def server_info(self) -> dict[str, Any]:
        """The sections server, memory and persistence of Redis's INFO."""
        with self._talk():
            return {
                name: value
                for section in ("server", "memory", "persistence")
                for name, value in self._redis.info(section).items()
            }

    def queue_length(self, keys: Sequence[str]) -> int:
        """The number of messages in Celery's lists with these names."""
        with self._talk(), self._redis.pipeline(transaction=False) as batch:
            for key in keys:
                batch.llen(key)
            return sum(batch.execute())

    @property
    def _lease_ms(self) -> int:
        return round(self.settings.lease_s * 1000)

    @contextmanager
    def _talk(self) -> Iterator[None]:
        with redis_errors(self.settings.redis_url):
            yield

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _job_key(self, job_id: str) -> str:
        return self._key(f"job:{job_id}")

    def _call(self, job_id: str, operation: str, *arguments: str | int | float) -> Any:
        keys = [self._job_key(job_id), self._key("live"), self._key("webhooks")]
        script = self._growing if operation in _GROWING else self._going_on
        try:
            return script(keys=keys, args=[operation, *arguments])
        except redis.ResponseError as error:
            if is_of_another_type(error):
                raise DamagedEntryError(job_id, "a value is of another type than it has to be") from error
            raise

    @staticmethod
    def _known(job_id: str, state: str) -> str:
        if state == "unknown":
            raise UnknownJobError(f"job {job_id!r} is unknown: see 'noisemill jobs'")
        return state
