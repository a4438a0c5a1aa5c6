"""Make datasets of any size from trained generators.

import noisemill

dataset = noisemill.generate("fashion", "out", count=10_000)
handle = noisemill.submit("fashion", "s3://bucket/prefix", count=1_000_000)
handle.wait()
for samples, labels in noisemill.stream("fashion", count=1_000_000): ...

The public API. The code lives in `pipeline` (jobs and how to request them) and `workers` (processes that make them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import (
        Dataset,
        JobHandle,
        NoisemillError,
        Stream,
        export,
        extend,
        extend_here,
        generate,
        resume,
        resume_here,
        stream,
        submit,
    )

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
    # Each name is imported on first use, since numpy, redis and Celery take half a second to import.
    if name not in __all__:
        raise AttributeError(f"module 'noisemill' has no attribute {name!r}")
    import pipeline

    return getattr(pipeline, name)
