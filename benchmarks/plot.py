"""Figures as an SVG: a line a case, a dot a run, a stroke at the median, a gate at what is to be reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from benchmarks.figures import Figure, Result

_WIDTH, _LEFT, _RIGHT, _ROW, _HEAD = 900, 350, 70, 24, 58
_INK, _FAINT, _DOT, _GATE, _MISSED = "#24292f", "#d0d7de", "#4c8dd6", "#1a7f37", "#cf222e"


def plot(results: Sequence[Result]) -> str:
    """An SVG with a panel for each result that has ratios."""
    panels, top = [], 0.0
    for result in results:
        ratios = [figure for figure in result.figures if figure.unit == "x"]
        if ratios:
            panels.append(_panel(result.title, ratios, top))
            top += _HEAD + len(ratios) * _ROW + 34
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top:.0f}" viewBox="0 0 {_WIDTH} {top:.0f}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{top:.0f}" fill="#ffffff"/>', *panels, "</svg>"]) + "\n"


def _panel(title: str, figures: Sequence[Figure], top: float) -> str:
    most = max(1.0, *(value for figure in figures for value in [*figure.values, figure.reach or 0.0]))
    step = _step(most)
    limit = math.ceil(most * 1.02 / step) * step
    bottom = top + _HEAD + len(figures) * _ROW

    def across(value: float) -> float:
        return _LEFT + value / limit * (_WIDTH - _LEFT - _RIGHT)

    parts = [_text(16, top + 26, title, size=15, weight="bold")]
    for number in range(round(limit / step) + 1):
        x = across(number * step)
        stroke = _INK if math.isclose(number * step, 1.0) else _FAINT
        parts.append(_line(x, top + _HEAD - 8, x, bottom, stroke))
        parts.append(_text(x, bottom + 15, f"{number * step:g}", anchor="middle"))
    for row, figure in enumerate(figures):
        y = top + _HEAD + (row + 0.5) * _ROW
        parts += [_text(_LEFT - 12, y + 4, figure.case.replace("`", ""), anchor="end"), *_row(figure, y, across)]
    return "\n".join(parts)


def _row(figure: Figure, y: float, across: Callable[[float], float]) -> list[str]:
    missed = figure.reach is not None and figure.median < figure.reach
    parts = [_line(across(min(figure.values)), y, across(max(figure.values)), y, _DOT)]
    parts += [f'<circle cx="{across(value):.1f}" cy="{y:.1f}" r="3" fill="{_DOT}"/>' for value in figure.values]
    parts.append(_line(across(figure.median), y - 7, across(figure.median), y + 7, _INK, width=2.5))
    if figure.reach is not None:
        parts.append(_line(across(figure.reach), y - 9, across(figure.reach), y + 9, _MISSED if missed else _GATE, 2))
    parts.append(_text(_WIDTH - _RIGHT + 12, y + 4, f"{figure.median:.2f}", weight="bold"))
    return parts


def _step(most: float) -> float:
    """A round distance between the lines of the scale: so that there are ten or fewer."""
    return next(step for step in (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, math.inf) if most / step <= 10)


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1.2) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{stroke}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{_INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
