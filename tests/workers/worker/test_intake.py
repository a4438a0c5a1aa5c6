"""What the worker's transport does while Redis is away; what it refuses is in tests/security/test_messages.py."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.transport import TRANSPORT_ALIASES

from pipeline.common.settings import Settings
from pipeline.jobs.broker import Wakeups, celery_app, queue_name
from pipeline.jobs.ledger import Ledger
from tests.servers import Valkey
from workers.worker import intake

DIGEST = "sha256:abcdef"


def test_a_message_that_cannot_be_acknowledged_is_no_longer_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes one at a time: it would never take another."""
    for scheme in ("redis", "rediss", "sentinel"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, TRANSPORT_ALIASES[scheme])
    monkeypatch.setattr("kombu.transport._transport_cache", {})  # Of tests before this one.
    intake.register_transport()
    with Valkey(port=0) as server:
        settings = Settings(redis_url=server.url, key_prefix="intake")
        Wakeups(settings, Ledger(settings)).send("job", DIGEST, 0, 0, 1)
        with celery_app(settings).connection_for_read() as connection:
            channel: Any = connection.default_channel
            assert isinstance(channel, intake.Channel)
            channel.basic_qos(0, 1, False)
            message: Any = channel.basic_get(queue_name(DIGEST))
            assert not channel.qos.can_consume()
            server.stop(kill=True)
            message.ack()
            assert channel.qos.can_consume()
            server.start()
