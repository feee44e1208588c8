"""A small chart of lines over epochs in the colours of the preview; matplotlib would be installed for it alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from .preview import BACKGROUND, FAINT, LABEL_COLOURS, TITLE, write_text

LEFT, RIGHT, TOP, BOTTOM = 74, 18, 62, 34  # pixels around the plot
Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers from low to high, in steps of 1, 2 or 5 x 10^k.

    >>> ticks(0.13, 0.94), ticks(1, 50)
    ([0.2, 0.4, 0.6, 0.8], [10.0, 20.0, 30.0, 40.0, 50.0])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def draw_chart(
    size: tuple[int, int],
    title: str,
    lines: Mapping[str, Points],
    mark: tuple[float, float] | None = None,
    mark_text: str = "",
) -> Image.Image:
    """A picture of `size` (width, height) pixels with one coloured line for each name; points that are not finite are
    left out.

    Args:
        lines: {name: [(x, y), ...]}, x rising.
        mark: a point with a ring around it.
        mark_text: said beside the title.
    """
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    write_text(draw, (LEFT, 8), title, 20)
    if mark_text:
        write_text(draw, (size[0] - RIGHT, 10), mark_text, 16, FAINT, "ra")
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()}
    every = [point for points in finite.values() for point in points]
    if not every:
        write_text(draw, (size[0] / 2, size[1] / 2), "nothing yet", 16, FAINT, "mm")
        return picture
    (x0, x1), (y0, y1) = _range([x for x, _ in every], 0.0), _range([y for _, y in every], 0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) * (size[0] - LEFT - RIGHT)
        up = (y - y0) / (y1 - y0) * (size[1] - TOP - BOTTOM)
        return LEFT + across, size[1] - BOTTOM - up

    for y in ticks(y0, y1):
        height = place(x0, y)[1]
        draw.line([(LEFT, height), (size[0] - RIGHT, height)], fill=(48, 50, 54))
        write_text(draw, (LEFT - 8, height), f"{y:g}", 14, FAINT, "rm")
    for x in (x for x in ticks(x0, x1, 8) if x.is_integer()):  # there is no epoch 1.5
        write_text(draw, (place(x, y0)[0], size[1] - BOTTOM + 8), f"{x:g}", 14, FAINT, "ma")
    at = float(LEFT)
    for number, (name, points) in enumerate(finite.items()):
        colour = LABEL_COLOURS[number % len(LABEL_COLOURS)]
        places = [place(x, y) for x, y in points]
        if len(places) > 1:
            draw.line(places, fill=colour, width=2, joint="curve")
        for x, y in places if len(places) <= 30 else []:
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
        write_text(draw, (at, 36), name, 15, colour)
        at += 18 + 8.2 * len(name)
    if mark is not None:
        x, y = place(*mark)
        draw.ellipse([x - 6, y - 6, x + 6, y + 6], outline=TITLE, width=2)
    return picture


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    width = (high - low) or max(1.0, abs(high))
    return low - (margin if high > low else 0.5) * width, high + (margin if high > low else 0.5) * width
