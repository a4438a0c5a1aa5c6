"""Shards as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import DatasetError, UsageError
from pipeline.spec.plan import Plan
from pipeline.spec.selection import parse_selection, selection_from_json

PLAN = Plan(count=295, shard_size=10)


@pytest.mark.parametrize(("text", "shards", "canonical"), [
    ("17,20-25", [17, 20, 21, 22, 23, 24, 25], "17,20-25"), ("0", [0], "0"), ("29", [29], "29"),
    ("3,1,2", [1, 2, 3], "1-3"), ("5-5", [5], "5"), (" 1 - 2 , 4 ", [1, 2, 4], "1-2,4"),
    ("2-4,3-8,2", list(range(2, 9)), "2-8"),
])  # fmt: skip
def test_what_people_write(text: str, shards: list[int], canonical: str) -> None:
    selection = parse_selection(text, PLAN)
    assert list(selection) == shards
    assert str(selection) == canonical
    assert len(selection) == len(shards)
    assert [index for index in range(30) if index in selection] == shards
    assert selection.samples(PLAN) == sum(PLAN[index].count for index in shards)


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "-", "1--2", "1.5", "30", "0-30", "5-3", "9" * 9, "²"]
)
def test_what_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="shards") as caught:
        parse_selection(text, PLAN)
    assert len(str(caught.value).splitlines()) == 1


@given(st.sets(st.integers(0, 29), min_size=1), st.sets(st.integers(0, 29), min_size=1))
def test_both_together(one: set[int], other: set[int]) -> None:
    first, second = (parse_selection(",".join(map(str, each)), PLAN) for each in (one, other))
    assert set(first | second) == one | other
    assert parse_selection(str(first | second), PLAN) == first | second
    assert selection_from_json(first.to_json().encode(), PLAN, "s") == first


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"shards": "99"}', b'{"shards": 5.5}', b"\xff"])
def test_a_damaged_selection(text: bytes) -> None:
    with pytest.raises(DatasetError, match=r"selection\.json is (damaged|not valid JSON)"):
        selection_from_json(text, PLAN, "selection.json")
