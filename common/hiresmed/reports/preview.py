"""preview.png: what a person looks at first, drawn with constant memory however large the image is.

Columns are panels (input | sketch | result), rows the three middle planes of a volume, as radiologists hold them.
Millimetres have one scale over the whole picture.

Letters: S = spatial shape (D, H, W) or (H, W).
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.output_files import write_then_rename
from .preview_planes import PLANES, PlaneView, Source, plane_views, read_plane

WIDTH, MARGIN, GAP = 1500, 16, 8
TALLEST = 2000  # pixels of picture: a tall patient is drawn smaller, not cut
BACKGROUND, TITLE, FAINT, SHADOW = (17, 18, 20), (236, 238, 240), (158, 164, 172), (0, 0, 0)
SIDES = (226, 214, 150)  # pale yellow, as viewers mark the patient's sides
# what the font that comes with Pillow lacks
PLAIN = str.maketrans("×→–—−≤≥µ", "x>---<>u")  # noqa: RUF001
LABEL_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


@dataclass
class Panel:
    """One column of the preview.

    Attributes:
        title: a few words over the column.
        image: array of shape S, or an object with `.shape`, `.read(start, shape)` and, if known, `.affine` (RAS+ mm)
            or `.spacing`. A volume without an affine is taken to have R, A, S axes; a 2-D image is rows, columns.
        overlay: the same of shape S, drawn over it: whole numbers as labels, fractions 0..1 as heat.
        window: (low, high) of this panel in its own units; None takes the picture's.
    """

    title: str
    image: object
    overlay: object = None
    window: tuple[float, float] | None = None


def _to_pixels(plane: np.ndarray, window: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    low, high = window
    grey = np.clip((plane - low) / max(high - low, 1e-12), 0, 1) * 255
    enlarged = size[0] > plane.shape[1]
    filter_ = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    return Image.fromarray(np.rint(grey).astype(np.uint8)).resize(size, filter_).convert("RGB")


def _lay_over(picture: Image.Image, view: PlaneView, overlay) -> Image.Image:
    """Labels in colour with a firm outline, or fractions as amber heat."""
    size, source = picture.size, Source(overlay)
    if source.shape != view.source.shape:
        raise ValueError(f"an overlay of shape {source.shape} cannot lie over an image of shape {view.source.shape}")
    plane = read_plane(replace(view, source=source), *size, average=False)
    plane = np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.NEAREST))
    labels = np.rint(plane).astype(int)
    if np.allclose(plane, labels):
        colour = np.array(LABEL_COLOURS, dtype=np.float32)[(labels - 1) % len(LABEL_COLOURS)]
        edge = np.zeros(labels.shape, bool)
        edge[1:] |= labels[1:] != labels[:-1]
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        alpha = np.where(labels != 0, np.where(edge, 0.9, 0.35), 0.0)
    else:
        colour, alpha = np.array(LABEL_COLOURS[0], dtype=np.float32), 0.75 * np.clip(plane, 0, 1)
    base = np.asarray(picture, dtype=np.float32)
    mixed = base + (colour - base) * alpha[..., None]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def write_text(draw: ImageDraw.ImageDraw, xy, text: str, size: int, colour=TITLE, anchor: str = "la") -> None:
    """Text of `size` pixels at a point, in the font that comes with Pillow."""
    draw.text(xy, text, font=_font(size), fill=colour, anchor=anchor)


def _in_font(text: str) -> str:
    """The text in characters that the font has: é becomes e, × becomes x."""
    plain = unicodedata.normalize("NFD", text.translate(PLAIN))
    return "".join(c for c in plain if not unicodedata.combining(c))


def _shorten(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    text = _in_font(text)
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(text + "…", font=_font(size)) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _mark_sides(draw: ImageDraw.ImageDraw, view: PlaneView, box: tuple[int, int, int, int]) -> None:
    """The plane's name and the patient's sides, small, inside the picture, readable on white and on black."""
    x0, y0, x1, y1 = box
    middle_x = (x0 + x1) / 2
    middle_y = (y0 + y1) / 2
    places = [(x0 + 7, middle_y), (x1 - 7, middle_y), (middle_x, y0 + 6), (middle_x, y1 - 6)]
    for (x, y), text, anchor in zip(places, view.letters, ("lm", "rm", "ma", "md")):
        draw.text((x, y), text, font=_font(16), fill=SIDES, anchor=anchor, stroke_width=1, stroke_fill=SHADOW)
    draw.text((x0 + 8, y0 + 6), view.name, font=_font(16), fill=TITLE, anchor="la", stroke_width=1, stroke_fill=SHADOW)


def ruler_length(available: float) -> float:
    """The longest of 1, 2, 5 x 10^k that is at most `available`."""
    power = 10.0 ** np.floor(np.log10(available))
    return float(max(m * power for m in (1, 2, 5) if m * power <= available * (1 + 1e-9)))


class _Layout:
    """Where each plane of each panel goes, on one scale of pixels per mm."""

    def __init__(self, views: list[dict[str, PlaneView]], has_footer: bool) -> None:
        self.views = views
        self.cells = self._arrange()
        rows, columns = len(self.cells), len(self.cells[0])
        width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
        sizes = [[v.size_mm if v else (0.0, 0.0) for v in row] for row in self.cells]
        tall = [max(h for _, h in row) for row in sizes]
        wide = max(w for row in sizes for w, _ in row)
        self.scale = min(width / wide, (TALLEST - (rows - 1) * GAP) / sum(tall))
        self.title_height = 34
        self.column_width = width
        self.row_heights = [max(1, round(h * self.scale)) for h in tall]
        self.foot = 40 + (26 if has_footer else 0)
        body = sum(self.row_heights) + (rows - 1) * GAP
        self.height = MARGIN + self.title_height + body + self.foot

    def _arrange(self) -> list[list[PlaneView | None]]:
        """Rows are planes, columns panels; a lone volume lays its three planes side by side."""
        if len(self.views) == 1:
            return [list(self.views[0].values())]
        names = list(PLANES) if any(len(v) == 3 for v in self.views) else [""]
        flat = [{names[0]: v[""]} if "" in v else v for v in self.views]
        return [[v.get(name) for v in flat] for name in names]

    def box(self, view: PlaneView, row: int, column: int) -> tuple[int, int, int, int]:
        """Pixels x0, y0, x1, y1 of a plane, centred in its cell."""
        w, h = (max(1, round(v * self.scale)) for v in view.size_mm)
        cell_x = MARGIN + column * (self.column_width + GAP)
        cell_y = MARGIN + self.title_height + sum(self.row_heights[:row]) + row * GAP
        x, y = round(cell_x + (self.column_width - w) / 2), round(cell_y + (self.row_heights[row] - h) / 2)
        return x, y, x + w, y + h


def _draw_ruler(draw: ImageDraw.ImageDraw, layout: _Layout, in_mm: bool) -> None:
    length = ruler_length(layout.column_width * 0.4 / layout.scale)
    pixels, y = round(length * layout.scale), layout.height - layout.foot + 22
    x1 = WIDTH - MARGIN - 1
    x0 = x1 - pixels
    draw.line([(x0, y), (x1, y)], fill=TITLE, width=2)
    for x in (x0, x1):
        draw.line([(x, y - 5), (x, y + 5)], fill=TITLE, width=2)
    write_text(draw, (x0 - 10, y), f"{length:g} {'mm' if in_mm else 'px'}", 17, TITLE, "rm")


def _own_window(view: PlaneView, size: tuple[int, int]) -> tuple[float, float]:
    low, high = np.percentile(read_plane(view, *size), (0.5, 99.5))
    return float(low), float(high) if high > low else float(low) + 1


def write_preview(
    path: str | os.PathLike,
    panels: Sequence,
    window: tuple[float, float] | None = None,
    footer: str = "",
    columns: int = 1,
) -> None:
    """Draw the middle planes of panels of images side by side into a PNG about 1500 pixels wide; atomic.

    Args:
        path: the file to write.
        panels: `Panel`s, or tuples (title, image[, overlay[, window]]). Volumes give three rows (one volume alone
            gives them side by side), 2-D images one.
        window: (low, high) in the images' units, e.g. (-1000, 600) HU; None takes each plane's .5-99.5 percentiles.
        footer: one line below.
        columns: room for at least so many panels, so that pictures of fewer have the same scale.

    Each plane is read in bands of 128 rows and reduced as it comes: a 2048^3 volume costs a few MB.
    Raises ValueError for no panels, an image that is neither 2-D nor 3-D, or an overlay of another shape.
    """
    panels = [p if isinstance(p, Panel) else Panel(*p) for p in panels]
    if not panels:
        raise ValueError("a preview needs at least one panel")
    sources = [Source(p.image) for p in panels]
    views = [plane_views(s) for s in sources]
    layout = _Layout([*views, *[{}] * (columns - len(views))], bool(footer))
    picture = Image.new("RGB", (WIDTH, round(layout.height)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    alone = len(layout.views) == 1
    for row, cells in enumerate(layout.cells):
        for column, view in enumerate(cells):
            if view is None:
                continue
            panel, box = panels[0 if alone else column], layout.box(view, row, column)
            _draw_plane(picture, draw, view, panel, panel.window or window, box)
    for column, panel in enumerate(panels):
        x = MARGIN + column * (layout.column_width + GAP)
        room = WIDTH - 2 * MARGIN if alone else layout.column_width
        write_text(draw, (x, MARGIN), _shorten(draw, panel.title, 20, int(room)), 20)
    _draw_ruler(draw, layout, all(s.in_mm for s in sources))
    if footer:
        line = _shorten(draw, footer, 15, WIDTH - 2 * MARGIN)
        write_text(draw, (MARGIN, layout.height - MARGIN), line, 15, FAINT, "ls")
    with write_then_rename(path) as aside:
        picture.save(aside, format="PNG")


def _draw_plane(picture, draw, view: PlaneView, panel: Panel, window, box: tuple[int, int, int, int]) -> None:
    size = (box[2] - box[0], box[3] - box[1])
    pixels = _to_pixels(read_plane(view, *size), window or _own_window(view, size), size)
    if panel.overlay is not None:
        pixels = _lay_over(pixels, view, panel.overlay)
    picture.paste(pixels, box[:2])
    if view.letters:
        _mark_sides(draw, view, box)


def montage(images: Sequence, most: int = 16) -> np.ndarray:
    """The first of 2-D images (C, rows, columns) of one size, in [-1, 1], on a nearly square sheet; black between."""
    greys = [np.asarray(images[k], dtype=np.float32).mean(0) for k in range(min(most, len(images)))]
    across = math.ceil(math.sqrt(len(greys)))
    rows, columns = greys[0].shape
    sheet = np.full((-(-len(greys) // across) * (rows + 2) - 2, across * (columns + 2) - 2), -1.0, np.float32)
    for k, image in enumerate(greys):
        y, x = k // across * (rows + 2), k % across * (columns + 2)
        sheet[y : y + rows, x : x + columns] = image
    return sheet
