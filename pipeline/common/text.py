"""Text from elsewhere that is shown to people: names and messages in any script, without control characters."""

from __future__ import annotations

import unicodedata

#: Control characters, halves of surrogate pairs, characters for private use or that do not exist, ends of lines.
_REFUSED = frozenset(("Cc", "Cs", "Co", "Cn", "Zl", "Zp"))
#: Characters that turn the direction of what follows them, so that a text looks like another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_one_line(text: str) -> bool:
    """Whether a text is one line that can be shown.

    Unlike `str.isprintable` it admits what scripts need in ordinary words and names: joiners, marks of direction,
    ideographic and no-break spaces, soft hyphens.
    """
    return text.isprintable() or all(map(_is_shown, text))


def one_line_of(text: str) -> str:
    """The text with a replacement character for each that cannot be shown."""
    return "".join(character if _is_shown(character) else "\ufffd" for character in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _REFUSED and character not in _TURNING
