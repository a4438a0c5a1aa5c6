"""The order in which a stream makes samples: shard by shard, from any position, shared among ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.spec.plan import Plan, Shard

#: Samples that one rank makes before it is the next rank's turn: about this number.
_TURN = 1024


@dataclass(frozen=True)
class Piece:
    """Samples that are computed together, as in the dataset: at most a batch, aligned to the start of its shard."""

    #: Index of the first sample in the dataset, and the number of samples.
    first: int
    count: int
    #: The number of samples at its start that are not wanted.
    skip: int
    #: Position in the stream of the first one that is wanted.
    position: int


@dataclass(frozen=True, kw_only=True)
class Order:
    """Positions count the samples of all epochs and ranks; position p is sample p where nothing is shuffled."""

    #: The first position.
    first: int = 0
    #: Passes over the dataset; None repeats it for ever.
    epochs: int | None = 1
    #: Seed of a random order of the shards, another one in each epoch; None keeps their order.
    shuffle: int | None = None
    rank: int = 0
    world_size: int = 1

    def pieces(self, plan: Plan, batch: int, turn: int) -> Iterator[Piece]:
        """The pieces of this rank, in order. Ranks take turns of `turn` samples within each shard."""
        turns_per_shard = -(-plan.shard_size // turn)
        turns_per_epoch = (len(plan) - 1) * turns_per_shard + -(-plan[len(plan) - 1].count // turn)
        begun = self.first // plan.count
        for epoch in itertools.count(begun) if self.epochs is None else range(begun, self.epochs):
            position, number = epoch * plan.count, epoch * turns_per_epoch
            for shard in self._shards(plan, epoch):
                turns = -(-shard.count // turn)
                if position + shard.count > self.first:
                    mine = range((self.rank - number) % self.world_size, turns, self.world_size)
                    for start in (each * turn for each in mine):
                        yield from self._turn(shard, range(start, min(start + turn, shard.count)), batch, position)
                position, number = position + shard.count, number + turns

    def _shards(self, plan: Plan, epoch: int) -> Iterator[Shard]:
        if self.shuffle is None:
            return iter(plan)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.shuffle, epoch])))
        return (plan[int(index)] for index in random.permutation(len(plan)))

    def _turn(self, shard: Shard, rows: range, batch: int, position: int) -> Iterator[Piece]:
        for start in range(rows.start, rows.stop, batch):
            count = min(batch, rows.stop - start)
            skip = max(0, self.first - position - start)
            if skip < count:
                yield Piece(first=shard.first + start, count=count, skip=skip, position=position + start + skip)


def turn_of(batch: int) -> int:
    """Samples of a turn, whole batches of this size; 0 stands for a batch that the device decides, a power of two.

    Depends on the job alone, so that ranks on different machines agree.
    """
    return batch * max(1, _TURN // batch) if batch else _TURN
