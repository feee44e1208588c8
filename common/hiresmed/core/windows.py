"""Grey values of images without a physical unit: a robust window of each, and the volume scaled by it.

MONAI's ScaleIntensityRangePercentiles holds the whole image, and gives each tile a window of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .errors import InputError
from .volumes import ArrayVolume, Volume, iter_boxes, require_finite

BINS = 65536
FULL = 65535  # what the window's upper end becomes
Span = tuple[float, float]
_MOST_IN_MEMORY = 2**22  # voxels up to which an image is read once and kept: reading a phantom twice is slow


def to_unit_range(values: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Scales a window (a, b) to [-1, 1] for networks, linear, clipped; a float32 copy (float64 stays float64).

    >>> to_unit_range(np.array([-9, 0, 1, 2]), (0, 2)).tolist()
    [-1.0, -1.0, 0.0, 1.0]
    """
    a, b = window
    values = values.astype(np.float64 if values.dtype == np.float64 else np.float32)  # a copy, worked on in place
    values -= a
    values *= 2 / (b - a)
    values -= 1
    return values.clip(-1, 1, out=values)


def rescale(values: np.ndarray, source: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """Values of the range source (a, b) -> target (c, d), linear, clipped to it; float32 stays float32.

    >>> rescale(np.array([-2.0, -1.0, 0.0, 1.0]), (-1, 1), (0, 255)).tolist()
    [0.0, 0.0, 127.5, 255.0]
    """
    a, b = (float(v) for v in source)
    c, d = (float(v) for v in target)
    return ((values - a) / (b - a)).clip(0, 1) * (d - c) + c


def check_window(window: Sequence[float], dtype: str, name: str = "window") -> tuple[float, float]:
    """The window as two rising numbers that the dtype can hold.

    Raises:
        InputError: another window, or an unknown dtype.

    >>> check_window([0, 255], "uint8")
    (0.0, 255.0)
    """
    try:
        low, high = (float(v) for v in window)
        kind = np.dtype(dtype)
    except (TypeError, ValueError):
        low, high, kind = 1.0, 0.0, np.dtype("float32")
    if kind.kind == "f":
        limits = (low, high)
    elif kind.kind in "iu":
        limits = (float(np.iinfo(kind).min), float(np.iinfo(kind).max))
    else:
        limits = (1.0, 0.0)
    if not limits[0] <= low < high <= limits[1]:
        raise InputError(
            f"{name} must be two rising numbers that dtype can hold, got {window!r} with dtype {dtype!r}; take "
            "[0, 255] with uint8, [0, 65535] with uint16, or a range in HU with int16."
        )
    return low, high


class WindowedView(Volume):
    """A volume as uint16 within a window: a -> 0, b -> 65535, linear between, rounded, clipped.

    Args:
        volume: the source, spatial shape S.
        window: (a, b), in the volume's units.

    >>> WindowedView(ArrayVolume(np.array([[-1.0, 0.0, 1.0, 2.0, 3.0]])), (0, 2)).read((0, 0), (1, 5)).tolist()
    [[0, 0, 32768, 65535, 65535]]
    """

    def __init__(self, volume: Volume, window: Sequence[float]) -> None:
        self.volume = volume
        self.window = (float(window[0]), float(window[1]))
        self.shape = volume.shape
        self.affine = volume.affine
        self.name = volume.name
        self.dtype = np.dtype(np.uint16)

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        a, b = self.window
        values = (self.volume.read(start, shape).astype(np.float64) - a) * (FULL / (b - a))
        return np.rint(values).clip(0, FULL).astype(np.uint16)


def robust_window(volume: Volume, low: float = 0.5, high: float = 99.5, box: int = 512) -> tuple[float, float]:
    """Values (a, b) below which `low` and `high` per cent of an image lie; box by box, the same for any box.

    Two things are not counted, since they are no tissue: lines at the border (rows, columns; in 3-D planes) that hold
    only one value, the same from the edge on, as from a collimator's frame or a scanner's padding; and in the rest
    every pixel at exactly the least or the greatest value, as from burnt-in letters, overexposed air and a padding
    value. A frame that is noisy or oblique is counted. Where nothing else remains, everything counts.

    Whole numbers of up to 65536 steps are exact; other values are exact to a 4096th of the window.

    Args:
        volume: 2-D or 3-D, any real values.
        low, high: per cent.
        box: voxels per axis read at a time.

    Raises:
        InputError: the image is constant; a value is NaN or infinite.
    """
    if math.prod(volume.shape) <= _MOST_IN_MEMORY:
        volume = ArrayVolume(volume.read([0] * len(volume.shape), volume.shape), volume.affine, volume.name)
    inner, least, most, whole_numbers = _inside_border(volume, box)
    if least == most:
        raise InputError(
            f"{volume.name} must hold at least two values, got {least:g} in every one of its "
            f"{' x '.join(map(str, volume.shape))} pixels; export it again, or give another image."
        )
    exact = whole_numbers and most - least < BINS
    # first without the least and the greatest value; with them, where nothing else remains
    for counted in ((np.nextafter(least, most), np.nextafter(most, least)), (least, most)):
        window = _percentiles(lambda: _pieces(volume, inner, box), (least, most), counted, (low, high), exact)
        if window is not None:
            return window
    return least, most


def _pieces(volume: Volume, inner: Sequence[tuple[int, int]], box: int):
    """(start, values) of boxes that tile the inner part."""
    for start, shape in iter_boxes([b - a for a, b in inner], box):
        position = [a + s for (a, _), s in zip(inner, start)]
        yield position, require_finite(np.asarray(volume.read(position, shape)), volume.name, position)


def _inside_border(volume: Volume, box: int) -> tuple[list[tuple[int, int]], float, float, bool]:
    """The part within constant border lines, (first, one-past-last) an axis; its least and greatest value; whether
    all values are whole numbers."""
    low = [np.full(n, np.inf) for n in volume.shape]
    high = [np.full(n, -np.inf) for n in volume.shape]
    full_image = [(0, n) for n in volume.shape]
    whole_numbers = True
    for start, values in _pieces(volume, full_image, box):
        whole_numbers = whole_numbers and (values.dtype.kind in "iub" or bool((values == np.rint(values)).all()))
        for axis, s in enumerate(start):
            others = tuple(a for a in range(values.ndim) if a != axis)
            lines = slice(s, s + values.shape[axis])
            low[axis][lines] = np.minimum(low[axis][lines], values.min(others))
            high[axis][lines] = np.maximum(high[axis][lines], values.max(others))
    inner = [_trimmed(a, b) for a, b in zip(low, high)]
    if inner != full_image:
        parts = [(float(v.min()), float(v.max())) for _, v in _pieces(volume, inner, box)]
        least = min(a for a, _ in parts)
        most = max(b for _, b in parts)
        if least < most:
            return inner, least, most, whole_numbers
    return full_image, float(low[0].min()), float(high[0].max()), whole_numbers


def _trimmed(low: np.ndarray, high: np.ndarray) -> tuple[int, int]:
    """First and one-past-last line that is not of the border's one value; at least one line is left."""
    ends = []
    for a, b in ((low, high), (low[::-1], high[::-1])):
        picture = np.flatnonzero((a != a[0]) | (b != a[0]))
        ends.append(int(picture[0]) if picture.size else 0)
    return ends[0], len(low) - ends[1]


def _percentiles(
    pieces: Callable[[], Iterator], limits: Span, counted: Span, shares: Span, exact: bool
) -> tuple[float, float] | None:
    """Values at two shares (per cent), from a histogram that narrows until the window spans a 16th of it.

    None where no value is counted, or where the values at both shares are the same.
    """
    finest = 1e-12 * (limits[1] - limits[0])
    while limits[1] - limits[0] > finest:
        width = 1.0 if exact else (limits[1] - limits[0]) / BINS
        cumulative, total = _histogram(pieces(), limits, width, counted)
        if total == 0:
            return None
        first, last = (int(np.searchsorted(cumulative, max(1, math.ceil(total * share / 100)))) for share in shares)
        window = limits[0] + first * width, limits[0] + (last if exact else last + 1) * width
        if exact:
            return window if first < last else None
        if last - first >= BINS // 16:
            return window
        limits = window
    return None


def _histogram(pieces: Iterator, limits: Span, width: float, counted: Span) -> tuple[np.ndarray, int]:
    """How many counted values lie up to each bin's end, bins from the first limit on; and how many there are."""
    counts = np.zeros(BINS, np.int64)
    below = 0
    total = 0
    for _, values in pieces:
        values = values.astype(np.float64).ravel()
        values = values[(values >= counted[0]) & (values <= counted[1])]
        total += values.size
        below += int((values < limits[0]).sum())
        values = values[(values >= limits[0]) & (values <= limits[1])]
        bins = np.floor((values - limits[0]) / width).astype(np.int64).clip(0, BINS - 1)
        counts += np.bincount(bins, minlength=BINS)
    return below + np.cumsum(counts), total
