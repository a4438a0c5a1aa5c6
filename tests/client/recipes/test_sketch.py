"""Sketches: the same however the samples come, and as far apart as the samples are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.sketch import WIDTH, Sketch, difference

SIZE = 50


def sketch(rows: np.ndarray, first: int = 0, cut: int | None = None) -> tuple[float, ...]:
    made = Sketch(first)
    for part in (rows,) if cut is None else (rows[:cut], rows[cut:]):
        if len(part):
            made.add(part)
    return made.result()


def samples(count: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE)).astype(np.float32)


PINNED = [
    (-1.1395189729676691, -8.164013328958895, -6.258530383338577, 3.6403946043401882),
    (0.3765331065994538, 0.6610437918867424, -1.2808854887497834, -0.07971638574881547),
]


def test_weights_are_fixed_for_ever() -> None:
    """Recipes of today must compare with datasets of tomorrow."""
    ones = np.ones((3, 5), np.uint8)
    assert sketch(ones) == pytest.approx(PINNED[0], abs=1e-12)
    assert sketch(ones, first=1_000_000) == pytest.approx(PINNED[1], abs=1e-12)


@given(first=st.integers(0, 10**12), count=st.integers(1, 3000), cut=st.integers(0, 3000))
def test_batches_and_shards_add_up(first: int, count: int, cut: int) -> None:
    rows = samples(count)
    whole = sketch(rows, first)
    cut = min(cut, count - 1)
    assert sketch(rows, first, cut) == pytest.approx(whole, abs=1e-9)
    parts = zip(sketch(rows[:cut], first) if cut else (0,) * WIDTH, sketch(rows[cut:], first + cut), strict=True)
    assert tuple(a + b for a, b in parts) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_dtype(dtype: str) -> None:
    rows = np.arange(12).reshape(4, 3)
    assert sketch(rows.astype(dtype)) == pytest.approx(sketch(rows.astype(np.float64)), abs=1e-12)


CHANGES = {
    "all values a little": lambda rows: rows + np.float32(1e-3),
    "one sample": lambda rows: np.concatenate([-rows[:1], rows[1:]]),
    "two samples in each other's place": lambda rows: rows[[1, 0, *range(2, len(rows))]],
    "two values in each other's place": lambda rows: rows[:, [1, 0, *range(2, SIZE)]],
    "one value": lambda rows: rows + np.eye(len(rows), SIZE, dtype=np.float32) * (np.arange(len(rows)) == 0)[:, None],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_difference_is_estimated(kind: str) -> None:
    """Over many shards the estimates' mean square is right, and hardly any is far too small."""
    shares = []
    for seed in range(200):
        rows = samples(64, seed)
        other = CHANGES[kind](rows)
        true = float(np.sqrt(np.mean((rows - other).astype(np.float64) ** 2)))
        shares.append(difference(sketch(rows, seed * 1024), sketch(other, seed * 1024), rows.size) / true)
    assert np.mean(np.square(shares)) == pytest.approx(1, abs=0.3)
    assert np.mean(np.array(shares) < 0.05) <= 0.02


def test_what_is_equal_differs_by_nothing() -> None:
    assert difference(sketch(samples()), sketch(samples()), 10_000) == 0
