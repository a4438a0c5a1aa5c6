"""The Celery application, its queues and its messages.

A message is a wake-up: "spend a slice on job J". It names the job, its token and the token's serial,
and nothing else; what there is to do is in the ledger.
"""

from __future__ import annotations

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from pipeline.ledger import Ledger
from pipeline.redis_connection import celery_url, redis_errors
from pipeline.settings import Settings

#: Version of the message; a worker refuses a newer one.
MESSAGE_VERSION = 1

SLICE_TASK = "noisemill.slice"

#: Priorities 0 (first) to 9; one Redis list each.
PRIORITIES = 10

#: A wake-up in an empty queue that nobody took after so long is lost, seconds.
_GRACE_EMPTY_QUEUE_S = 5.0

#: One that waits behind others may be in order for longer; a duplicate does no harm, it is dropped.
_GRACE_BUSY_QUEUE_S = 60.0


def queue_name(digest: str) -> str:
    """Queue of a generator: only workers that hold it read there."""
    return f"noisemill.{digest.removeprefix('sha256:')[:16]}"


def celery_app(settings: Settings) -> Celery:
    """The application that clients send with and workers run; reasons in docs/decisions."""
    app = Celery("noisemill", broker=celery_url(settings.redis_url), set_as_current=False)
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
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_concurrency=1,
        worker_proc_alive_timeout=600.0,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
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
        },
    )
    return app


class Wakeups:
    """Sends the wake-ups that jobs lack."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._app = celery_app(settings)

    def send_missing(self, job_id: str, digest: str, priority: int, *, workers: int) -> int:
        """Brings a job's wake-ups up to the number of its workers (at least one); answers how many were sent."""
        grace_s = _GRACE_BUSY_QUEUE_S if self.waiting(digest) else _GRACE_EMPTY_QUEUE_S
        missing = self._ledger.missing_wakeups(job_id, workers=workers, grace_s=grace_s)
        for token, serial in missing:
            self.send(job_id, digest, priority, token, serial)
        return len(missing)

    def send(self, job_id: str, digest: str, priority: int, token: int, serial: int) -> None:
        """Sends one wake-up to the end of the queue of the generator's digest."""
        arguments = {"version": MESSAGE_VERSION, "job": job_id, "token": token, "serial": serial}
        with redis_errors(self._settings.redis_url):
            try:
                self._app.send_task(
                    SLICE_TASK, kwargs=arguments, queue=queue_name(digest), priority=priority, retry=False
                )
            except OperationalError as error:
                raise redis.exceptions.ConnectionError(str(error)) from error

    def waiting(self, digest: str) -> int:
        """Wake-ups that wait for workers of this generator."""
        return self._ledger.queue_length(self._queue_keys(digest))

    def _queue_keys(self, digest: str) -> list[str]:
        """The Redis lists of a queue, one for each priority (kombu's own naming)."""
        name = f"{self._settings.key_prefix}:celery:{queue_name(digest)}"
        return [name, *(f"{name}\x06\x16{priority}" for priority in range(1, PRIORITIES))]
