"""The order of a stream: every sample once, from any position, shared among ranks, aligned as in the dataset."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.order import Order, Piece, turn_of
from pipeline.spec.plan import Plan

PLANS = st.builds(Plan, count=st.integers(1, 400), shard_size=st.integers(1, 150))
BATCHES = st.integers(1, 40)


def wanted(pieces: list[Piece]) -> list[int]:
    """The samples that pieces make, in order."""
    return [index for each in pieces for index in range(each.first + each.skip, each.first + each.count)]


def positions(pieces: list[Piece]) -> list[int]:
    return [each.position + row for each in pieces for row in range(each.count - each.skip)]


@given(plan=PLANS, batch=BATCHES, turns=st.integers(1, 4), first=st.integers(0, 500), epochs=st.integers(1, 3))
def test_position_p_is_sample_p(plan: Plan, batch: int, turns: int, first: int, epochs: int) -> None:
    pieces = list(Order(first=first, epochs=epochs).pieces(plan, batch, batch * turns))
    assert wanted(pieces) == [place % plan.count for place in range(first, epochs * plan.count)]
    assert positions(pieces) == list(range(first, epochs * plan.count))


@given(plan=PLANS, batch=BATCHES, first=st.integers(0, 300), seed=st.integers(0, 99), world=st.integers(1, 5))
def test_ranks_share_every_sample_once(plan: Plan, batch: int, first: int, seed: int, world: int) -> None:
    def pieces(rank: int, world_size: int, first: int = 0) -> list[Piece]:
        order = Order(first=first, epochs=2, shuffle=seed, rank=rank, world_size=world_size)
        return list(order.pieces(plan, batch, 2 * batch))

    whole = dict(zip(positions(pieces(0, 1)), wanted(pieces(0, 1)), strict=True))
    assert sorted(whole) == list(range(2 * plan.count))
    assert Counter(whole.values()) == dict.fromkeys(range(plan.count), 2)
    shares = [pieces(rank, world, first) for rank in range(world)]
    together = [pair for each in shares for pair in zip(positions(each), wanted(each), strict=True)]
    assert sorted(together) == sorted(pair for pair in whole.items() if pair[0] >= first)


@given(plan=PLANS, batch=BATCHES, first=st.integers(0, 300), seed=st.integers(0, 99), rank=st.integers(0, 2))
def test_batches_are_those_of_the_dataset(plan: Plan, batch: int, first: int, seed: int, rank: int) -> None:
    for piece in Order(first=first, shuffle=seed, rank=rank, world_size=3).pieces(plan, batch, 3 * batch):
        shard = plan[piece.first // plan.shard_size]
        assert (piece.first - shard.first) % batch == 0
        assert piece.count == min(batch, shard.first + shard.count - piece.first)
        assert 0 <= piece.skip < piece.count


def test_epochs_are_shuffled_in_different_ways() -> None:
    plan = Plan(count=100, shard_size=5)
    made = wanted(list(Order(shuffle=3, epochs=2).pieces(plan, 5, 5)))
    assert made[:100] != made[100:]
    assert made[:100] != list(range(100))
    assert wanted(list(Order(shuffle=3, epochs=2, first=100).pieces(plan, 5, 5))) == made[100:]
    assert wanted(list(Order(shuffle=4).pieces(plan, 5, 5))) != made[:100]


def test_an_endless_order_can_begin_anywhere() -> None:
    pieces = Order(epochs=None, first=10**12 + 3).pieces(Plan(count=10, shard_size=4), 4, 4)
    assert [next(pieces).first for _ in range(3)] == [0, 4, 8]


@pytest.mark.parametrize(("batch", "turn"), [(0, 1024), (64, 1024), (512, 1024), (100, 1000), (1500, 1500), (1, 1024)])
def test_a_turn_is_of_whole_batches(batch: int, turn: int) -> None:
    assert turn_of(batch) == turn
