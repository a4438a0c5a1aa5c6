"""The Celery application, its queues and its messages.

A message is a wake-up: "spend a slice on job J". It contains the job's id, a token and the token's serial,
and nothing else. The work to do is in the ledger.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import redis
from celery import Celery
from celery.loaders.app import AppLoader
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from pipeline.common.errors import shown
from pipeline.common.quantities import MAX_EXACT
from pipeline.common.settings import Settings
from pipeline.jobs.connection import celery_sentinels, celery_tls, celery_url, redis_errors
from pipeline.jobs.ledger import Ledger

#: Version of the message, and the oldest version that is read: at least the previous one, if any
#: (docs/decisions/0077-versions.md).
MESSAGE_VERSION = 1
OLDEST_MESSAGE_VERSION = 1

#: Longest body of a message, characters of base64; a wake-up has about 200.
_LONGEST_BODY = 4096

SLICE_TASK = "noisemill.slice"

#: Priorities 0 (first) to 9; one Redis list each.
PRIORITIES = 10

#: A wake-up that no worker has taken after this time, with its queue empty, is lost, seconds.
_GRACE_EMPTY_QUEUE_S = 5.0

#: The same while the queue is not empty: it may wait behind others. A duplicate is harmless and dropped.
_GRACE_BUSY_QUEUE_S = 60.0


def queue_name(digest: str) -> str:
    """Queue of a generator; only workers that hold it read from it."""
    return f"noisemill.{digest.removeprefix('sha256:')[:16]}"


class RefusedMessage(ValueError):  # noqa: N818 - it names the message
    """A message is not a wake-up; the text is for the log, without the message's content."""


@dataclass(frozen=True, kw_only=True)
class Wakeup:
    """The content of a message."""

    #: Version of these fields.
    version: int = MESSAGE_VERSION
    #: Id of the job.
    job: str
    #: Number of the wake-up among the job's, from 0.
    token: int
    #: How often it has been sent, from 1.
    serial: int

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the task."""
        return asdict(self)


def read_wakeup(envelope: object) -> Wakeup:
    """The wake-up in a message from Redis (kombu's envelope, parsed). Raises RefusedMessage."""
    if not isinstance(envelope, dict):
        raise RefusedMessage("it is not a Celery message")
    if envelope.get("content-type") != "application/json":
        raise RefusedMessage(f"its content type is {shown(envelope.get('content-type'))}, not application/json")
    headers = envelope.get("headers")
    task = headers.get("task") if isinstance(headers, dict) else None
    if task != SLICE_TASK:
        raise RefusedMessage(f"its task is {shown(task)}, not {SLICE_TASK!r}")
    return _wakeup(_arguments(envelope.get("body")))


def _arguments(body: object) -> dict[str, Any]:
    """The task's keyword arguments in the body of a message."""
    if not isinstance(body, str) or len(body) > _LONGEST_BODY:
        raise RefusedMessage("its body is not that of a wake-up")
    try:
        parts = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, RecursionError):
        raise RefusedMessage("its body is not JSON") from None
    if not isinstance(parts, list) or len(parts) != 3 or parts[0] != [] or not isinstance(parts[1], dict):
        raise RefusedMessage("its arguments are not those of a wake-up")
    return parts[1]


def _wakeup(arguments: dict[str, Any]) -> Wakeup:
    version = arguments.get("version")
    if type(version) is int and version > MESSAGE_VERSION:
        raise RefusedMessage(f"a newer noisemill sent it (version {shown(version)}): upgrade this worker")
    if type(version) is int and version < OLDEST_MESSAGE_VERSION:
        raise RefusedMessage(
            f"a noisemill too old for this worker sent it (version {shown(version)}): upgrade that noisemill"
        )
    odd = set(arguments) ^ {"version", "job", "token", "serial"}
    if odd:
        raise RefusedMessage(f"it lacks fields or has unknown ones: {shown(sorted(odd))}")
    for name, least in (("version", OLDEST_MESSAGE_VERSION), ("token", 0), ("serial", 1)):
        if type(arguments[name]) is not int or not least <= arguments[name] <= MAX_EXACT:
            raise RefusedMessage(f"its {name} is {shown(arguments[name])}")
    if not isinstance(arguments["job"], str) or not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", arguments["job"]):
        raise RefusedMessage(f"its job is {shown(arguments['job'])}")
    return Wakeup(**arguments)


class _Loader(AppLoader):
    """Imports our tasks like any other module. Celery's own loader searches the working folder first."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        """Imports without searching the working folder."""
        return self.import_module(module, package=package)

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        """Returns nothing: `celery_app` sets the configuration."""
        return {}


class _Application(Celery):
    """An application that ignores Celery's and Django's environment variables.

    These are CELERY_BROKER_URL, CELERY_CONFIG_MODULE, CELERY_LOADER, CELERY_RESULT_BACKEND and DJANGO_SETTINGS_MODULE.
    """

    url = ""
    backend_cls = "disabled"

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to consume with."""
        return super().connection_for_read(url or self.url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to send with."""
        return super().connection_for_write(url or self.url, **options)


def celery_app(settings: Settings) -> Celery:
    """The application that clients send with and workers run."""
    app = _Application("noisemill", set_as_current=False, loader=_Loader, fixups=[])
    app.url = celery_url(settings.redis_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_default_queue="noisemill.unused",
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_use_ssl=celery_tls(settings.redis_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{settings.key_prefix}:celery:",
            "priority_steps": list(range(PRIORITIES)),
            "queue_order_strategy": "priority",
            "socket_keepalive": not settings.redis_url.startswith("unix://"),
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 25,
            **celery_sentinels(settings.redis_url),
        },
    )
    return app


class Wakeups:
    """Sends wake-ups."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._app = celery_app(settings)

    def send_missing(self, job_id: str, digest: str, priority: int, *, workers: int) -> int:
        """Sends a job's missing wake-ups, one per worker and at least one; returns the number sent."""
        grace_s = _GRACE_BUSY_QUEUE_S if self.waiting(digest) else _GRACE_EMPTY_QUEUE_S
        missing = self._ledger.missing_wakeups(job_id, workers=workers, grace_s=grace_s)
        for token, serial in missing:
            self.send(job_id, digest, priority, token, serial)
        return len(missing)

    def send(self, job_id: str, digest: str, priority: int, token: int, serial: int) -> None:
        """Sends one wake-up to the end of the queue of the generator's digest."""
        arguments = Wakeup(job=job_id, token=token, serial=serial).arguments()
        with redis_errors(self._settings.redis_url):
            try:
                self._app.send_task(
                    SLICE_TASK, kwargs=arguments, queue=queue_name(digest), priority=priority, retry=False
                )
            except OperationalError as error:
                raise redis.exceptions.ConnectionError(str(error)) from error

    def waiting(self, digest: str) -> int:
        """The number of wake-ups that wait for workers of this generator."""
        return self._ledger.queue_length(self._queue_keys(digest))

    def _queue_keys(self, digest: str) -> list[str]:
        """The Redis lists of a queue, one for each priority (kombu's naming)."""
        name = f"{self._settings.key_prefix}:celery:{queue_name(digest)}"
        return [name, *(f"{name}\x06\x16{priority}" for priority in range(1, PRIORITIES))]
