"""Small charts as SVG: no scripts or libraries, colors from the page's style, numbers in tooltips."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 640, 180
_LEFT, _BOTTOM, _TOP = 52, 22, 8


def columns(
    values: Sequence[float], ticks: Sequence[tuple[float, str]], titles: Sequence[str], label: str, *, top: str = ""
) -> str:
    """Vertical bars. Ticks are (share of the width, text); titles are tooltips."""
    most = max(values, default=0) or 1
    wide = (_WIDTH - _LEFT - 8) / max(1, len(values))
    high = _HEIGHT - _BOTTOM - _TOP
    gap = min(2.0, wide * 0.15)
    bars = "".join(
        f'<rect class="bar" x="{_LEFT + place * wide + gap / 2:.1f}" y="{_TOP + high * (1 - value / most):.1f}" '
        f'width="{wide - gap:.1f}" height="{high * value / most:.1f}"><title>{escape(title)}</title></rect>'
        for place, (value, title) in enumerate(zip(values, titles, strict=True))
    )
    below = "".join(
        f'<text x="{_LEFT + share * (_WIDTH - _LEFT - 8):.1f}" y="{_HEIGHT - 5}" text-anchor="{_anchor(share)}">'
        f"{escape(text)}</text>"
        for share, text in ticks
    )
    return _svg(f"{_axis(high, top or f'{most:,.4g}')}{bars}{below}", label)


def curve(values: Sequence[float], ticks: Sequence[tuple[float, str]], titles: Sequence[str], label: str) -> str:
    """A filled line through the centers of equal intervals."""
    most = max(values, default=0) or 1
    wide, high = (_WIDTH - _LEFT - 8) / len(values), _HEIGHT - _BOTTOM - _TOP
    points = [(_LEFT + (place + 0.5) * wide, _TOP + high * (1 - value / most)) for place, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    base = _TOP + high
    area = f"{points[0][0]:.1f},{base} {line} {points[-1][0]:.1f},{base}"
    spots = "".join(
        f'<circle class="spot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>'
        for (x, y), title in zip(points, titles, strict=True)
    )
    below = "".join(
        f'<text x="{_LEFT + share * (_WIDTH - _LEFT - 8):.1f}" y="{_HEIGHT - 5}" text-anchor="{_anchor(share)}">'
        f"{escape(text)}</text>"
        for share, text in ticks
    )
    drawn = f'<polygon class="area" points="{area}"/><polyline class="line" points="{line}"/>{spots}'
    return _svg(f"{_axis(high, f'{most:,.0f}/s')}{drawn}{below}", label)


def bars(rows: Sequence[tuple[str, float, str]], label: str) -> str:
    """Horizontal bars, one per row: name, value, text at the end. As HTML, which wraps long names."""
    most = max((value for _, value, _ in rows), default=0) or 1
    lines = "".join(
        f'<div class="name">{escape(name)}</div>'
        f'<div class="track"><div class="fill" style="width:{100 * value / most:.1f}%"></div></div>'
        f'<div class="number">{escape(text)}</div>'
        for name, value, text in rows
    )
    return f'<div class="bars" role="img" aria-label="{escape(label)}">{lines}</div>'


def line(values: Sequence[float], low: float, high: float) -> str:
    """A sample of numbers as a curve without axes."""
    wide = 100 / max(1, len(values) - 1)
    points = " ".join(
        f"{place * wide:.1f},{36 - 34 * (value - low) / (high - low):.1f}" for place, value in enumerate(values)
    )
    return (
        f'<svg class="sample" viewBox="0 0 100 38" preserveAspectRatio="none"><polyline class="line" points="{points}" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _axis(high: int, top: str) -> str:
    base = _TOP + high
    return (
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH}" y1="{base}" y2="{base}"/>'
        f'<line class="guide" x1="{_LEFT}" x2="{_WIDTH}" y1="{_TOP}" y2="{_TOP}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 5}" text-anchor="end">{escape(top)}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text>'
    )


def _anchor(share: float) -> str:
    return "start" if share < 0.05 else "end" if share > 0.95 else "middle"


def _svg(inside: str, label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'
