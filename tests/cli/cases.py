"""How many bad inputs were tried: told at the end of a run."""

from __future__ import annotations

from collections import Counter

#: Cases by kind, in this process.
TRIED: Counter[str] = Counter()
