"""Repeated samples are counted exactly as long as all are kept, and never too many of them after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.repeats import Repeats

samples = st.lists(st.binary(max_size=1), min_size=1, max_size=60)


def counted(made: list[bytes], cut: int, most_kept: int) -> int:
    repeats = Repeats(len(made), most_kept)
    repeats.add(made[:cut])
    repeats.add(made[cut:])
    return repeats.count()


def repeated(made: list[bytes]) -> int:
    return sum(made.count(sample) > 1 for sample in made)


@given(samples, st.integers(0, 60))
def test_all_are_kept(made: list[bytes], cut: int) -> None:
    assert counted(made, cut, 60) == repeated(made)


@given(samples, st.integers(0, 60), st.integers(1, 59))
def test_later_ones_are_compared_with_the_first(made: list[bytes], cut: int, most_kept: int) -> None:
    first = made[:most_kept]
    times = {sample: made.count(sample) for sample in first}
    assert counted(made, cut, most_kept) == sum(number for number in times.values() if number > 1)


def test_a_collapse_is_found_however_few_are_kept() -> None:
    assert counted([b"the same"] * 1000, 500, 10) == 1000


def test_no_samples() -> None:
    assert Repeats(0).count() == 0
