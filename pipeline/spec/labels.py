"""Label plans: the class of sample i, as a function of i alone.

balanced            i mod classes
class:K             one class, by number or name
counts:0=100,3=50   this number of each, in this order; the counts add up to the job's
random              uniform, from the job's seed
file:SHA256         `labels.npy` at the destination (int32, one per sample), identified by its hash
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError
from pipeline.common.quantities import parse_count
from pipeline.spec.latents import random_labels

Labels = NDArray[np.int32]


class LabelPlan(Protocol):
    """Labels of any range of samples."""

    def labels(self, first: int, count: int) -> Labels:
        """Labels of samples `first` to `first + count - 1`, int32 of shape (count,)."""
        ...


@dataclass(frozen=True)
class Balanced:
    """Classes in turn."""

    classes: int

    def labels(self, first: int, count: int) -> Labels:
        """Sample index modulo the number of classes."""
        return (np.arange(first, first + count) % self.classes).astype(np.int32)


@dataclass(frozen=True)
class OneClass:
    """One class for all."""

    label: int

    def labels(self, first: int, count: int) -> Labels:
        """The same label `count` times."""
        return np.full(count, self.label, dtype=np.int32)


@dataclass(frozen=True)
class Counts:
    """A number of samples of each class, one class after the other."""

    counts: tuple[tuple[int, int], ...]

    def labels(self, first: int, count: int) -> Labels:
        """The label whose range contains the index."""
        ends = list(accumulate(number for _, number in self.counts))
        position = np.searchsorted(ends, np.arange(first, first + count), side="right")
        return np.array([label for label, _ in self.counts], dtype=np.int32)[position]


@dataclass(frozen=True)
class RandomClasses:
    """Uniform over the classes, from the seed."""

    seed: int
    classes: int

    def labels(self, first: int, count: int) -> Labels:
        """Drawn from a stream of their own."""
        return random_labels(self.seed, first, count, self.classes)


def label_plan(text: str, *, classes: int, seed: int) -> LabelPlan:
    """The plan of a canonical text (see `canonical_labels`), except for files, which the dataset reads."""
    kind, _, rest = text.partition(":")
    if kind == "balanced":
        return Balanced(classes)
    if kind == "random":
        return RandomClasses(seed, classes)
    if kind == "class":
        return OneClass(int(rest))
    pairs = (pair.split("=") for pair in rest.split(","))
    return Counts(tuple((int(label), int(number)) for label, number in pairs))


def canonical_labels(text: str, class_names: Sequence[str]) -> str:
    """The canonical form of a plan for a spec: classes by number, counts in the order given.

    Raises UsageError for an unknown plan, a class that the generator does not have, or counts below 1.
    """
    kind, _, rest = text.strip().partition(":")
    if kind in ("balanced", "random") and not rest:
        return kind
    if kind == "class" and rest:
        return f"class:{_class_number(rest, class_names)}"
    if kind == "counts" and rest:
        return "counts:" + ",".join(_canonical_pair(pair, class_names) for pair in rest.split(","))
    raise UsageError(
        f"label plan {text!r} is unknown: use balanced, random, class:K, counts:K=100,L=50 or a file of labels"
    )


def planned_count(text: str) -> int | None:
    """The number of samples of a canonical plan; None if it fits any number."""
    if not text.startswith("counts:"):
        return None
    return sum(int(pair.partition("=")[2]) for pair in text.removeprefix("counts:").split(","))


def _canonical_pair(pair: str, class_names: Sequence[str]) -> str:
    name, equals, number = pair.rpartition("=")
    if not equals:
        raise UsageError(f"labels: {pair!r} is not CLASS=COUNT")
    return f"{_class_number(name, class_names)}={parse_count(number, f'labels {pair!r}: count')}"


def _class_number(text: str, class_names: Sequence[str]) -> int:
    wanted = text.strip()
    if re.fullmatch("[0-9]{1,9}", wanted):
        if int(wanted) < len(class_names):
            return int(wanted)
        raise UsageError(f"labels: class {wanted} does not exist, the generator has 0 to {len(class_names) - 1}")
    known = {name.lower(): number for number, name in enumerate(class_names)}
    if wanted.lower() in known:
        return known[wanted.lower()]
    near = difflib.get_close_matches(wanted.lower(), known, n=1)
    hint = f", did you mean {class_names[known[near[0]]]!r}?" if near else f": use one of {', '.join(class_names)}"
    raise UsageError(f"labels: class {wanted!r} is unknown{hint}")
