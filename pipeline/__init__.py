"""noisemill: turn a trained generator into a dataset of any size.

import pipeline

dataset = pipeline.generate("fashion", "out", count=10_000)
handle = pipeline.submit("fashion", "s3://bucket/prefix", count=1_000_000)
handle.wait()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.client import generate, resume, submit
    from pipeline.dataset import Dataset
    from pipeline.errors import NoisemillError
    from pipeline.exporting import export
    from pipeline.extending import extend
    from pipeline.queueing import JobHandle

#: Public names and the modules that they come from, loaded when they are first asked for:
#: numpy, redis and Celery take half a second, which `--help` does not need.
_SOURCES = {
    "Dataset": "pipeline.dataset",
    "JobHandle": "pipeline.queueing",
    "NoisemillError": "pipeline.errors",
    "extend": "pipeline.extending",
    "export": "pipeline.exporting",
    "generate": "pipeline.client",
    "resume": "pipeline.client",
    "submit": "pipeline.client",
}

__all__ = ["Dataset", "JobHandle", "NoisemillError", "export", "extend", "generate", "resume", "submit"]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_SOURCES[name]), name)
