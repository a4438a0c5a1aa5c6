"""Puts the latest results into docs/performance.md, between its marks, and the plot beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, Result, markdown
from benchmarks.plot import plot

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"


def read_results(folder: Path, names: Sequence[str]) -> list[tuple[str, Result]]:
    """The stored results of these benchmarks, each with the time of its measurement (UTC)."""
    found = []
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text())
            record["figures"] = [Figure(**figure) for figure in record["figures"]]
            found.append((record.pop("at"), Result(**record)))
    return found


def update_page(results: Sequence[tuple[str, Result]], docs: Path = DOCS) -> None:
    """Writes docs/performance.svg, and the tables into docs/performance.md. Raises ValueError if the marks are gone."""
    page = docs / "performance.md"
    text = page.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    device = next((result.details["device"] for _, result in results if "device" in result.details), "")
    days = sorted({at[:10] for at, _ in results})
    taken = f"Taken on {' and '.join(days)} by {os.cpu_count()} cores of {device or 'this machine'}."
    shown = "![every figure as a dot, with its median and what is to be reached](performance.svg)"
    tables = "\n".join(markdown(result) for _, result in results)
    page.write_text(f"{text[:begin]}\n\n{taken}\n\n{shown}\n\n{tables}\n{text[end:]}")
    (docs / "performance.svg").write_text(plot([result for _, result in results]))
