"""noisemill: make datasets of any size from trained generators.

import pipeline

dataset = pipeline.generate("fashion", "out", count=10_000)
handle = pipeline.submit("fashion", "s3://bucket/prefix", count=1_000_000)
handle.wait()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.client.extending import extend, extend_here
    from pipeline.client.making import generate, resume, resume_here, submit
    from pipeline.client.stream import Stream, stream
    from pipeline.common.errors import NoisemillError
    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.export import export
    from pipeline.jobs.queueing import JobHandle

#: Public name -> its module, imported on first use: numpy, redis and Celery take half a second, and `--help` does not
#: need them.
_SOURCES = {
    "Dataset": "pipeline.datasets.dataset",
    "JobHandle": "pipeline.jobs.queueing",
    "NoisemillError": "pipeline.common.errors",
    "Stream": "pipeline.client.stream",
    "extend": "pipeline.client.extending",
    "extend_here": "pipeline.client.extending",
    "export": "pipeline.datasets.export",
    "generate": "pipeline.client.making",
    "resume": "pipeline.client.making",
    "resume_here": "pipeline.client.making",
    "stream": "pipeline.client.stream",
    "submit": "pipeline.client.making",
}

__all__ = [
    "Dataset",
    "JobHandle",
    "NoisemillError",
    "Stream",
    "export",
    "extend",
    "extend_here",
    "generate",
    "resume",
    "resume_here",
    "stream",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_SOURCES[name]), name)
