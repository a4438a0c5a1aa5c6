"""Logging of workers to stderr: a line of text or a JSON document for each event."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from pipeline.common.errors import LedgerError, one_line

_Result = TypeVar("_Result")

#: Pause before a call to Redis is repeated, seconds.
_RETRY_S = 1.0

#: Optional fields of a log record; separate fields in JSON.
_FIELDS = ("job", "shard", "attempt")


def set_up_logging(level: str, form: str = "text", *, worker: str | None = None) -> None:
    """Logs noisemill's records from `level` on and others' from WARNING on; `form` is "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_JsonFormatter(worker))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if level != "debug":
        handler.addFilter(_one_line)
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("noisemill").setLevel(level.upper())


#: Loggers of libraries that report a lost connection with a long traceback.
_VERBOSE = ("celery.worker", "celery.bootsteps", "kombu")
_LONGEST = 300


def _one_line(record: logging.LogRecord) -> bool:
    """Reduces records of Celery's own errors to one line without a traceback. Ours and those of tasks are kept."""
    if record.name == "py.warnings" and "CPendingDeprecationWarning" in record.getMessage():
        return False  # A notice about Celery 6, logged at each lost connection.
    if record.name.startswith(_VERBOSE):
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]) is not None and str(error) not in text:
            text += f" ({type(error).__name__}: {error})"
        # Some contain a quoted traceback.
        record.msg = " ".join(text.partition('"""')[0].split())[:_LONGEST]
        record.args, record.exc_info, record.exc_text = (), None, None
    return True


def about(job: str, shard: int | None = None, attempt: int | None = None) -> dict[str, Any]:
    """The `extra` of a log record: its job, shard and attempt."""
    fields = {"job": job, "shard": shard, "attempt": attempt}
    return {name: value for name, value in fields.items() if value is not None}


class Repeated:
    """Logs a recurring error once, for example while Redis is away, until a different one occurs."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: str | None = None

    def warn(self, error: Exception) -> None:
        """Logs the error in one line, unless it is the same as the last one."""
        if str(error) != self._last:
            self._log.warning("%s", one_line(error))
        self._last = str(error)

    def clear(self) -> bool:
        """Forgets the last error, so that it would be logged again; returns whether there was one."""
        was, self._last = self._last, None
        return was is not None


def call_until_redis_responds(call: Callable[[], _Result], log: logging.Logger, what: str) -> _Result:
    """Repeats a call until Redis responds; returns its result. Logs that `what` waits, and later that Redis is back."""
    repeated = Repeated(log)
    while True:
        try:
            answer = call()
        except LedgerError as error:
            repeated.warn(LedgerError(f"{what} waits until Redis is back: {error}"))
            time.sleep(_RETRY_S)
        else:
            if repeated.clear():
                log.info("Redis is back")
            return answer


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message; worker, job, shard and attempt if known."""

    def __init__(self, worker: str | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
