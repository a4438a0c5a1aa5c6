"""What a benchmark finds: figures with their spread, as a table, as JSON and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One case, measured several times, each time beside what it is compared with."""

    #: "npy float32, local disk".
    case: str
    #: What each run is divided by, "bare forward pass"; empty for absolute values.
    against: str = ""
    #: "x" for ratios; else the unit of the values, "s".
    unit: str = "x"
    #: Ratios, or values in `unit`, in the order in which they were measured.
    values: list[float]
    #: What is to be reached: at least, or at most where smaller is better; None where nothing is promised.
    reach: float | None = None
    smaller_is_better: bool = False
    #: Samples per second of each run, where that is what was measured.
    rates: list[float] = field(default_factory=list)
    #: One line about the case, for the table.
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    def text(self, value: float) -> str:
        """A value as the table shows it."""
        return f"{value:.3f}" if self.unit == "x" and value < 10 else f"{value:,.3g} {self.unit}"

    def row(self) -> list[str]:
        """Its row in the table."""
        spread = f"{self.text(min(self.values))} to {self.text(max(self.values))}" if len(self.values) > 1 else ""
        reach = "" if self.reach is None else f"{'at most ' if self.smaller_is_better else ''}{self.text(self.reach)}"
        rate = f"{statistics.median(self.rates):,.0f}" if self.rates else ""
        return [self.case, rate, self.text(self.median), spread, reach]


HEADINGS = ["case", "samples/s", "median", "least to most", "reach"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one benchmark found."""

    #: "End to end against the bare forward pass".
    title: str
    figures: list[Figure]
    #: What must be known to read them, one sentence each.
    notes: list[str] = field(default_factory=list)
    #: All else worth keeping, for the JSON.
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a benchmark measures."""

    #: How often each case runs, interleaved with the others.
    rounds: int
    #: Share of the full number of samples that each run makes.
    share: float

    def samples(self, full: int) -> int:
        """So many samples, at least 512."""
        return max(512, round(full * self.share))


FULL = Effort(rounds=3, share=1.0)
#: Enough to see that everything runs; the figures mean nothing.
TINY = Effort(rounds=1, share=0.0)

Benchmark = Callable[[Effort], Result]


def markdown(result: Result) -> str:
    """The result as a section of a page."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(figure.row() for figure in result.figures)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([f"### {result.title}", table, *result.notes]) + "\n"


def plain(result: Result) -> str:
    """The result for a terminal."""
    rows = [HEADINGS, *(figure.row() for figure in result.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([result.title, *lines, *result.notes])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The first column to the left, the others to the right."""
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
