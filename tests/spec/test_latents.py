"""Latents and random labels against the formula of the design, written out again here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_COUNT, MAX_SEED
from pipeline.spec.latents import BLOCK, Noise, block_rows, latents, parse_noise, random_labels

SEEDS = (0, 1, 5, 2**31, MAX_SEED)

GOLDEN: dict[str, list] = {
    "normal": [[-0.24822916090488434, -0.02676701545715332, -1.9444162845611572, 0.5245779752731323]],
    "far": [[0.39105066657066345, -1.335371494293213, 1.0849069356918335, 0.6424342393875122]],
    "uniform": [[-0.536666989326477, 0.7513200044631958], [-0.5376924276351929, 0.7050759792327881]],
    "truncated": [[-0.5373988747596741, -0.6661518812179565, 0.016932323575019836, 0.12872806191444397]],
    "labels": [9, 0, 3, 3, 7, 7, 7, 6],
}


def by_the_formula(seed: int, count: int, dim: int, kind: str = "normal", parameter: float = 1.0) -> np.ndarray:
    """Latents of samples 0 to count - 1, one block after the other."""
    blocks = []
    for block in range(count // 1024 + 1):
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, block])))
        if kind == "uniform":
            blocks.append(stream.random((1024, dim), dtype=np.float32) * 2 - 1)
            continue
        values = stream.standard_normal((1024, dim), dtype=np.float32)
        if kind == "truncated":
            while (outside := np.abs(values) > parameter).any():
                values[outside] = stream.standard_normal(outside.sum(), dtype=np.float32)
            blocks.append(values)
        else:
            blocks.append(values * np.float32(parameter))
    return np.concatenate(blocks)[:count]


@pytest.mark.parametrize("seed", SEEDS)
def test_normal_latents_are_the_formula_bit_for_bit(seed: int) -> None:
    made = latents(seed, 0, 2500, 3)
    assert made.dtype == np.float32
    assert made.tobytes() == by_the_formula(seed, 2500, 3).tobytes()


@pytest.mark.parametrize(("text", "kind", "parameter"), [
    ("normal:0.5", "normal", 0.5), ("normal:2", "normal", 2.0), ("uniform", "uniform", 1.0),
    ("truncated:2", "truncated", 2.0), ("truncated:0.1", "truncated", 0.1),
])  # fmt: skip
def test_other_noise_is_the_formula_bit_for_bit(text: str, kind: str, parameter: float) -> None:
    made = latents(11, 0, 1500, 5, parse_noise(text))
    assert made.tobytes() == by_the_formula(11, 1500, 5, kind, parameter).tobytes()


def test_golden_values() -> None:
    """A numpy whose streams differ would make other datasets of the same jobs: this must be noticed."""
    assert latents(0, 0, 1, 4).tolist() == GOLDEN["normal"]
    assert latents(2**32 - 1, 10**9, 1, 4).tolist() == GOLDEN["far"]
    assert latents(7, 1023, 2, 2, parse_noise("uniform")).tolist() == GOLDEN["uniform"]
    assert latents(7, 3, 1, 4, parse_noise("truncated:0.7")).tolist() == GOLDEN["truncated"]
    assert random_labels(42, 1020, 8, 10).tolist() == GOLDEN["labels"]


@given(
    seed=st.sampled_from(SEEDS),
    first=st.integers(0, 3000),
    count=st.integers(0, 2100),
    noise=st.sampled_from(["normal", "uniform", "truncated:1.5", "normal:0.3"]),
)
def test_any_range_is_a_slice_of_the_whole(seed: int, first: int, count: int, noise: str) -> None:
    whole = latents(seed, 0, 5200, 2, parse_noise(noise))
    assert np.array_equal(latents(seed, first, count, 2, parse_noise(noise)), whole[first : first + count])


@given(first=st.integers(0, 3000), count=st.integers(0, 2100))
def test_any_range_of_random_labels_is_a_slice_of_the_whole(first: int, count: int) -> None:
    assert np.array_equal(random_labels(3, first, count, 7), random_labels(3, 0, 5200, 7)[first : first + count])


def test_blocks_of_large_latents_hold_fewer_samples() -> None:
    assert {dim: block_rows(dim) for dim in (1, 100, 4096, 4097, 12288, 786_432, 2**22, 2**24)} == {
        1: 1024, 100: 1024, 4096: 1024, 4097: 512, 12288: 256, 786_432: 4, 2**22: 1, 2**24: 1,
    }  # fmt: skip
    whole = latents(7, 0, 30, 5, block=4)
    for first, count in ((0, 1), (3, 2), (5, 9), (29, 1)):
        assert np.array_equal(latents(7, first, count, 5, block=4), whole[first : first + count])
    blocks = [np.random.Generator(np.random.Philox(np.random.SeedSequence([7, block]))) for block in range(8)]
    wanted = np.concatenate([stream.standard_normal((4, 5), dtype=np.float32) for stream in blocks])
    assert np.array_equal(whole, wanted[:30])


def test_what_a_caller_does_to_latents_stays_with_the_caller() -> None:
    """Blocks are kept for the next batch."""
    before = latents(1, 0, 10, 3)
    kept = before.copy()
    before[:] = 0
    assert (latents(1, 0, 10, 3) == kept).all()


def test_the_last_possible_sample_can_be_drawn() -> None:
    assert latents(MAX_SEED, MAX_COUNT - 2, 2, 3).shape == (2, 3)


def test_seeds_and_blocks_give_streams_of_their_own() -> None:
    streams = [latents(seed, block * BLOCK, 4, 4).tobytes() for seed in (*SEEDS, 2, 3) for block in (0, 1, 2, 10**6)]
    assert len(set(streams)) == len(streams)


def test_labels_are_independent_of_latents() -> None:
    labels = random_labels(1, 0, 20_000, 4)
    assert labels.dtype == np.int32
    assert np.bincount(labels, minlength=4).min() > 4700
    means = [latents(1, 0, 20_000, 4)[labels == label].mean() for label in range(4)]
    assert np.abs(means).max() < 0.03


def test_what_the_distributions_are() -> None:
    normal = latents(1, 0, 20_000, 4)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    uniform = latents(1, 0, 20_000, 4, parse_noise("uniform"))
    assert -1 <= uniform.min() < -0.999
    assert 0.999 < uniform.max() <= 1
    assert np.abs(latents(1, 0, 20_000, 4, parse_noise("truncated:1.25"))).max() <= 1.25


@pytest.mark.parametrize(("seed", "first", "count"), [(-1, 0, 1), (MAX_SEED + 1, 0, 1), (0, -1, 1), (0, 5, -1)])
def test_arguments_out_of_range_are_refused(seed: int, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="not"):
        latents(seed, first, count, 2)
    with pytest.raises(ValueError, match="not"):
        random_labels(seed, first, count, 2)


@pytest.mark.parametrize(("text", "canonical"), [
    ("normal", "normal"), (" normal ", "normal"), ("normal:1", "normal"), ("normal:1.0", "normal"),
    ("normal:0.50", "normal:0.5"), ("uniform", "uniform"), ("truncated:2.0", "truncated:2"),
    ("truncated:1e1", "truncated:10"), ("normal:0.000001", "normal:1e-06"), ("normal:100", "normal:100"),
])  # fmt: skip
def test_noise_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_noise(text)) == canonical


@given(st.floats(0.1, 100), st.sampled_from(["normal", "truncated"]))
def test_the_canonical_form_is_the_same_noise(parameter: float, kind: str) -> None:
    noise = Noise(kind=kind, parameter=parameter)  # type: ignore[arg-type]
    assert parse_noise(str(noise)) == noise
    assert str(parse_noise(str(noise))) == str(noise)


@pytest.mark.parametrize(("text", "words"), [
    ("", "unknown"), ("gauss", "unknown"), ("normal:", "unknown"), ("truncated", "threshold"),
    ("truncated:", "unknown"), ("truncated:x", "not a number"), ("truncated:0", "between 0.1 and 100"),
    ("truncated:nan", "between"), ("normal:-1", "between"), ("normal:inf", "between"), ("normal:0", "between"),
    ("uniform:2", "no parameter"), ("truncated:0.05", "between"), ("normal 2", "unknown"),
])  # fmt: skip
def test_noise_that_is_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_noise(text)
