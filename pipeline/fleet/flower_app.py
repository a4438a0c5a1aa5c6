"""The application for Flower: `celery --app pipeline.fleet.flower_app flower`.

Workers take no remote commands and send no events, so it shows only queues: those of the generators that workers hold
or jobs need when it starts. Everything else is in `noisemill top` and in the metrics.
"""

from __future__ import annotations

from kombu import Queue

from pipeline.common.settings import load_settings
from pipeline.fleet.overview import FleetMonitor
from pipeline.jobs.broker import celery_app, queue_name

_settings = load_settings()

app = celery_app(_settings)
app.conf.task_queues = [Queue(queue_name(digest)) for digest in FleetMonitor(_settings).read().queues]
