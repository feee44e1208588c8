"""What a region needs is worked out before any work: all that will be read is made, and no more than a bounded rest."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.receptive_field import ReceptiveField
from hiresmed.core.tiles import Box, TileGrid, full_box
from hiresmed.methods.msgan.levels import number_of_scales, plan_levels


def contains(outer: Box, inner: Box) -> bool:
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, inner))


def clipped(box, shape) -> Box:
    """The voxels of the volume that reading a box needs: what lies outside is answered by the faces."""
    return tuple((min(max(a, 0), n - 1), max(min(b, n), 1)) for (a, b), n in zip(box, shape))


def random_plan(draw: np.random.Generator):
    dims = int(draw.integers(1, 4))
    shape = tuple(int(n) for n in draw.integers(5, 150, dims))
    corners = [sorted(draw.choice(n + 1, 2, replace=False)) for n in shape]
    region = tuple((int(a), int(b)) for a, b in corners)
    factor, scales = int(draw.choice([2, 4])), int(draw.integers(0, 4))
    fields = []
    for _ in range(scales + 1):
        alignment = int(draw.choice([1, 2, 4]))
        fields.append(ReceptiveField(alignment * int(draw.integers(0, 6)), alignment, 0))
    tile, halo = int(draw.integers(4, 40)), int(draw.integers(0, 6))
    return plan_levels(shape, region, factor, fields, tile, halo), shape, region, factor, fields, halo


@pytest.mark.parametrize("seed", range(200))
def test_every_box_that_is_read_lies_in_what_is_made(seed):
    """The reading laws of the cascade: a tile reads its halo, enlarging one cell more, a sketch its own halo."""
    plans, shape, region, factor, fields, halo = random_plan(np.random.default_rng(seed))
    assert contains(plans[0].image, region) and plans[0].shape == shape
    for k, (plan, field) in enumerate(zip(plans, fields)):
        assert plan.scale == factor**k and plan.grid.shape == plan.shape
        for number in plan.grid.touching(plan.image):
            box = [(s - field.halo, s + t + field.halo) for s, t in zip(plan.grid.start(number), plan.grid.tile)]
            assert contains(plan.sketch, clipped(box, plan.shape))
            if k + 1 < len(plans):
                coarser = plans[k + 1]
                assert coarser.shape == tuple(-(-n // factor) for n in plan.shape)
                # linear interpolation takes the cell of each voxel and its nearer neighbour
                read = [(a // factor - 1, -(-b // factor) + 1) for a, b in box]
                assert contains(coarser.image, clipped(read, coarser.shape))
        for number in plan.grid.touching(plan.sketch):
            start, inside = plan.grid.start(number), plan.grid.inside(number)
            box = [(s - halo, s + n + halo) for s, n in zip(start, inside)]
            assert contains(plan.source, clipped(box, plan.shape))
        if k > 0:
            for number in plan.grid.touching(plan.source):
                start, inside = plan.grid.start(number), plan.grid.inside(number)
                pooled = [(s * factor, (s + n) * factor) for s, n in zip(start, inside)]
                assert contains(plans[k - 1].source, clipped(pooled, plans[k - 1].shape))


@pytest.mark.parametrize("seed", range(40))
def test_boxes_are_whole_tiles_within_the_volume(seed):
    for plan in random_plan(np.random.default_rng(seed))[0]:
        for box in (plan.image, plan.sketch, plan.source):
            for (a, b), n, t in zip(box, plan.shape, plan.grid.tile):
                assert 0 <= a < b <= n and a % t == 0 and (b % t == 0 or b == n)


def test_a_small_region_of_a_vast_volume_needs_a_bounded_number_of_tiles():
    fields = [ReceptiveField(16, 2, 16)] * 5 + [ReceptiveField(32, 4, 32)]
    counts = []
    for n in (2048, 4096, 8192):
        region = ((n // 3, n // 3 + 100),) * 3
        plans = plan_levels((n, n, n), region, 2, fields, 64, 5)
        counts.append(sum(len(p.grid.touching(p.image)) for p in plans))
    assert max(counts) <= 6 * 5**3 and max(counts) < 1.5 * min(counts) + 64


def test_the_whole_needs_every_tile_of_every_level_once():
    plans = plan_levels((100, 60), full_box((100, 60)), 2, [ReceptiveField(8, 2, 8)] * 3, 32, 5)
    for plan in plans:
        assert plan.image == plan.sketch == plan.source == full_box(plan.shape)
        assert plan.grid == TileGrid.fit(plan.shape, 32, 2)


def test_the_number_of_scales_is_the_fewest_that_bring_the_base_down():
    for n in range(1, 700):
        for factor in (2, 3, 4, 8):
            scales = number_of_scales((n, 3), 64, factor)
            assert n <= 64 * factor**scales
            assert scales == 0 or n > 64 * factor ** (scales - 1)
