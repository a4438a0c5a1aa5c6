"""How commands print: numbers for people, tables, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import StoreError


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """A table on stdout; `empty` where there are no rows."""
    if not rows:
        click.echo(empty)
        return
    widths = [max(len(row[position]) for row in [columns, *rows]) for position in range(len(columns))]
    for row in [columns, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_file(path: Path, data: bytes) -> None:
    """Writes a file that the user asked for. Raises StoreError."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def warn(message: str) -> None:
    """A warning on stderr."""
    click.echo(f"noisemill: {message}", err=True)


def size(count: float) -> str:
    """Bytes for people: 31.4 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Time for people: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rate(samples_per_s: float | None) -> str:
    """Samples per second for people."""
    return "-" if samples_per_s is None else f"{samples_per_s:,.0f}/s"


def is_terminal() -> bool:
    """Whether stderr, where progress goes, is a terminal."""
    return sys.stderr.isatty()
