"""A selection of a plan's shards, such as 17,20-25."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.common.errors import DatasetError, UsageError, shown
from pipeline.spec.plan import Plan
from pipeline.stores.records import parse_record


@dataclass(frozen=True)
class Selection:
    """Shards by index: ordered ranges without overlap, with a gap between each two."""

    ranges: tuple[range, ...]

    def __len__(self) -> int:
        """Number of shards."""
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[int]:
        """Indices in order."""
        return (index for each in self.ranges for index in each)

    def __contains__(self, index: int) -> bool:
        """Whether a shard is among them."""
        return any(index in each for each in self.ranges)

    def __str__(self) -> str:
        """The canonical form, which `parse_selection` reads."""
        return ",".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in self.ranges)

    def __or__(self, other: Selection) -> Selection:
        """The shards of both."""
        return _merged([*self.ranges, *other.ranges])

    def to_json(self) -> str:
        """The content of selection.json at a destination with only these shards."""
        return json.dumps({"shards": str(self)}) + "\n"

    def samples(self, plan: Plan) -> int:
        """Number of samples in these shards."""
        short = plan.shard_size - plan[len(plan) - 1].count if len(plan) - 1 in self else 0
        return len(self) * plan.shard_size - short


def parse_selection(text: str, plan: Plan) -> Selection:
    """Parses "17,20-25", ends included. Raises UsageError for another form, or shards not in the plan."""
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,8})\s*(?:-\s*([0-9]{1,8})\s*)?", part)
        if match is None:
            raise UsageError(f"shards {shown(text)}: {shown(part)} is no shard and no range: write 17,20-25")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"shards {shown(text)}: {part.strip()} goes backwards: write {last}-{first}")
        if last >= len(plan):
            raise UsageError(f"shards {shown(text)}: there is no shard {last}, they are 0 to {len(plan) - 1}")
        ranges.append(range(first, last + 1))
    return _merged(ranges)


def selection_from_json(text: bytes, plan: Plan, source: str) -> Selection:
    """The selection that `to_json` wrote. Raises DatasetError that names `source`."""
    record = parse_record(text, source)
    try:
        return parse_selection(str(record["shards"]), plan)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{source} is damaged: {error}") from None


def _merged(ranges: Iterable[range]) -> Selection:
    merged: list[range] = []
    for each in sorted(ranges, key=lambda each: each.start):
        if merged and each.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, each.stop))
        else:
            merged.append(each)
    return Selection(tuple(merged))
