"""Fields of the ledger's entries, read with distrust: whoever can write to Redis can put anything there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.common.counts import MAX_EXACT
from pipeline.common.errors import LedgerError, shown
from pipeline.common.text import is_one_line, one_line_of

#: What Lua, or Redis within it, says of a value that is of another type than it has to be.
_OF_ANOTHER_TYPE = re.compile(
    "^WRONGTYPE|attempt to (compare|perform arithmetic|concatenate|index|call)|not an integer|not a valid float"
    "|bad argument|increment or decrement would overflow|would produce NaN or Infinity"
)


class DamagedEntryError(LedgerError):
    """What the ledger holds of a job is not what noisemill wrote there."""

    def __init__(self, job_id: str, what: str) -> None:
        super().__init__(
            f"the ledger's entry of job {one_line_of(job_id)} is damaged: {what}; "
            "'noisemill resume DEST' makes it anew from what lies at the destination"
        )


def is_of_another_type(error: Exception) -> bool:
    """Whether Redis refused because a value in the ledger is of another type than noisemill gave it."""
    return _OF_ANOTHER_TYPE.search(str(error)) is not None


class Fields:
    """The fields of one job's entry. Every method raises DamagedEntryError for a value that cannot be."""

    def __init__(self, job_id: str, flat: Sequence[str]) -> None:
        self._job_id = job_id
        self._fields: Mapping[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._fields)

    def text(self, name: str, default: str | None = None, longest: int = 4096) -> str:
        """One line of printable text."""
        value = self._fields.get(name, default)
        if value is None or len(value) > longest or not is_one_line(value):
            raise self.damaged(name, value)
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of these words."""
        value = self.text(name)
        if value not in choices:
            raise self.damaged(name, value)
        return value

    def words(self, name: str) -> str | None:
        """An error's words, which are shown to people; None where there are none."""
        value = self._fields.get(name)
        return None if value is None else one_line_of(value)

    def whole(self, name: str, default: int | None = None, most: int = MAX_EXACT) -> int:
        """A whole number from 0 to `most`."""
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        return self.number(name, value, most)

    def number(self, name: str, value: str | None, most: int = MAX_EXACT) -> int:
        """The whole number that a value of field `name` is."""
        if value is None or not re.fullmatch("[0-9]{1,16}", value) or int(value) > most:
            raise self.damaged(name, value)
        return int(value)

    def seconds(self, name: str) -> float | None:
        """A Unix time in seconds, stored as milliseconds; None where there is none."""
        return self.whole(name) / 1000 if name in self._fields else None

    def durations(self, prefix: str) -> dict[str, float]:
        """Seconds by what follows the prefix."""
        return {
            name.removeprefix(prefix): self._duration(name, value)
            for name, value in self._fields.items()
            if name.startswith(prefix)
        }

    def damaged(self, name: str, value: Any) -> DamagedEntryError:
        """The error that names a field and its value."""
        return DamagedEntryError(self._job_id, f"{name} is {shown(value)}")

    def _duration(self, name: str, value: str) -> float:
        try:
            seconds = float(value)
        except ValueError:
            raise self.damaged(name, value) from None
        if not 0 <= seconds < math.inf:
            raise self.damaged(name, value)
        return seconds
