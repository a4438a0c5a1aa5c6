"""Validated fields of the ledger's entries. They are untrusted input: anyone may have written them to Redis."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.common.errors import LedgerError, shown
from pipeline.common.quantities import MAX_EXACT
from pipeline.common.text import is_one_line, one_line_of

#: Errors of Lua, or of Redis called by it, for a value of the wrong type.
_OF_ANOTHER_TYPE = re.compile(
    "^WRONGTYPE|attempt to (compare|perform arithmetic|concatenate|index|call)|not an integer|not a valid float"
    "|bad argument|increment or decrement would overflow|would produce NaN or Infinity"
)


class DamagedEntryError(LedgerError):
    """A job's entry in the ledger is not one that noisemill wrote."""

    def __init__(self, job_id: str, what: str) -> None:
        super().__init__(
            f"the ledger's entry of job {one_line_of(job_id)} is damaged: {what}; "
            "'noisemill resume DEST' enters it again from its destination"
        )


def is_of_another_type(error: Exception) -> bool:
    """Whether Redis refused because a value in the ledger has the wrong type."""
    return _OF_ANOTHER_TYPE.search(str(error)) is not None


class Fields:
    """The fields of one job's entry. Every method raises DamagedEntryError for an invalid value."""

    def __init__(self, job_id: str, flat: Sequence[str]) -> None:
        self._job_id = job_id
        self._fields: Mapping[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))

    def __bool__(self) -> bool:
        """Whether there are any fields."""
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
        """The text of an error; None if there is none."""
        value = self._fields.get(name)
        return None if value is None else one_line_of(value)

    def whole(self, name: str, default: int | None = None, most: int = MAX_EXACT) -> int:
        """An integer from 0 to `most`."""
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        return self.number(name, value, most)

    def number(self, name: str, value: str | None, most: int = MAX_EXACT) -> int:
        """A value of field `name` as an integer from 0 to `most`."""
        if value is None or not re.fullmatch("[0-9]{1,16}", value) or int(value) > most:
            raise self.damaged(name, value)
        return int(value)

    def seconds(self, name: str) -> float | None:
        """A Unix time in seconds, stored as milliseconds; None if there is none."""
        return self.whole(name) / 1000 if name in self._fields else None

    def durations(self, prefix: str) -> dict[str, float]:
        """Seconds by field name without the prefix."""
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
