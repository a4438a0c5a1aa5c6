"""Notes for the user about a `.keras` file, from its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.generators.architecture import Layer, NotUnderstoodError
from pipeline.generators.layers import KINDS, output_of, settings_of

_TRAINING = "layers that the model calls with training=True (dropout) do nothing here: it runs in inference mode"
#: Layers that Keras 3 computes wrongly (`_misplaced_biases`).
_CONVOLUTIONS = {name for name, kind in KINDS.items() if {"kernel_size", "use_bias"} <= kind.settings.keys()}


def notes_of(config: dict[str, Any], keras: int) -> tuple[str, ...]:
    """One line for each difference between the file and what is computed, by Keras of this major version."""
    training = (_TRAINING,) if '"training": true' in json.dumps(config) else ()
    return (*training, *_misplaced_biases(config)) if keras == 3 else training


def _misplaced_biases(config: dict[str, Any]) -> Iterator[str]:
    """Convolutions whose bias Keras 3 adds along the width instead of the channels.

    On TensorFlow `keras.ops.add` takes a vector as long as the last dimension for a bias with channels last, also where
    the layer has channels first (Keras 3.15).
    """
    waiting: list[Any] = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting.extend(each)
        elif isinstance(each, dict):
            waiting.extend(each.values())
            if each.get("class_name") in _CONVOLUTIONS and (width := _equal_width(each)) is not None:
                name = each["config"].get("name")
                yield (
                    f"layer {name!r} has channels first and as many filters as columns ({width}), so "
                    f"Keras 3 adds its bias to the columns; saved as .h5 it is rebuilt with a bias per channel"
                )


def _equal_width(entry: dict[str, Any]) -> int | None:
    """The width of a convolution's output, if it has channels first, a bias, and as many filters; else None."""
    layer = Layer(name="", kind=entry["class_name"], config=entry.get("config") or {}, calls=())
    try:
        settings = settings_of(layer)
        channels, *sizes = output_of(layer, [tuple(entry["build_config"]["input_shape"][1:])])
    except (NotUnderstoodError, KeyError, TypeError, ValueError):
        return None
    equal = settings["data_format"] == "channels_first" and settings["use_bias"] and channels == sizes[-1]
    return channels if equal else None
