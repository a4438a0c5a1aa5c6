"""Options in sections of `--help`: a command with thirty options is read by what they are about."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

#: The section of the options that name none; it comes last.
_OTHERS = "Options"


class _SectionOption(click.Option):
    """An option with the title of its section."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help shows a section of options after another, in the order in which they first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            # Arguments have no help of their own: their names are in the line of usage.
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                sections.setdefault(getattr(parameter, "section", _OTHERS), []).append(record)
        others = sections.pop(_OTHERS, [])
        for title, records in [*sections.items(), (_OTHERS, others)]:
            with formatter.section(title):
                formatter.write_dl(records)


def options_of(section: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option` for options of this section. Other commands than a `SectionedCommand` ignore it."""
    return partial(click.option, cls=_SectionOption, section=section)
