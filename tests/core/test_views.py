"""A view shows another volume's values where they lie in the patient, and reads no more than it must."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.views import RegionView, ResampledView, TurnedView, picture_turn
from hiresmed.core.volumes import ArrayVolume

OBLIQUE = np.array([[0.6, -0.4, 0.0, 11.0], [0.3, 0.8, 0.1, -7.0], [0.0, -0.1, 2.0, 30.0], [0, 0, 0, 1]])


def volume(*shape: int) -> ArrayVolume:
    return ArrayVolume(np.random.default_rng(0).normal(0, 1, shape).astype(np.float32), OBLIQUE, "random")


def ramp(*shape: int) -> ArrayVolume:
    """Each voxel holds its own position in mm: linear, so that linear interpolation is exact."""
    index = np.indices((*shape, *[1] * (3 - len(shape)))).reshape(3, -1)
    world = OBLIQUE @ np.vstack([index, np.ones(index.shape[1])])
    return ArrayVolume((world[0] + 2 * world[1] - world[2]).reshape(shape), OBLIQUE)


def everything(view) -> np.ndarray:
    return np.asarray(view.read([0] * len(view.shape), view.shape))


def at_centres(view) -> np.ndarray:
    index = np.indices((*view.shape, *[1] * (3 - len(view.shape)))).reshape(3, -1)
    world = view.affine @ np.vstack([index, np.ones(index.shape[1])])
    return (world[0] + 2 * world[1] - world[2]).reshape(view.shape)


def test_a_region_is_a_crop_that_lies_where_it_lay():
    whole = ramp(7, 8, 9)
    view = RegionView(whole, ((2, 5), (0, 8), (8, 9)))
    assert view.shape == (3, 8, 1) and view.name == whole.name and view.dtype == whole.dtype
    assert np.array_equal(everything(view), whole.array[2:5, :, 8:9])
    assert np.allclose(everything(view), at_centres(view)), "voxels keep their place in mm"
    assert np.array_equal(view.read((1, 2, 0), (2, 3, 1)), whole.array[3:5, 2:5, 8:9])


def test_beyond_its_faces_a_region_goes_on_with_its_own_values():
    view = RegionView(volume(9, 9), ((3, 6), (2, 7)))
    assert np.array_equal(view.read_extended((-2, 0), (4, 5))[:3], np.repeat(everything(view)[:1], 3, 0))


@pytest.mark.parametrize(
    ("shape", "new"), [((12, 9), (24, 27)), ((12, 9), (17, 11)), ((12, 9, 8), (6, 9, 13)), ((40, 30), (9, 7))]
)
def test_linear_values_stay_where_they_are_in_mm(shape, new):
    """Away from the faces, where the field goes on, a ramp is reproduced exactly on any grid, finer or coarser."""
    view = ResampledView(ramp(*shape), new)
    found, expected = everything(view), at_centres(view)
    inner = tuple(slice(int(np.ceil(m / n)), m - int(np.ceil(m / n))) for n, m in zip(shape, new))
    assert found[inner].size and np.allclose(found[inner], expected[inner], atol=1e-4)


@pytest.mark.parametrize("new", [(24, 27), (17, 11), (5, 4), (12, 9)])
def test_the_field_of_view_stays(new):
    source = volume(12, 9)
    view = ResampledView(source, new)
    for corner in ([-0.5, -0.5, 0, 1], [1, 1, 0, 1]):
        here = np.array(corner) if corner[0] < 0 else np.array([new[0] - 0.5, new[1] - 0.5, 0, 1])
        there = np.array(corner) if corner[0] < 0 else np.array([11.5, 8.5, 0, 1])
        assert np.allclose(view.affine @ here, source.affine @ there)


def test_the_same_grid_is_the_same_image_and_a_constant_stays_constant():
    source = volume(12, 9)
    assert np.array_equal(everything(ResampledView(source, (12, 9))), source.array)
    for new in ((24, 5), (7, 31)):
        assert np.allclose(everything(ResampledView(ArrayVolume(np.full((12, 9), 7.0)), new)), 7, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_whole_fold_coarser_grid_is_the_mean_of_its_cells(factor):
    source = volume(6 * factor, 5 * factor)
    cells = source.array.reshape(6, factor, 5, factor).mean((1, 3))
    assert np.allclose(everything(ResampledView(source, (6, 5))), cells, atol=1e-5)


@pytest.mark.parametrize("new", [(25, 30), (7, 4), (12, 31)])
def test_a_box_is_the_crop_of_the_whole_view(new):
    view = ResampledView(volume(13, 11), new)
    whole, draw = everything(view), np.random.default_rng(1)
    for _ in range(20):
        start = [int(draw.integers(0, n)) for n in new]
        shape = [int(draw.integers(1, n - s + 1)) for n, s in zip(new, start)]
        assert np.array_equal(view.read(start, shape), whole[tuple(slice(s, s + n) for s, n in zip(start, shape))])


def test_a_box_of_a_vast_view_reads_a_small_box_of_its_source():
    class Watched(ArrayVolume):
        def read(self, start, shape):
            seen.append(list(shape))
            return super().read(start, shape)

    seen: list[list[int]] = []
    ResampledView(Watched(np.zeros((400, 400), np.float32)), (1600, 800)).read((700, 300), (40, 20))
    assert len(seen) == 1 and max(seen[0]) <= 12


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, False)])
def test_a_turned_volume_lies_where_it_lay_and_turns_back(axes, flips):
    whole = ramp(7, 8, 9)
    view = TurnedView(whole, axes, flips)
    assert np.allclose(everything(view), at_centres(view)), "voxels keep their place in mm"
    assert np.array_equal(view.read((1, 2, 3), (2, 3, 4)), everything(view)[1:3, 2:5, 3:7])
    again = view.back(view)
    assert np.array_equal(everything(again), whole.array) and np.allclose(again.affine, whole.affine)
    part = view.back(RegionView(view, ((0, 2), (1, 4), (2, 3))))
    assert np.allclose(everything(part), at_centres(part)), "and so does a region, turned back"


DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@pytest.mark.parametrize("plane", ["RA", "RS", "AS"])
def test_a_picture_has_rows_to_the_back_or_the_feet_and_columns_to_the_left_or_the_back(plane):
    """However a slice is stored, in all eight ways; and then it is left alone."""
    opposite = dict(zip("RALPSI", "LPRAIS"))
    for first, second in (plane, plane[::-1]):
        for one in (first, opposite[first]):
            for two in (second, opposite[second]):
                affine = np.eye(4)
                affine[:3, :3] = np.column_stack(
                    [DIRECTIONS[one], DIRECTIONS[two], np.cross(DIRECTIONS[one], DIRECTIONS[two])]
                )
                view = TurnedView(ArrayVolume(np.zeros((4, 5)), affine), *picture_turn(affine, undirected=False))
                letters = [next(d for d in DIRECTIONS if np.allclose(DIRECTIONS[d], a)) for a in view.affine.T[:2, :3]]
                assert letters == [opposite[plane[1]], opposite[plane[0]]]
                assert picture_turn(view.affine) == ((0, 1), (False, False))
