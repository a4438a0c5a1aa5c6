"""Untrusted text for display: names and messages in any script, without control characters."""

from __future__ import annotations

import unicodedata

#: Control characters, surrogates, private-use and unassigned characters, line separators.
_REFUSED = frozenset(("Cc", "Cs", "Co", "Cn", "Zl", "Zp"))
#: Characters that override the direction of the following text, so that it looks like another.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_one_line(text: str) -> bool:
    """Whether a text is one displayable line.

    Unlike `str.isprintable` it allows characters that ordinary words need in some scripts: joiners, direction marks,
    ideographic and no-break spaces, soft hyphens.
    """
    return text.isprintable() or all(map(_is_shown, text))


def one_line_of(text: str) -> str:
    """The text with replacement characters for those that cannot be displayed."""
    return "".join(character if _is_shown(character) else "\ufffd" for character in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _REFUSED and character not in _TURNING
