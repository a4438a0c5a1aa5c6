"""Names in any script are taken; what could deceive a reader is not."""

import pytest

from pipeline.common.text import is_one_line, one_line_of


@pytest.mark.parametrize(
    "text",
    [
        "家族\u3000写真", "a\u00a0b", "\u0645\u06cc\u200c\u062e\u0648", "क\u094d\u200dष", "👨\u200d👩",
        "co\u00adop", "x\u200fy", "plain", "",
    ],
)  # fmt: skip
def test_ordinary_names_are_taken(text: str) -> None:
    assert is_one_line(text)
    assert one_line_of(text) == text


@pytest.mark.parametrize(
    "character", ["\n", "\x1b", "\x00", "\u2028", "\u202e", "\u2066", "\ud800", "\ue000", "\u0378"]
)
def test_what_moves_a_cursor_or_turns_a_text_is_not(character: str) -> None:
    assert not is_one_line(f"a{character}b")
    assert one_line_of(f"a{character}b") == "a\ufffdb"
