"""`[about]` of generator.toml: where a generator comes from. Recorded with its datasets; no sample depends on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.common.errors import shown
from pipeline.common.text import is_one_line

#: Most characters of a field, and most authors.
_LONGEST, _MOST_AUTHORS = 1000, 100


@dataclass(frozen=True, kw_only=True)
class About:
    """License and provenance of a generator, as its author states them; empty if unknown."""

    #: Of the weights; best an SPDX identifier, such as "MIT" or "CC-BY-4.0", or the URL of a license.
    license: str = ""
    #: What it was trained on, in one line, with the license of that data.
    data: str = ""
    authors: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self != _UNKNOWN

    def as_json(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value}


_UNKNOWN = About()


def read_about(table: Any) -> About:
    """From a table of generator.toml or the JSON of a manifest. Raises ValueError."""
    if not isinstance(table, dict):
        raise ValueError(f"about is {shown(table)}: write [about] and license, data or authors below it")
    if unknown := sorted(map(str, set(table) - {"license", "data", "authors"})):
        raise ValueError(f"unknown about.{unknown[0]}: [about] takes license, data and authors")
    authors = table.get("authors", [])
    authors = [authors] if isinstance(authors, str) else authors
    if not isinstance(authors, list) or len(authors) > _MOST_AUTHORS:
        raise ValueError(f"[about] authors {shown(authors)} is not a list of at most {_MOST_AUTHORS} names")
    for value in (table.get("license", "-"), table.get("data", "-"), *authors):
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not is_one_line(value):
            raise ValueError(f"[about] {shown(value)} is not one line of at most {_LONGEST:,} characters")
    return About(license=table.get("license", ""), data=table.get("data", ""), authors=tuple(authors))
