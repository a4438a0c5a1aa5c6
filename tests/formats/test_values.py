"""From a generator's output to stored values."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.values import to_stored

RANGES = [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)]


def stored(values: list[float], dtype: str, value_range: tuple[float, float] | None = (-1.0, 1.0)) -> list[float]:
    return to_stored(np.array(values, np.float32), dtype, value_range).tolist()


@given(values=st.lists(st.floats(-10, 10, width=32), min_size=1), value_range=st.sampled_from(RANGES))
def test_bytes_are_the_formula(values: list[float], value_range: tuple[float, float]) -> None:
    low, high = value_range
    for value, found in zip(values, stored(values, "uint8", value_range), strict=True):
        exact = (Decimal(value) - Decimal(low)) / (Decimal(high) - Decimal(low)) * 255
        level = int(min(max(exact, Decimal(0)), Decimal(255)).to_integral_value(ROUND_HALF_EVEN))
        # float32 may turn a value that lies half-way, to its last bits, to the other side.
        assert found == level or abs(exact % 1 - Decimal("0.5")) < Decimal("0.0001")


def test_ends_and_middle() -> None:
    assert stored([-1.0, 1.0, 0.0, -1.5, 7.0], "uint8") == [0, 255, 128, 0, 255]
    assert stored([0.0, 1.0, 0.5], "uint8", (0.0, 1.0)) == [0, 255, 128]


def test_every_level_comes_back() -> None:
    levels = np.arange(256)
    for low, high in RANGES:
        assert stored((levels / 255 * (high - low) + low).tolist(), "uint8", (low, high)) == levels.tolist()


def test_floats_are_rounded_to_the_nearest() -> None:
    values = [0.1, -0.3333, 1e-8, 65504.0]
    assert stored(values, "float32") == np.array(values, np.float32).tolist()
    assert stored(values, "float16", None) == np.array(values, np.float16).tolist()


def test_what_overflows_is_infinity_without_a_warning() -> None:
    assert stored([1e5], "float16") == [np.inf]
    assert stored([3e38, -3e38], "uint8", (-1e38, 1e38)) == [255, 0]


def test_uint8_needs_a_range() -> None:
    with pytest.raises(ValueError, match="needs the value range"):
        stored([0.0], "uint8", None)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_whatever_the_order_in_memory_the_answer_is_c_contiguous(dtype: str) -> None:
    samples = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    for odd in (np.asfortranarray(samples), samples[::-1], samples[:, ::2], samples.transpose(2, 0, 1)):
        made = to_stored(odd, dtype, (-1.0, 1.0))
        assert made.flags.c_contiguous
        assert made.dtype == dtype
        assert np.array_equal(made, to_stored(odd.copy(order="C"), dtype, (-1.0, 1.0)))


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_what_comes_in_stays_as_it_is(dtype: str) -> None:
    samples = np.linspace(-1, 1, 8, dtype=np.float32)
    before = samples.copy()
    to_stored(samples, dtype, (-1.0, 1.0))
    assert np.array_equal(samples, before)
