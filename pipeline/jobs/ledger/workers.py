"""The workers that are up, as they announce themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pipeline.jobs.ledger.call import Call
from pipeline.jobs.worker_info import WorkerInfo, read_worker

#: A worker that has not announced itself for this long is gone, seconds.
WORKER_TTL_S = 20


class Workers(Call):
    """The list of workers."""

    def announce(self, worker: WorkerInfo) -> bool:
        """Lists a worker as up; to be repeated well within WORKER_TTL_S. Returns whether it was not listed before."""
        with self._talk(), self._redis.pipeline(transaction=False) as batch:
            batch.set(self._key(f"worker:{worker.id}"), json.dumps(asdict(worker)), ex=WORKER_TTL_S)
            batch.zadd(self._key("workers"), {worker.id: worker.started_at})
            return bool(batch.execute()[1])

    def withdraw(self, worker_id: str) -> None:
        """Removes a worker from the list."""
        with self._talk():
            self._redis.delete(self._key(f"worker:{worker_id}"))
            self._redis.zrem(self._key("workers"), worker_id)

    def worker(self, worker_id: str) -> WorkerInfo | None:
        """One worker; None if it is not up."""
        with self._talk():
            text = self._redis.get(self._key(f"worker:{worker_id}"))
        return None if text is None else read_worker(str(text))

    def workers(self, digest: str | None = None) -> list[WorkerInfo]:
        """Workers that are up, the oldest first; with `digest`, those that hold that generator."""
        with self._talk():
            ids = [str(worker_id) for worker_id in self._redis.zrange(self._key("workers"), 0, -1)]
            texts: list[Any] = self._redis.mget([self._key(f"worker:{worker_id}") for worker_id in ids]) if ids else []
            gone = [worker_id for worker_id, text in zip(ids, texts, strict=True) if text is None]
            if gone:
                self._redis.zrem(self._key("workers"), *gone)
        found = [read_worker(str(text)) for text in texts if text is not None]
        return [worker for worker in found if worker is not None and digest in (None, worker.digest)]
