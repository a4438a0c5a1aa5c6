"""Draws latents and random labels from (seed, sample index): the same bits on every machine.

Samples are drawn in fixed blocks of 1,024, large latents in smaller ones, each from its own Philox stream, so that any
range can be drawn without the samples before it, and neither shard size nor batch size nor the number of workers
changes a latent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_SEED
from pipeline.spec.sampler import KEY_DIM

#: Samples per block of the random streams. It defines datasets, so it must never change.
BLOCK = 1024

#: Most numbers of a block of latents, 16 MiB of float32: a latent of up to 4,096 numbers has blocks of BLOCK.
_BLOCK_NUMBERS = 2**22

_LABEL_STREAM = 1
_NOISE_STREAM = 2
_KEY_STREAM = 3


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A distribution of latents."""

    kind: Literal["normal", "uniform", "truncated"]
    #: Standard deviation (`normal`), or the largest absolute value (`truncated`); 1 for `uniform`.
    parameter: float = 1.0

    def __str__(self) -> str:
        """The canonical form, which `parse_noise` reads."""
        if self.kind == "uniform" or (self.kind == "normal" and self.parameter == 1.0):
            return self.kind
        return f"{self.kind}:{repr(float(self.parameter)).removesuffix('.0')}"


def parse_noise(text: str) -> Noise:
    """`normal`, `normal:SIGMA`, `uniform` (in [-1, 1]) or `truncated:T` (normal, resampled until |z| <= T).

    Raises UsageError for anything else, a SIGMA outside (0, 100] or a T outside [0.1, 100].
    """
    match = re.fullmatch(r"(normal|uniform|truncated)(?::(.+))?", text.strip())
    if not match:
        raise UsageError(f"noise {text!r} is unknown: use normal, normal:SIGMA, uniform or truncated:T")
    kind, parameter = match[1], match[2]
    if parameter is None:
        if kind == "truncated":
            raise UsageError("noise 'truncated' needs its threshold: for example truncated:2")
        return Noise(kind=kind)  # type: ignore[arg-type]
    if kind == "uniform":
        raise UsageError(f"noise {text!r}: uniform takes no parameter, it is always in [-1, 1]")
    try:
        value = float(parameter)
    except ValueError:
        raise UsageError(f"noise {text!r}: {parameter!r} is not a number") from None
    lowest = 0.1 if kind == "truncated" else 1e-6
    if not lowest <= value <= 100:
        raise UsageError(f"noise {text!r}: the parameter must be between {lowest:g} and 100")
    return Noise(kind=kind, parameter=value)  # type: ignore[arg-type]


def block_rows(dim: int) -> int:
    """Samples per block of latents of this size in new jobs, a power of two: one latent takes the time of a block."""
    return min(BLOCK, 1 << max(0, (_BLOCK_NUMBERS // dim).bit_length() - 1))


def latents(
    seed: int, first: int, count: int, dim: int, noise: Noise | None = None, block: int = BLOCK
) -> NDArray[np.float32]:
    """Latents of samples `first` to `first + count - 1`, float32 of shape (count, dim).

    Standard normal by default; depends on seed and sample index only, for one number of samples per `block`.
    Raises ValueError if an argument is negative or the seed exceeds MAX_SEED.
    """
    noise = noise or Noise(kind="normal")
    _check_range(seed, first, count)
    rows = np.empty((count, dim), dtype=np.float32)
    for number, inside, outside in _blocks(first, count, block):
        rows[outside] = _recent.latent_block(seed, number, (block, dim), noise)[inside]
    return rows


def random_labels(seed: int, first: int, count: int, classes: int) -> NDArray[np.int32]:
    """Labels of samples `first` to `first + count - 1`, uniform in 0..classes-1, int32 of shape (count,).

    Drawn from a separate stream, so that labels and latents are independent.
    """
    _check_range(seed, first, count)
    labels = np.empty(count, dtype=np.int32)
    for block, inside, outside in _blocks(first, count):
        stream = _stream(seed, block, _LABEL_STREAM)
        labels[outside] = stream.integers(0, classes, size=BLOCK, dtype=np.int32)[inside]
    return labels


def noise_rows(seed: int, first: int, count: int, sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    """Values of the noise inputs for samples `first` to `first + count - 1`, float32 of shape (count, size) each.

    Standard normal, with a stream for each sample, since such inputs may take very many numbers.
    """
    _check_range(seed, first, count)
    inputs = [np.empty((count, size), dtype=np.float32) for size in sizes]
    for number, rows in enumerate(inputs):
        for row in range(count):
            _stream(seed, first + row, _NOISE_STREAM, number).standard_normal(dtype=np.float32, out=rows[row])
    return inputs


def noise_keys(seed: int, first: int, count: int) -> NDArray[np.float32]:
    """What the noise of a sampler's steps is drawn from for samples `first` to `first + count - 1`.

    Float32 of shape (count, KEY_DIM), whole multiples of 2**-24 in [0, 1): their bits are the key of a stream on the
    device (`workers.engine.samplers.noise`), from which each step takes its own part.
    """
    _check_range(seed, first, count)
    keys = np.empty((count, KEY_DIM), dtype=np.float32)
    for block, inside, outside in _blocks(first, count):
        keys[outside] = _stream(seed, block, _KEY_STREAM).random((BLOCK, KEY_DIM), dtype=np.float32)[inside]
    return keys


def _check_range(seed: int, first: int, count: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is not in 0..{MAX_SEED}")
    if first < 0 or count < 0:
        raise ValueError(f"samples {first} to {first + count - 1}: indices are not negative")


def _blocks(first: int, count: int, size: int = BLOCK) -> list[tuple[int, slice, slice]]:
    """The blocks of a range: (block, rows inside the block, rows of the result); each has `size` samples."""
    touched = []
    for block in range(first // size, -(-(first + count) // size)):
        start, stop = max(first, block * size), min(first + count, (block + 1) * size)
        inside = slice(start - block * size, stop - block * size)
        touched.append((block, inside, slice(start - first, stop - first)))
    return touched


def _stream(seed: int, block: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, block, *purpose])))


def _latent_block(seed: int, block: int, shape: tuple[int, int], noise: Noise) -> NDArray[np.float32]:
    """Rows of a block, read-only."""
    stream = _stream(seed, block)
    if noise.kind == "uniform":
        return stream.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1)
    rows = stream.standard_normal(shape, dtype=np.float32)
    if noise.kind == "normal":
        return rows if noise.parameter == 1.0 else rows * np.float32(noise.parameter)
    outliers = np.abs(rows) > noise.parameter
    while missing := int(outliers.sum()):
        rows[outliers] = stream.standard_normal(missing, dtype=np.float32)
        outliers = np.abs(rows) > noise.parameter
    return rows


class _Recent(threading.local):
    """The last blocks of each thread: batches are smaller than blocks and need the same one in turn."""

    def __init__(self) -> None:
        self.latent_block = lru_cache(maxsize=2)(_latent_block)


_recent = _Recent()
