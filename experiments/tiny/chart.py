"""Draws tables: one panel per measure, a line per series, bars of one standard deviation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pusa_jax.files.atomic import replacing

WIDTH, HEIGHT = 380, 300
"""Pixels of a panel."""

LEFT, RIGHT, TOP, BOTTOM = 56, 14, 30, 40
"""Margins around what is plotted."""

LEGEND = 18
"""Height of a line of the legend."""

INKS = (
    (31, 90, 180), (214, 96, 20), (30, 140, 70), (190, 40, 60),
    (120, 80, 170), (110, 110, 110), (0, 150, 160), (160, 130, 0),
)  # fmt: skip


def draw(path: Path, rows: Sequence[Mapping[str, Any]], panels: Sequence[str]) -> None:
    """Writes a PNG.

    Args:
      path: of the picture.
      rows: `series`, `x` and, of every measure, mean and standard deviation.
      panels: measures to draw.
    """
    series = list(dict.fromkeys(row["series"] for row in rows))
    xs = list(dict.fromkeys(row["x"] for row in rows))
    size = WIDTH * len(panels), HEIGHT + LEGEND * len(series)
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for i, measure in enumerate(panels):
        _panel(pen, font, WIDTH * i, measure, rows, series, xs)
    for i, name in enumerate(series):
        y = HEIGHT + LEGEND * i
        pen.rectangle((LEFT, y + 3, LEFT + 12, y + 11), fill=INKS[i % len(INKS)])
        pen.text((LEFT + 20, y), name, "black", font)
    with replacing(path) as part:
        image.save(part, "png")


def _panel(pen, font, left: int, measure: str, rows, series: list[str], xs: list[str]) -> None:
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    points = [row[measure] for row in rows if measure in row]
    if not points:
        return
    low, high = _span(points)

    def y_of(value: float) -> float:
        return y0 + (y1 - y0) * (value - low) / (high - low)

    pen.text((x0, 8), measure, "black", font)
    for value in np.linspace(low, high, 5):
        pen.line((x0, y_of(value), x1, y_of(value)), fill=(225, 225, 225))
        pen.text((x0 - 6, y_of(value)), f"{value:.3g}", "black", font, anchor="rm")
    places = {x: x0 + (x1 - x0) * (i + 0.5) / len(xs) for i, x in enumerate(xs)}
    for i, (x, place) in enumerate(places.items()):
        pen.text((place, y0 + 6 + 13 * (i % 2)), x, "black", font, anchor="ma")
    for i, name in enumerate(series):
        ink, shift, before = INKS[i % len(INKS)], 3 * (i - (len(series) - 1) / 2), None
        for row in rows:
            if row["series"] != name or measure not in row:
                continue
            (mean, spread), place = row[measure], places[row["x"]] + shift
            pen.line((place, y_of(mean - spread), place, y_of(mean + spread)), fill=ink, width=2)
            here = place, y_of(mean)
            pen.ellipse((here[0] - 3, here[1] - 3, here[0] + 3, here[1] + 3), fill=ink)
            if before is not None:
                pen.line((*before, *here), fill=ink)
            before = here


def _span(points: Sequence[Sequence[float]]) -> tuple[float, float]:
    """From the lowest to the highest bar, with some room, and never of no extent."""
    low = min(mean - spread for mean, spread in points)
    high = max(mean + spread for mean, spread in points)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room
