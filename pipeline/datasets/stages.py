"""Stages of the mill, and which of them bounded a run."""

from __future__ import annotations

from collections.abc import Mapping

#: What a user is told about the stage that bounded a run.
_BOUND = {"noise": "noise-bound", "predict": "device-bound", "encode": "encode-bound", "write": "store-bound"}
#: The mill's stages, in the order in which a batch passes them.
STAGES = tuple(_BOUND)


def verdict(stage_seconds: Mapping[str, float]) -> str | None:
    """What the time went into: the busiest stage, in a word; None where nothing was measured."""
    known = {stage: seconds for stage, seconds in stage_seconds.items() if stage in _BOUND}
    return _BOUND[max(known, key=lambda stage: known[stage])] if any(known.values()) else None
