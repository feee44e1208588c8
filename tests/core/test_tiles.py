"""Tiles cover a volume once, whatever its size, and a region meets the very tiles of its volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.tiles import (
    TileGrid,
    bounding_box,
    check_region,
    check_size,
    check_tile_size,
    coarsen_box,
    dilate_box,
    full_box,
    refine_box,
)

GRIDS = [
    TileGrid.fit(shape, tile, alignment)
    for shape in ((1,), (7, 64), (65, 3), (20, 33, 47), (12, 12, 12))
    for tile in (3, 5, 16, 1000)
    for alignment in (1, 4)
]


def box_of(grid: TileGrid, number: int) -> tuple[slice, ...]:
    return tuple(slice(s, s + n) for s, n in zip(grid.start(number), grid.inside(number)))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.shape} by {g.tile}")
def test_every_voxel_belongs_to_one_tile_and_every_tile_starts_on_its_lattice(grid):
    covered = np.zeros(grid.shape, int)
    for number in grid:
        covered[box_of(grid, number)] += 1
        assert all(s % t == 0 for s, t in zip(grid.start(number), grid.tile))
        assert min(grid.inside(number)) >= 1
    assert (covered == 1).all()
    assert len(grid) == np.prod(grid.counts)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.shape} by {g.tile}")
def test_the_tiles_a_box_touches_are_those_that_brute_force_finds(grid):
    draw = np.random.default_rng(0)
    for _ in range(20):
        low = [int(draw.integers(-3, n)) for n in grid.shape]
        box = tuple((a, int(draw.integers(max(a, 0) + 1, n + 4))) for a, n in zip(low, grid.shape))
        labels = np.zeros(grid.shape, bool)
        labels[tuple(slice(max(a, 0), b) for a, b in box)] = True
        found = [number for number in grid if labels[box_of(grid, number)].any()]
        assert grid.touching(box) == found


def test_numbers_run_in_array_order_last_axis_fastest():
    grid = TileGrid((10, 20), (8, 8))
    assert [grid.start(n) for n in grid] == [(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]
    assert grid.inside(5) == (2, 4)


def test_tiles_are_no_larger_than_the_volume_and_lie_on_the_networks_lattice():
    assert TileGrid.fit((512, 30), 128, alignment=4).tile == (128, 32)
    assert TileGrid.fit((512, 512), (126, 3), alignment=4).tile == (104, 4)
    assert TileGrid.fit((5, 5), 128).tile == (5, 5)


@pytest.mark.parametrize("n", range(1, 300, 7))
@pytest.mark.parametrize("alignment", [1, 4, 16])
def test_as_few_tiles_as_the_size_allows_and_each_as_small_as_their_number_allows(n, alignment):
    size = 48
    grid = TileGrid.fit((n,), size, alignment)
    (tile,), (count,) = grid.tile, grid.counts
    assert tile <= size and tile % alignment == 0
    assert (count - 1) * size < n
    assert tile == alignment or count * (tile - alignment) < n


@pytest.mark.parametrize(
    "shape, share", [((136, 136, 64), 1.1), ((512, 512, 130), 1.06), ((300, 300, 300), 1.01), ((512, 512, 512), 1.0)]
)
def test_tiles_compute_hardly_more_voxels_than_the_volume_has(shape, share):
    grid = TileGrid.fit(shape, 128, alignment=4)
    assert len(grid) * np.prod(grid.tile) <= share * np.prod(shape)


def test_the_grid_of_a_part_of_the_levels_is_a_function_of_shape_and_tile_alone():
    assert TileGrid.fit((50, 40), 16, 2) == TileGrid.fit((50, 40), (16, 16), 2) == TileGrid.fit((50, 40), 17, 2)


@pytest.mark.parametrize("tile_size", [0, -1, (16, 0), (), "128", 12.5, None, True])
def test_a_tile_size_that_is_none_is_refused(tile_size):
    with pytest.raises(InputError, match="tile_size must be a positive number of voxels"):
        check_tile_size(tile_size)


def test_a_tile_size_of_too_few_axes_is_refused():
    assert check_tile_size([16, 8]) == (16, 8) and check_tile_size(16) == 16
    with pytest.raises(InputError, match="tile_size must give 3 numbers"):
        TileGrid.fit((20, 20, 20), (16, 8))


def test_box_arithmetic_agrees_with_voxel_sets():
    """Coarsen: the cells that any voxel of the box lies in; refine: all voxels of the cells; union: the hull."""
    for a, n, f in itertools.product(range(-4, 5), range(1, 7), (2, 3)):
        ((low, high),) = coarsen_box(((a, a + n),), f)
        assert set(range(low, high)) == {v // f for v in range(a, a + n)}
        assert refine_box(((low, high),), f) == ((low * f, high * f),)
    assert bounding_box(((0, 2), (5, 6)), ((-1, 1), (2, 4))) == ((-1, 2), (2, 6))
    assert bounding_box(None, ((1, 2),)) == ((1, 2),)
    assert dilate_box(((2, 4), (0, 5)), 3) == ((-1, 7), (-3, 8))
    assert dilate_box(((2, 4), (0, 5)), 3, (6, 6)) == ((0, 6), (0, 6))
    assert full_box((3, 4)) == ((0, 3), (0, 4))


@pytest.mark.parametrize(
    "region",
    [[[0, 4]], [[0, 4], [5, 5]], [[0, 4], [6, 5]], [[-1, 4], [0, 5]], [[0, 4], [0, 9]], [0, 4], 7, [["a", "b"]] * 2],
)
def test_a_region_that_is_no_box_inside_is_refused(region):
    assert check_region([[0, 10], [7, 8]], (10, 8)) == ((0, 10), (7, 8))
    assert check_region(None, (10, 8)) == ((0, 10), (0, 8))
    with pytest.raises(InputError, match=r"region must be .* inside \(10, 8\) voxels, got "):
        check_region(region, (10, 8))


@pytest.mark.parametrize("size", [[0, 4], [4, -4], [4], 64, "64", [4.5, 4], []])
def test_a_size_that_is_no_shape_is_refused(size):
    assert check_size([4, 5], 2) == (4, 5)
    with pytest.raises(InputError, match="size must give a positive number of voxels for each of 2 axes"):
        check_size(size, 2)
