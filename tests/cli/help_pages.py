"""The pages of `--help` in docs/usage.md: `python -m tests.cli.help_pages` writes them as the commands print them."""

from __future__ import annotations

import re
from pathlib import Path

import click

from pipeline.cli import noisemill

PAGE = Path(__file__).parents[2] / "docs" / "usage.md"

#: What stands around a page: a comment that names the command, and a fence.
_BLOCK = re.compile(r"(<!-- help: ([a-z ]+) -->\n```text\n)(.*?)(```\n)", re.DOTALL)

#: What click leaves of a terminal of 80 columns.
WIDTH = 78


def commands(group: click.Group = noisemill, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand, by the words that call it, in the order of `noisemill --help`."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def help_text(words: tuple[str, ...]) -> str:
    """What `noisemill WORDS --help` prints on a terminal of 80 columns."""
    context = click.Context(noisemill, info_name="noisemill", terminal_width=WIDTH, help_option_names=["-h", "--help"])
    for word in words:
        group = context.command
        assert isinstance(group, click.Group)
        command = group.get_command(context, word)
        assert command is not None, word
        context = click.Context(command, parent=context, info_name=word)
    return context.get_help() + "\n"


def embedded(page: str) -> dict[str, str]:
    """The pages of help that a document holds, by the words of their commands."""
    return {match[2]: match[3] for match in _BLOCK.finditer(page)}


def refreshed(page: str) -> str:
    """A document with its pages of help as they are now."""
    return _BLOCK.sub(lambda match: match[1] + help_text(tuple(match[2].split())) + match[4], page)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
