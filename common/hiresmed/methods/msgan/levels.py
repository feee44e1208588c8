"""Which voxels of which level a cascade must make, and where its conditions are needed: worked out before any work.

A region of the finest level needs its tiles, these need the coarser level under them and its halo, and so on down: a
bounded number of tiles a level, whatever the size of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.knobs import parse_int
from ...core.receptive_field import ReceptiveField
from ...core.tiles import Box, TileGrid, bounding_box, coarsen_box, dilate_box, refine_box


@dataclass(frozen=True)
class LevelPlan:
    """One level of a cascade, 0 the finest.

    Attributes:
        shape: spatial shape S of the level.
        scale: voxels of level 0 per voxel here.
        grid: the tiles of the generated image.
        image: box of the tiles that are generated here.
        sketch: box of the sketch that they read, in whole tiles.
        source: box of what the sketches are drawn from (or pooled from), here and on all coarser levels.
    """

    shape: tuple[int, ...]
    scale: int
    grid: TileGrid
    image: Box
    sketch: Box
    source: Box


def number_of_scales(shape: Sequence[int], base_size: int, factor: int) -> int:
    """How many times the base is enlarged: the fewest with a base of at most `base_size` voxels an axis.

    >>> number_of_scales((512, 512, 120), 64, 2)
    3
    """
    base_size = parse_int(base_size, "base_size", least=1)
    return max(0, math.ceil(math.log(max(shape) / base_size, factor) - 1e-9))


def plan_levels(
    shape: Sequence[int],
    region: Box,
    factor: int,
    fields: Sequence[ReceptiveField],
    tile_size: int | Sequence[int],
    source_halo: int,
) -> list[LevelPlan]:
    """Boxes of every level, finest first.

    Args:
        shape: S of level 0.
        region: wanted box of level 0.
        factor: between levels.
        fields: what a tile of each level's network needs, finest first.
        tile_size: of generated tiles, in voxels.
        source_halo: voxels of source around a sketch voxel.
    """
    shapes = [tuple(shape)]
    for _ in fields[1:]:
        shapes.append(tuple(-(-n // factor) for n in shapes[-1]))
    drafts = []
    box = region
    for level, (size, field) in enumerate(zip(shapes, fields)):
        grid = TileGrid.fit(size, tile_size, field.alignment)
        image = _tiles_around(grid, box)
        sketch = _tiles_around(grid, dilate_box(image, field.halo, size))
        drafts.append((size, factor**level, grid, image, sketch))
        if level + 1 < len(fields):
            # linear enlarging reads one coarse voxel more
            box = dilate_box(coarsen_box(dilate_box(image, field.halo, size), factor), 1, shapes[level + 1])
    plans: list[LevelPlan] = []
    source: Box | None = None
    for size, scale, grid, image, sketch in reversed(drafts):
        pooled = (
            None if source is None else tuple((a, min(b, n)) for (a, b), n in zip(refine_box(source, factor), size))
        )
        source = _tiles_around(grid, bounding_box(pooled, dilate_box(sketch, source_halo, size)))
        plans.append(LevelPlan(size, scale, grid, image, sketch, source))
    return plans[::-1]


def _tiles_around(grid: TileGrid, box: Box) -> Box:
    """The box grown to whole tiles, clipped to the volume."""
    return tuple((a // t * t, min(-(-b // t) * t, n)) for (a, b), t, n in zip(box, grid.tile, grid.shape))
