"""Label plans as functions of the sample's index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import UsageError
from pipeline.spec.labels import canonical_labels, label_plan, planned_count
from pipeline.spec.latents import random_labels

CLASSES = ("T-shirt/top", "Trouser", "Ankle boot")


def plan_of(text: str, first: int, count: int) -> list[int]:
    labels = label_plan(text, classes=3, seed=9).labels(first, count)
    assert labels.dtype == np.int32
    assert labels.shape == (count,)
    return labels.tolist()


def test_balanced_is_the_index_modulo_the_classes() -> None:
    assert plan_of("balanced", 4, 5) == [1, 2, 0, 1, 2]
    assert plan_of("balanced", 10**12 - 2, 2) == [(10**12 - 2) % 3, (10**12 - 1) % 3]


def test_one_class_is_always_itself() -> None:
    assert plan_of("class:2", 7, 3) == [2, 2, 2]


def test_counts_follow_one_another_in_the_order_given() -> None:
    assert plan_of("counts:2=3,0=1,2=2", 0, 6) == [2, 2, 2, 0, 2, 2]
    assert plan_of("counts:2=3,0=1,2=2", 3, 2) == [0, 2]
    assert plan_of("counts:1=999999999999,0=1", 10**12 - 2, 2) == [1, 0]


def test_random_is_drawn_from_the_seed() -> None:
    assert plan_of("random", 1000, 50) == random_labels(9, 1000, 50, 3).tolist()


@given(
    text=st.sampled_from(["balanced", "random", "class:1", "counts:0=1000,2=1,1=1500"]),
    first=st.integers(0, 2000),
    count=st.integers(0, 500),
)
def test_any_range_is_a_slice_of_the_whole(text: str, first: int, count: int) -> None:
    assert plan_of(text, first, count) == plan_of(text, 0, 2501)[first : first + count]


@pytest.mark.parametrize(("text", "canonical"), [
    ("balanced", "balanced"), (" random ", "random"), ("class:1", "class:1"), ("class:trouser", "class:1"),
    ("class: Ankle boot", "class:2"), ("class:T-shirt/top", "class:0"), ("class:01", "class:1"),
    ("counts:0=100,2=50", "counts:0=100,2=50"), ("counts:Trouser=1_000, 0 = 5", "counts:1=1000,0=5"),
    ("counts:2=1,0=1", "counts:2=1,0=1"), ("counts:0=10k,1=1M", "counts:0=10000,1=1000000"),
])  # fmt: skip
def test_a_plan_has_one_canonical_form(text: str, canonical: str) -> None:
    assert canonical_labels(text, CLASSES) == canonical
    assert canonical_labels(canonical, CLASSES) == canonical


@pytest.mark.parametrize(("text", "words"), [
    ("", "unknown"), ("balance", "unknown"), ("balanced:2", "unknown"), ("class", "unknown"), ("class:", "unknown"),
    ("counts:", "unknown"), ("class:3", "generator has 0 to 2"), ("class:-1", "unknown"), ("class:\u00b2", "unknown"),
    ("class:99999999999999999999", "unknown"),
    ("class:Trowser", "did you mean 'Trouser'"), ("class:ankle bot", "did you mean 'Ankle boot'"),
    ("class:xyz", "use one of T-shirt/top, Trouser, Ankle boot"), ("counts:0", "CLASS=COUNT"),
    ("counts:0=", "not a number"), ("counts:0=0", "between 1"), ("counts:0=-5", "not a number"),
    ("counts:0=1.5", "not a whole number"), ("counts:5=1", "generator has 0 to 2"), ("counts:0=1,", "CLASS=COUNT"),
    ("counts:0=\u00b2", "not a number"), ("counts:0=_", "not a number"), ("counts:Trowsers=3", "did you mean"),
])  # fmt: skip
def test_plans_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        canonical_labels(text, CLASSES)


@given(st.text(max_size=20))
def test_no_text_is_more_than_a_wrong_plan(text: str) -> None:
    for kind in ("", "class:", "counts:", "counts:0="):
        try:
            canonical = canonical_labels(kind + text, CLASSES)
        except UsageError:
            continue
        assert canonical_labels(canonical, CLASSES) == canonical


def test_planned_count_is_known_where_the_plan_says_it() -> None:
    assert planned_count("counts:0=100,2=50") == 150
    for text in ("balanced", "random", "class:1", ""):
        assert planned_count(text) is None
