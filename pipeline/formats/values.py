"""Converts a generator's output to stored values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Values converted to uint8 at a time: 4 MiB of float32.
_CHUNK = 2**20


def to_stored(samples: NDArray[np.float32], dtype: str, value_range: tuple[float, float] | None) -> NDArray[Any]:
    """Samples in the dtype in which they are stored, C-contiguous.

    uint8 is rint((x - lo) / (hi - lo) * 255), clipped, computed in float32; it needs a value range.
    Values too large for float16 become infinity.
    """
    with np.errstate(over="ignore"):
        if dtype != "uint8":
            return np.ascontiguousarray(samples, dtype=dtype)
        return _to_uint8(samples, value_range)


def _to_uint8(samples: NDArray[np.float32], value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    if value_range is None:
        raise ValueError("uint8 needs the value range of the generator")
    low, high = np.float32(value_range[0]), np.float32(value_range[1])
    values = np.ascontiguousarray(samples).reshape(-1)
    stored = np.empty(values.shape, np.uint8)
    # Pieces that stay in the processor's cache through all steps halve the time for large batches.
    scratch = np.empty(min(values.size, _CHUNK), np.float32)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        scaled = np.subtract(part, low, out=scratch[: len(part)])
        scaled /= high - low
        scaled *= np.float32(255)
        np.rint(scaled, out=scaled)
        np.clip(scaled, 0, 255, out=scaled)
        stored[start : start + _CHUNK] = scaled
    return stored.reshape(samples.shape)
