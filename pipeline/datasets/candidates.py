"""Which of several candidates became each sample (`--best-of`), and the scores that the judge gave.

A receipt holds the winners of its shard as bits: 3 per sample for 8 candidates, half a megabyte of base64 for a million
samples. The latent of sample i is then known: that of index i * best_of + winner.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import SampleError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores by class, in the order of the labels; a single entry without classes. 0 for a class without samples."""

    #: Mean score of all candidates, and of the winners.
    candidates: tuple[float, ...]
    winners: tuple[float, ...]
    #: Candidates, and winners, below the minimum score; None without one.
    candidates_below: tuple[int, ...] | None
    winners_below: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates of one shard's samples."""

    #: `pack` of the winners, the number of bits that `bits_of` says.
    winners: str
    #: `pack` of one bit per sample: whether its score is below the minimum; None without a minimum.
    below: str | None
    #: None if an export has divided the samples into other shards: losers' scores are not recorded one by one.
    scores: Scores | None

    @property
    def sha256(self) -> str:
        """Hash over winners and marks, for the index of shards."""
        return hashlib.sha256(f"{self.winners} {self.below}".encode()).hexdigest()


class CandidateStatistics:
    """Collects winners and scores of a shard, batch by batch."""

    def __init__(self, best_of: int, min_score: float | None, classes: int | None) -> None:
        self._best_of, self._min_score = best_of, min_score
        self._winners: list[NDArray[np.int32]] = []
        self._below: list[NDArray[np.bool_]] = []
        self._samples = np.zeros(classes or 1, np.int64)
        self._sums = np.zeros((2, classes or 1))
        self._counts = np.zeros((2, classes or 1), np.int64)

    def add(
        self,
        winners: NDArray[np.int32],
        scores: NDArray[np.float64],
        labels: NDArray[np.int32] | None,
        first: int,
    ) -> None:
        """Adds a batch: winners (n,), scores (n, best_of), labels (n,); `first` is the index of row 0.

        Raises SampleError for a sample of which no candidate has a score.
        """
        own = scores[np.arange(len(winners)), winners]
        if np.isnan(own).any():
            bad = first + int(np.flatnonzero(np.isnan(own))[0])
            raise SampleError(f"the judge gives NaN to all candidates: sample {bad} is the first")
        labels = np.zeros(len(winners), np.int32) if labels is None else labels
        known = np.where(np.isnan(scores), own[:, None], scores).clip(-1e300, 1e300)
        self._winners.append(winners)
        self._samples += np.bincount(labels, minlength=len(self._samples))
        least = -np.inf if self._min_score is None else self._min_score
        for row, values in enumerate((known, own[:, None].clip(-1e300, 1e300))):
            self._sums[row] += np.bincount(labels, values.mean(axis=1), minlength=len(self._samples))
            below = (values < least).sum(axis=1)
            self._counts[row] += np.bincount(labels, below, minlength=len(self._samples)).astype(np.int64)
        self._below.append(own < least)

    def result(self) -> Candidates:
        """The record of all batches added."""
        means = self._sums / np.maximum(self._samples, 1)
        below = None if self._min_score is None else self._counts
        return Candidates(
            winners=pack(np.concatenate(self._winners), bits_of(self._best_of)),
            below=None if below is None else pack(np.concatenate(self._below).astype(np.int32), 1),
            scores=Scores(
                candidates=tuple(means[0].tolist()),
                winners=tuple(means[1].tolist()),
                candidates_below=None if below is None else tuple(below[0].tolist()),
                winners_below=None if below is None else tuple(below[1].tolist()),
            ),
        )


def bits_of(best_of: int) -> int:
    """Bits per winner."""
    return max(1, (best_of - 1).bit_length())


def pack(numbers: NDArray[np.int32], bits: int) -> str:
    """Numbers of this many bits each, one after another, the highest bit first; in base64."""
    each = (numbers[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return base64.b64encode(np.packbits(each.astype(np.uint8)).tobytes()).decode()


def unpack(text: str, count: int, bits: int) -> NDArray[np.int32]:
    """The numbers that `pack` wrote, int32 (count,). Raises ValueError if they are not as many."""
    data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"{len(data)} bytes for {count:,} samples")
    each = np.unpackbits(data)[: count * bits].reshape(count, bits).astype(np.int32)
    numbers: NDArray[np.int32] = each @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int32))
    return numbers


def merged_scores(each: Sequence[tuple[Scores, Sequence[int]]]) -> Scores:
    """Scores of several shards together; each with its samples by class."""
    samples = np.array([counts for _, counts in each], np.float64)
    totals = np.maximum(samples.sum(axis=0), 1)

    def mean(name: str) -> tuple[float, ...]:
        values = np.array([getattr(scores, name) for scores, _ in each])
        return tuple(((values * samples).sum(axis=0) / totals).tolist())

    def total(name: str) -> tuple[int, ...] | None:
        values = [getattr(scores, name) for scores, _ in each]
        return None if None in values else tuple(map(sum, zip(*values, strict=True)))

    return Scores(
        candidates=mean("candidates"),
        winners=mean("winners"),
        candidates_below=total("candidates_below"),
        winners_below=total("winners_below"),
    )


def candidates_of(data: dict[str, Any]) -> Candidates:
    """From the result of `asdict`. Raises ValueError, TypeError or KeyError."""
    if not isinstance(data["winners"], str) or not isinstance(data["below"], str | None):
        raise ValueError("winners are not text")
    return Candidates(**{**data, "scores": None if data["scores"] is None else scores_record(data["scores"])})


def scores_record(data: dict[str, Any]) -> Scores:
    """From the result of `asdict`. Raises ValueError, TypeError or KeyError."""
    values: dict[str, Any] = {name: None if value is None else tuple(value) for name, value in data.items()}
    scores = Scores(**values)
    for means in (scores.candidates, scores.winners):
        if not all(type(number) in (int, float) and abs(number) <= 1e300 for number in means):
            raise ValueError("scores are not numbers")
    for counts in (scores.candidates_below, scores.winners_below):
        if not all(type(number) is int and number >= 0 for number in counts or ()):
            raise ValueError("samples below the minimum score are not counted")
    return scores
