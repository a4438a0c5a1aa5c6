"""Stages of the mill, and which of them limited a job."""

from __future__ import annotations

from collections.abc import Mapping

#: Stage -> verdict if it limited a job.
_BOUND = {"noise": "noise-bound", "predict": "device-bound", "encode": "encode-bound", "write": "store-bound"}
#: The mill's stages, in the order in which a batch passes them.
STAGES = tuple(_BOUND)


def verdict(stage_seconds: Mapping[str, float]) -> str | None:
    """The verdict for the busiest stage; None if nothing was measured."""
    known = {stage: seconds for stage, seconds in stage_seconds.items() if stage in _BOUND}
    return _BOUND[max(known, key=lambda stage: known[stage])] if any(known.values()) else None
