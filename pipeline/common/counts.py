"""Numbers that people give: their bounds, and how counts are written."""

from __future__ import annotations

import re

from pipeline.common.errors import UsageError, shown

#: Seeds fill one 32-bit word of the random streams' entropy; with two, seed 5 at block 1 would equal
#: seed 5 + 2**32 at block 0.
MAX_SEED = 2**32 - 1

#: Lua, and JSON in many a language, counts exactly up to here.
MAX_EXACT = 2**53

#: Most samples of one forward pass.
MAX_BATCH = 2**20

#: Most samples of one shard: labels and receipt of a shard are held in memory.
MAX_SHARD_SIZE = 10**7

#: Most workers of one job, and most that are started on one machine.
MAX_WORKERS = 1024

#: Most datasets that a schedule can keep.
MAX_KEPT = 100_000

#: Block numbers fill one word too.
MAX_COUNT = 10**12

#: Commas stand before groups of three alone: "1,5k" may be meant as 1.5k, and is refused.
_COUNT = r"((?:[0-9][0-9_]{0,30}|[0-9]{1,3}(?:,[0-9]{3}){1,6})(?:\.[0-9]{1,12})?)\s*([kmg]?)"

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_count(text: str, what: str = "count") -> int:
    """A number of samples as people write it: `10000`, `10_000`, `10,000`, `10k`, `1.5M`, `1G`.

    Raises UsageError if it is no whole number of at least 1.
    """
    match = re.fullmatch(_COUNT, text.strip().lower())
    if not match:
        raise UsageError(f"{what} {shown(text)} is not a number: use for example 10000, 10_000, 10k or 1M")
    whole, _, fraction = match[1].replace("_", "").replace(",", "").partition(".")
    unit: int = _UNITS[match[2]]
    value, rest = divmod(int(whole + fraction) * unit, int(10 ** len(fraction)))
    if rest:
        raise UsageError(f"{what} {text!r} is not a whole number")
    if not 1 <= value <= MAX_COUNT:
        raise UsageError(f"{what} {text!r} must be between 1 and {MAX_COUNT:,}")
    return value


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them: `0.5,1`. Raises ValueError where one is none."""
    return tuple(map(float, text.split(",")))
