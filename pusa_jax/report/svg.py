"""Small plots as SVG that take their colours from the page around them.

lines    several series over time, with axes: class `sK` is the K-th ink
strip    one video under its pictures: two series, given frames shaded, borders dashed
"""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 560, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26

STRIP, TALL = 1000, 70
"""Width and height of a strip in its own units; it is stretched to its pictures."""

POINTS = 400
"""Of a series; of more the greatest in each stretch is drawn."""

INKS = 8
"""Series that have an ink of their own."""

Times = Float[np.ndarray, " _"]


def lines(name: str, series: Sequence[tuple[str, Times, Times]]) -> str:
    """A plot with axes.

    Args:
      name: what is plotted.
      series: name, seconds and values of each; values that are not finite are left out.
    """
    points = [(label, *_thinned(times, values)) for label, times, values in series]
    top = max((float(v.max()) for _, _, v in points if len(v)), default=1.0)
    low = min((float(v.min()) for _, _, v in points if len(v)), default=0.0)
    end = max((float(t.max()) for _, t, _ in points if len(t)), default=1.0) or 1.0
    low, top, step = _round_range(low, top)
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(t: float) -> float:
        return LEFT + (right - LEFT) * t / end

    def y_of(v: float) -> float:
        return floor - (floor - TOP) * (v - low) / (top - low)

    out = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
    ]
    for i in range(round((top - low) / step) + 1):
        value = low + i * step
        y = y_of(value)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{value:g}</text>')
    _, latest, step = _round_range(0.0, end)
    for i in range(round(latest / step) + 1):
        if (t := i * step) <= end * 1.001:
            out.append(f'<text x="{x_of(t):.1f}" y="{floor + 16}" class="mid">{t:g} s</text>')
    for i, (label, times, values) in enumerate(points):
        path = " ".join(f"{x_of(t):.1f},{y_of(v):.1f}" for t, v in zip(times, values, strict=True))
        title = f"<title>{escape(label)}</title>"
        out.append(f'<polyline class="line s{i % INKS}" points="{path}">{title}</polyline>')
    return "".join(out) + "</svg>"


def strip(
    end: float,
    columns: int,
    upper: tuple[Times, Times, float],
    lower: tuple[Times, Times, float],
    shaded: Sequence[tuple[float, float]],
    dashed: Sequence[float],
    ink: int,
) -> str:
    """A plot without numbers, as wide as the pictures above it.

    Args:
      end: seconds of the last picture.
      columns: pictures above it; the middle of each is its moment.
      upper: seconds, values and the value at the top, of the line.
      lower: the same of the area.
      shaded: from when to when frames are given.
      dashed: when borders are.
      ink: number of the line's.
    """
    end = end or 1.0

    def x_of(t: float) -> float:
        return STRIP * min(max((0.5 + t / end * (columns - 1)) / columns, 0.0), 1.0)

    out = [f'<svg class="strip" viewBox="0 0 {STRIP} {TALL}" preserveAspectRatio="none">']
    for begin, stop in shaded:
        width = max(x_of(stop) - x_of(begin), 2)
        out.append(
            f'<rect class="given" x="{x_of(begin):.1f}" width="{width:.1f}" height="{TALL}"/>'
        )
    for kind, (times, values, top) in (("area", lower), (f"line s{ink}", upper)):
        times, values = _thinned(times, values)
        path = " ".join(
            f"{x_of(t):.1f},{TALL - (TALL - 4) * min(v / (top or 1.0), 1.0):.1f}"
            for t, v in zip(times, values, strict=True)
        )
        if kind == "area" and len(times):
            path = f"{x_of(times[0]):.1f},{TALL} {path} {x_of(times[-1]):.1f},{TALL}"
        tag = "polygon" if kind == "area" else "polyline"
        out.append(f'<{tag} class="{kind}" points="{path}"/>')
    out += [f'<path class="border" d="M{x_of(t):.1f} 0V{TALL}"/>' for t in dashed]
    return "".join(out) + "</svg>"


def _thinned(times: Times, values: Times) -> tuple[Times, Times]:
    """The points that are drawn: finite ones, of many the greatest of each stretch."""
    is_there = np.isfinite(values)
    times, values = times[is_there], values[is_there]
    if len(values) <= POINTS:
        return times, values
    chosen = [part[np.argmax(values[part])] for part in np.array_split(range(len(values)), POINTS)]
    return times[chosen], values[chosen]


def _round_range(low: float, high: float) -> tuple[float, float, float]:
    """The nearest round numbers around a range, and a round step that makes about four of it."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next((m for m in (1, 2, 5) if span / (step * m) <= 4.5), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, max(last, first + 1) * step, step
