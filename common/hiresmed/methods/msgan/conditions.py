"""The conditions of a cascade at every scale: the real image's pyramid and the sketches, made tile by tile on disk.

The sketch is drawn anew at each scale from the image at that scale, because thin edges vanish under interpolation; a
sketch that comes without an image is pooled by its strongest value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ignite.distributed as idist
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ...core.errors import InputError
from ...core.memory import release_heap
from ...core.pyramids import Level
from ...core.tiles import Box, TileGrid
from ...core.volumes import Volume, iter_boxes
from .generator import coarser_sketch
from .levels import LevelPlan
from .sketch import Sketcher


def shared_tiles(grid: TileGrid, box: Box, level) -> Iterator[int]:
    """This process's unfinished tiles of a box; all processes together do each tile once."""
    numbers = grid.touching(box)
    for number in numbers[idist.get_rank() :: idist.get_world_size()]:
        if not level.done(number):
            yield number


class Conditions:
    """Source and sketch of every level, finest first.

    Args:
        plans: of the levels.
        stores: factory of pyramids.
        factor: between levels.
        sketcher: draws the sketches.
        encode: real-world numbers -> [-1, 1].
        progress: show bars in a terminal.
    """

    def __init__(
        self,
        plans: Sequence[LevelPlan],
        stores,
        factor: int,
        sketcher: Sketcher,
        encode: Callable[[np.ndarray], np.ndarray],
        progress: bool,
    ) -> None:
        self.plans = plans
        self.stores = stores
        self.factor = factor
        self.sketcher = sketcher
        self.encode = encode
        self.progress = progress

    def pyramid(self, name: str, volume: Volume, pool: str, dtype: str, slope: float) -> list[Volume]:
        """The volume and its coarser levels, each the cells' mean, max or strongest value (see `_pool`) below it."""
        if len(self.plans) == 1:
            return [volume]
        coarse = self.plans[1:]
        levels: list[Level] = self.stores.pyramid(
            name,
            [p.shape for p in coarse],
            [p.scale for p in coarse],
            volume.affine,
            dtype,
            slope,
            [p.grid.tile for p in coarse],
        )
        for fine, plan, level in zip([volume, *levels], coarse, levels):
            for number in self._bar(plan, plan.source, level, f"{name} 1/{plan.scale}"):
                start = plan.grid.start(number)
                inside = plan.grid.inside(number)
                box = fine.read_extended([s * self.factor for s in start], [n * self.factor for n in inside])
                level.write(start, _pool(box, self.factor, pool, self.sketcher.empty))
                level.mark(number)
            release_heap()
            idist.barrier()
        return [volume, *levels]

    def sketches(self, images: Sequence[Volume]) -> list[Volume]:
        """A sketch for every level, drawn from that level's image."""
        levels = self.stores.pyramid(
            "sketch",
            [p.shape for p in self.plans],
            [p.scale for p in self.plans],
            images[0].affine,
            "uint8",
            1 / 255,
            [p.grid.tile for p in self.plans],
        )
        halo = self.sketcher.halo
        for plan, image, level in zip(self.plans, images, levels):
            for number in self._bar(plan, plan.sketch, level, f"sketch 1/{plan.scale}"):
                start = plan.grid.start(number)
                inside = plan.grid.inside(number)
                box = image.read_extended([s - halo for s in start], [n + 2 * halo for n in inside])
                sketch = self.sketcher(torch.from_numpy(self.encode(box))[None, None])
                level.write(start, sketch[0, 0].numpy())
                level.mark(number)
            release_heap()
            idist.barrier()
        return levels

    def _bar(self, plan: LevelPlan, box: Box, level, title: str) -> Iterator[int]:
        numbers = list(shared_tiles(plan.grid, box, level))
        return iter(tqdm(numbers, desc=title, disable=None if self.progress else True, leave=False))


