"""How workers log, to stderr: a line that people read, or a JSON document, for each event."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from celery import signals

from pipeline.common.errors import LedgerError, one_line

_Answer = TypeVar("_Answer")

#: Pause before Redis, which did not answer, is asked again, seconds.
_AGAIN_S = 1.0

#: What a line may be about, beside its words: fields of their own in JSON.
_FIELDS = ("job", "shard", "attempt")


def set_up_logging(level: str, form: str = "text", *, worker: str | None = None) -> None:
    """noisemill's own lines from `level` on, others' from WARNING on; `form` is "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_JsonFormatter(worker))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if level != "debug":
        handler.addFilter(_one_line)
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    # Celery's pool of processes has a logger that hands nothing on to the root.
    logging.getLogger("multiprocessing").handlers[:] = [handler]
    # While somebody listens to this signal, Celery sets up no handlers of its own.
    signals.setup_logging.connect(_leave_it)
    logging.getLogger("noisemill").setLevel(level.upper())


#: Loggers of libraries that tell of a lost connection with two pages of where it was noticed.
_VERBOSE = ("celery.worker", "celery.bootsteps", "kombu", "multiprocessing", "billiard")
_LONGEST = 300


def _one_line(record: logging.LogRecord) -> bool:
    """What Celery has trouble with, in a line without a traceback; ours, and those of tasks, stay as they are."""
    if record.name == "py.warnings" and "CPendingDeprecationWarning" in record.getMessage():
        return False  # What Celery 6 will do about lost connections, told at each of them.
    if record.name.startswith(_VERBOSE):
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]) is not None and str(error) not in text:
            text += f" ({type(error).__name__}: {error})"
        # Some quote a traceback in quotation marks of Python's.
        record.msg = " ".join(text.partition('"""')[0].split())[:_LONGEST]
        record.args, record.exc_info, record.exc_text = (), None, None
    return True


def _leave_it(**_: Any) -> None:
    """Celery asks who sets up logging: it has been done."""


def about(job: str, shard: int | None = None, attempt: int | None = None) -> dict[str, Any]:
    """What a line is about, to be given as its `extra`."""
    fields = {"job": job, "shard": shard, "attempt": attempt}
    return {name: value for name, value in fields.items() if value is not None}


class Repeated:
    """Warns of an error that is met again and again, as while Redis is away, once until another is met."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: str | None = None

    def warn(self, error: Exception) -> None:
        """Logs the error in one line, unless it is the last one again."""
        if str(error) != self._last:
            self._log.warning("%s", one_line(error))
        self._last = str(error)

    def clear(self) -> bool:
        """Forgets the last error, so that it would be logged again; answers whether there was one."""
        was, self._last = self._last, None
        return was is not None


def until_redis_answers(call: Callable[[], _Answer], log: logging.Logger, what: str) -> _Answer:
    """Calls until Redis answers, and returns the answer; says once that `what` waits, and when Redis is back."""
    repeated = Repeated(log)
    while True:
        try:
            answer = call()
        except LedgerError as error:
            repeated.warn(LedgerError(f"{what} waits until Redis is back: {error}"))
            time.sleep(_AGAIN_S)
        else:
            if repeated.clear():
                log.info("Redis is back")
            return answer


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message; worker, job, shard and attempt where known."""

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
