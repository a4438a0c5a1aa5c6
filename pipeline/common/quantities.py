"""Numbers given by users: their bounds, and the syntax of counts."""

from __future__ import annotations

import re

from pipeline.common.errors import UsageError, shown

#: Seeds fill one 32-bit word of the random streams' entropy; with two, seed 5 at block 1 would equal
#: seed 5 + 2**32 at block 0.
MAX_SEED = 2**32 - 1

#: Largest integer that Lua, and JSON in many languages, represents exactly.
MAX_EXACT = 2**53

#: Most samples of one forward pass.
MAX_BATCH = 2**20

#: Most samples of one shard, whose labels and receipt are held in memory.
MAX_SHARD_SIZE = 10**7

#: Most workers of one job, and most that are started on one machine.
MAX_WORKERS = 1024

#: Most datasets that a schedule can keep.
MAX_KEPT = 100_000

#: Most candidates per sample: the number of a candidate is stored in a byte or less.
MAX_BEST_OF = 256

#: Block numbers must fit into one 32-bit word too.
MAX_COUNT = 10**12

#: Commas are allowed before groups of three digits only: "1,5k" may mean 1.5k, and is refused.
_COUNT = r"((?:[0-9][0-9_]{0,30}|[0-9]{1,3}(?:,[0-9]{3}){1,6})(?:\.[0-9]{1,12})?)\s*([kmg]?)"

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_count(text: str, what: str = "count") -> int:
    """Parses a number of samples: `10000`, `10_000`, `10,000`, `10k`, `1.5M`, `1G`.

    Raises UsageError unless it is a whole number of at least 1.
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
    """Parses numbers separated by commas: `0.5,1`. Raises ValueError if one is invalid."""
    return tuple(map(float, text.split(",")))
