"""Statistics of a shard's stored values, and the search for values that must not be stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipeline.common.errors import SampleError
from pipeline.datasets.shard_statistics import ShardStatistics, check_finite


@given(
    samples=st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(2, 4)), elements=st.integers(0, 2)),
    cut=st.integers(0, 30),
)
def test_batches_add_up(samples: np.ndarray, cut: int) -> None:
    labels = (np.arange(len(samples)) % 3).astype(np.int32)
    statistics = ShardStatistics(len(samples), 3, first=0)
    for part in (slice(0, cut), slice(cut, None)):
        if len(samples[part]):
            statistics.add(samples[part], labels[part])
    result = statistics.result()
    rows = [tuple(row) for row in samples.tolist()]
    assert (result.minimum, result.maximum) == (samples.min(), samples.max())
    assert result.mean == pytest.approx(samples.mean())
    assert result.repeated == sum(rows.count(row) > 1 for row in rows)
    assert result.constant == sum(len(set(row)) == 1 for row in rows)
    assert result.classes == tuple(np.bincount(labels, minlength=3))


def test_the_sketch_does_not_depend_on_batches() -> None:
    samples = np.random.default_rng(5).normal(size=(400, 784)).astype(np.float32)
    sketches = set()
    for batch in (1, 7, 64, 128, 400):
        statistics = ShardStatistics(len(samples), None, first=3)
        for first in range(0, len(samples), batch):
            statistics.add(samples[first : first + batch], None)
        sketches.add(statistics.result().sketch)
    assert len(sketches) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_dtype(dtype: str) -> None:
    statistics = ShardStatistics(2, None, first=0)
    statistics.add(np.array([[[0, 1], [2, 3]], [[4, 4], [4, 4]]], dtype), None)
    result = statistics.result()
    assert (result.minimum, result.maximum, result.mean, result.repeated, result.constant) == (0, 4, 2.75, 0, 1)
    assert result.classes is None


def test_the_mean_of_many_large_values_is_exact() -> None:
    statistics = ShardStatistics(1000, None, first=0)
    statistics.add(np.full((1000, 100), 255, np.uint8), None)
    assert statistics.result().mean == 255
    half = ShardStatistics(1000, None, first=0)
    half.add(np.full((1000, 100), 60_000, np.float16), None)
    assert half.result().mean == 60_000


def test_samples_of_one_value_are_not_called_constant() -> None:
    statistics = ShardStatistics(3, None, first=0)
    statistics.add(np.array([1, 2, 2], np.float32), None)
    assert (statistics.result().constant, statistics.result().repeated) == (0, 2)


@given(
    at=st.sets(st.integers(0, 9)),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    shape=st.sampled_from([(), (1,), (4,), (2, 3)]),
)
def test_the_first_bad_sample_is_found(at: set[int], value: float, shape: tuple[int, ...]) -> None:
    samples = np.ones((10, *shape), np.float32)
    for index in at:
        samples[index].flat[-1:] = value if shape else samples[index]
        if not shape:
            samples[index] = value
    if not at:
        check_finite(samples, 500)
        return
    with pytest.raises(SampleError, match=rf"NaN or infinity: sample {500 + min(at)} is the first"):
        check_finite(samples, 500)


def test_the_largest_values_are_no_infinity() -> None:
    check_finite(np.array([[3.4e38, -3.4e38]], np.float32), 0)
