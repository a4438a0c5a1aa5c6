"""What the README and the docs tell people to type must exist; what they link to must be there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.cli import noisemill

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Lines of code blocks that call noisemill, without what a shell would take for a comment."""
    text = page.read_text()
    fenced = "\n".join(re.findall(r"^```(?:sh|console|bash)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    indented = "\n".join(re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE))
    calls = r"^(?:\$ )?(?:\.venv/bin/)?(noisemill [a-z-].*)$"
    return [line for block in (fenced, indented) for line in re.findall(calls, block, flags=re.MULTILINE)]


ALL = list(dict.fromkeys((page.name, line) for page in PAGES for line in commands(page)))


def test_there_are_commands_to_check() -> None:
    assert len([line for name, line in ALL if name == "README.md"]) >= 10


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = noisemill
    # click keeps the help option that it makes first, so its names must be those of the real command.
    context = click.Context(noisemill, **noisemill.context_settings)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{page}: there is no command {words[0]!r}"
        command, words = found, words[1:]
    if not set(words) & {"--help", "--version"}:
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_make_knows_the_targets_that_are_told() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    told = set(re.findall(r"^    make ([a-z]+)", text, flags=re.MULTILINE))
    assert {"demo", "test"} <= told <= targets
