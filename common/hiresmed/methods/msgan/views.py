"""Random fields of view of a case, small: what the base stage learns from where images are few.

The base stage sees a whole image at once, so a handful of images are a handful of examples, and it learns where things
lie instead of which side of an edge is tissue. A view is what another scan of the same body could have been: closer or
further, cut to a slab or a corner, with air around it, other spacings, the body mirrored.

Letters: D = spatial axes, N = shape of a case, n = shape of a view, f = factor between levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...core.volumes import ArrayVolume, Volume
from ...core.windows import rescale, to_unit_range
from .patches import PreparedCase
from .sketch import sketch_of_whole

_MARGIN = 0.15  # share of a view's side by which it may reach beyond a case that it does not cover
_SLAB = (0.2, 0.6)  # share of the side that a slab keeps along one axis
_STRETCH = 0.5  # of one axis, as a logarithm: voxels up to 1.6 times longer or shorter than the file's
_JITTER = 0.2  # of each side of the field, as a logarithm
_BRIGHTNESS = (0.5, 99.5)  # per cent: the robust window of an image


class RandomViews:
    """Draws a view of a case: its image at the base stage's size, averaged over each cell exactly, and its sketch.

    Args:
        sketcher: as at inference.
        window: values shown as -1 and 1; beyond the case there is air, its lower end.
        base_size: most voxels of a view along an axis; its longest side has more than half of that.
        zoom: range of the field's sides over the case's.
        slab: share of the views that are cut to a slab.
        stretch: share of the views with another spacing along one axis.
        mirror: share of the views of a mirrored body (left to right of the patient).
        rewindow: stretch each view between its own robust percentiles, as `intensity: robust` does with an image.
    """

    def __init__(
        self,
        sketcher,
        window: Sequence[float] = (-1024.0, 1024.0),
        base_size: int = 32,
        zoom: Sequence[float] = (0.35, 2.0),
        slab: float = 0.3,
        stretch: float = 0.5,
        mirror: float = 0.5,
        rewindow: bool = False,
    ) -> None:
        self.sketcher = sketcher
        self.window = window
        self.base_size = base_size
        self.zoom = zoom
        self.slab = slab
        self.stretch = stretch
        self.mirror = mirror
        self.rewindow = rewindow

    def __call__(self, case: PreparedCase, chance: np.random.Generator) -> PreparedCase:
        """A case of one level that teaches the base stage, a function of `case` and `chance`."""
        shape = case.images[0].shape
        start, extent = self._field(shape, chance)
        size = self._size(extent, chance)
        unit = view_of(case.images, start, extent, size, self.window)
        affine = np.asarray(case.images[0].affine)
        if chance.random() < self.mirror:
            unit = np.flip(unit, int(np.abs(affine[0, : len(shape)]).argmax()))
        if self.rewindow:
            unit = _rewindowed(unit)
        unit = np.ascontiguousarray(unit)
        sketch = sketch_of_whole(torch.from_numpy(unit)[None, None], self.sketcher)[0, 0].numpy()
        image = rescale(unit, (-1, 1), self.window).astype(np.float32)
        # sketches are kept in 8 bits at inference
        stored = (np.rint(sketch * 255) / 255).astype(np.float32)
        return PreparedCase([ArrayVolume(image, affine)], [ArrayVolume(stored, affine)], [0])

    def _field(self, shape: Sequence[int], chance: np.random.Generator) -> tuple[list[float], list[float]]:
        """Start and extent of the field of view, in voxels of the case."""
        zoom = _between(self.zoom, chance)
        extent = [n * zoom * math.exp(chance.uniform(-_JITTER, _JITTER)) for n in shape]
        if chance.random() < self.slab:
            extent[int(chance.integers(len(shape)))] *= _between(_SLAB, chance)
        extent = [max(1.0, e) for e in extent]
        start = []
        for n, e in zip(shape, extent):
            over = _MARGIN * e
            start.append(float(chance.uniform(min(0.0, n - e) - over, max(0.0, n - e) + over)))
        return start, extent

    def _size(self, extent: Sequence[float], chance: np.random.Generator) -> list[int]:
        """Voxels of the view; never finer than the case."""
        longest = int(chance.integers(self.base_size // 2 + 1, self.base_size + 1))
        stretched = list(extent)
        if chance.random() < self.stretch:
            stretched[int(chance.integers(len(extent)))] *= math.exp(chance.uniform(-_STRETCH, _STRETCH))
        cell = max(stretched) / longest
        return [max(1, min(round(s / cell), int(e))) for s, e in zip(stretched, extent)]


def view_of(
    images: Sequence[Volume],
    start: Sequence[float],
    extent: Sequence[float],
    size: Sequence[int],
    window: Sequence[float],
) -> np.ndarray:
    """A field of view as float32 in [-1, 1], spatial shape n: each cell the mean of what it covers, beyond the case -1.

    Read from the coarsest level whose voxels are at most half a cell; box-wise, so that memory does not grow with the
    case.

    Args:
        images: the case's pyramid, finest first, shapes ceil(N / f^k).
        start, extent: of the field, in voxels of the finest level, fractions allowed.
        size: n.
        window: values shown as -1 and 1.
    """
    cells = [e / n for e, n in zip(extent, size)]
    scales = [round(image.spacing[0] / images[0].spacing[0]) for image in images]
    level = max(0, sum(2 * scale <= min(cells) for scale in scales) - 1)
    image = images[level]
    factor = scales[level]
    weights = []
    low = []
    for s, cell, n, m in zip(start, cells, size, image.shape):
        first, share = _cell_weights(s / factor, cell / factor, n, m)
        low.append(first)
        weights.append(share)
    values = np.asarray(image.read(low, [w.shape[1] for w in weights]))
    unit = to_unit_range(values, window).astype(np.float32) + 1
    for axis, share in enumerate(weights):
        unit = np.moveaxis(np.tensordot(share, unit, (1, axis)), 0, axis)
    return unit - 1


def _cell_weights(start: float, cell: float, count: int, voxels: int) -> tuple[int, np.ndarray]:
    """First voxel that a row of `count` cells touches, and which share of each cell (rows) each voxel fills."""
    edges = start + cell * np.arange(count + 1)
    first = int(np.clip(math.floor(edges[0]), 0, voxels - 1))
    last = int(np.clip(math.ceil(edges[-1]), first + 1, voxels))
    at = np.arange(first, last)
    overlap = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return first, (overlap.clip(0) / cell).astype(np.float32)


def _between(span: Sequence[float], chance: np.random.Generator) -> float:
    """A number of the span, uniform in its logarithm."""
    return math.exp(chance.uniform(math.log(span[0]), math.log(span[1])))


def _rewindowed(unit: np.ndarray) -> np.ndarray:
    """[-1, 1] stretched so that the robust percentiles of what is above the least value are -1 and 1."""
    counted = unit[unit > unit.min()]
    if counted.size < 16:
        return unit
    low, high = np.percentile(counted, _BRIGHTNESS)
    if high - low < 0.1:
        return unit
    return rescale(unit, (low, high), (-1, 1)).astype(np.float32)
