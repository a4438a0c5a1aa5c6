"""Output of commands: facts, tables, JSON, files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.common.errors import StoreError
from pipeline.common.formatting import duration as duration
from pipeline.common.formatting import rate as rate
from pipeline.common.formatting import shard_count as shard_count
from pipeline.common.formatting import size as size

if TYPE_CHECKING:
    from pipeline.datasets.dataset import Dataset
    from pipeline.datasets.receipts import Manifest


def print_json(data: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Prints a table; `empty` if there are no rows."""
    if not rows:
        click.echo(empty)
        return
    widths = [max(len(row[position]) for row in [columns, *rows]) for position in range(len(columns))]
    for row in [columns, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Prints facts, one per line."""
    for name, value in facts:
        click.echo(f"  {name + ':':<16}{value}")


def write_file(path: Path, data: bytes) -> None:
    """Writes a file. Raises StoreError."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def write_beside(dataset: Dataset, name: str, data: bytes, output: Path | None) -> str:
    """Writes a file to a dataset's destination or to `output`; returns its location. Raises StoreError."""
    if output is None:
        dataset.store.write(name, data)
        return f"{dataset.url}/{name}"
    write_file(output, data)
    return str(output)


def print_manifest_hash(manifest: Manifest) -> None:
    """Prints the hash that covers a complete dataset, on stderr."""
    click.echo(f"manifest sha256: {manifest.sha256}", err=True)


def warn(message: str) -> None:
    """Prints a warning on stderr."""
    click.echo(f"noisemill: {message}", err=True)


def is_terminal() -> bool:
    """Whether stderr, which gets progress, is a terminal."""
    return sys.stderr.isatty()
