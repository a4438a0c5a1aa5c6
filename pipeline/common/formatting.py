"""Numbers formatted for people."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people: 31.4 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def shard_count(count: int) -> str:
    """1 shard, 2 shards."""
    return "1 shard" if count == 1 else f"{count:,} shards"


def duration(seconds: float) -> str:
    """Time for people: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rate(samples_per_s: float | None) -> str:
    """Samples per second for people."""
    return "-" if samples_per_s is None else f"{samples_per_s:,.0f}/s"