class SketchVolume(Volume):
    """A sketch that came from outside, read as strengths in [0, 1].

    Integer files count 255 as full strength unless their values are only 0 and 1. Values are clipped. A 2-D picture
    that is mostly bright (its mean is above half of full strength) is a drawing on paper: its most frequent value is
    the paper, strength 0, and black is 1. All else, with its strengths mostly 0, is taken as it is.

    A sketch of kind "signed" (SignedSketch) is taken as it is; its most frequent value must be a middle grey.

    Args:
        volume: the file.
        slope: strength of one unit of it.
        paper: strength of the paper before it is inverted; None: no paper.

    Raises:
        InputError: at reading, where floats lie outside [0, 1]: most likely an image was given as a sketch.
    """

    def __init__(self, volume: Volume, slope: float = 1.0, paper: float | None = None) -> None:
        self.volume = volume
        self.slope = slope
        self.paper = paper
        self.shape = volume.shape
        self.affine = volume.affine
        self.dtype = volume.dtype
        self.name = volume.name

    @classmethod
    def of(cls, volume: Volume, kind: str = "edges") -> SketchVolume:
        """Finds the scale and, in a 2-D picture, the paper: from all of that, or from a volume's middle slab.

        Raises:
            InputError: kind "signed", and most of the sketch is not a middle grey, as where no edge is near.
        """
        if len(volume.shape) == 2 and kind == "edges":
            return cls._of_picture(volume)
        start = [0] * len(volume.shape)
        shape = list(volume.shape)
        if len(shape) == 3:
            start[-1] = shape[-1] // 2
            shape[-1] = 1
        values = np.asarray(volume.read(start, shape), dtype=np.float32)
        slope = _slope(float(values.max()))
        if kind == "signed":
            _check_signed(values * slope, volume.name)
        return cls(volume, slope)

    @classmethod
    def _of_picture(cls, volume: Volume) -> SketchVolume:
        peak = 0.0
        total = 0.0
        # of 1/255, and of 1
        units = np.zeros(256, np.int64)
        full = np.zeros(256, np.int64)
        for start, shape in iter_boxes(volume.shape, 512):
            values = np.asarray(volume.read(start, shape), dtype=np.float64)
            peak = max(peak, float(values.max()))
            total = total + float(values.sum())
            units += np.bincount(np.rint(values * 255).clip(0, 255).astype(np.int64).ravel(), minlength=256)
            full += np.bincount(np.rint(values).clip(0, 255).astype(np.int64).ravel(), minlength=256)
        slope = _slope(peak)
        counts = units if slope == 1.0 else full
        bright = total * slope > math.prod(volume.shape) / 2
        return cls(volume, slope, max(1, int(counts.argmax())) / 255 if bright else None)

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        values = self.volume.read(start, shape)
        values = (values if values.dtype == np.float64 else values.astype(np.float32)) * self.slope
        if values.size and (values.min() < -1e-3 or values.max() > 1.001):
            raise InputError(
                f"a sketch must hold edge strengths from 0 to 1 (or 0 to 255), got values in {self.name} from "
                f"{values.min() / self.slope:.4g} to {values.max() / self.slope:.4g}; give an image as --image."
            )
        return values.clip(0, 1) if self.paper is None else (1 - values / self.paper).clip(0, 1)


def _check_signed(strengths: np.ndarray, name: str) -> None:
    counts = np.bincount(np.rint(strengths * 255).clip(0, 255).astype(np.int64).ravel(), minlength=256)
    most = int(counts.argmax())
    if not 118 <= most <= 138:
        raise InputError(
            f"{name} must be a signed sketch, middle grey (128 of 255) where no edge is near, brighter on the bright "
            f"side of an edge and darker on its dark side, got one that is mostly {most} of 255; for lines on black or "
            "on paper use weights that were trained on them and --sketch_kind edges, or give an image as --image."
        )


def _slope(peak: float) -> float:
    return 1 / 255 if peak > 1 else 1.0


def _pool(box: np.ndarray, factor: int, kind: str, empty: float = 0.0) -> np.ndarray:
    """Each cell of `factor` voxels an axis by its mean, its max, or its strongest value, the furthest from `empty`.

    The box's sides are multiples of `factor`.
    """
    turned = box.flags.f_contiguous  # as NIfTI files are read; cells have no preferred axis
    values = (box.T if turned else box).astype(np.float64 if box.dtype == np.float64 else np.float32)
    pools: dict[str, Callable[..., torch.Tensor]] = {
        "mean": mean_pool,
        "max": coarser_sketch,
        "strongest": partial(coarser_sketch, empty=empty),
    }
    pooled = pools[kind](torch.from_numpy(values)[None, None], factor)[0, 0].numpy()
    return pooled.T if turned else pooled


def mean_pool(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(B, C, *S) -> (B, C, *S / factor): the mean of each cell."""
    return {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x.ndim - 2](x, factor)
