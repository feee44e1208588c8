"""Where voxels lie: a patch knows its place as the whole volume does, in each convention and each orientation."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.coordinates import (
    CONVENTIONS,
    axis_coordinates,
    oriented_coordinates,
    patch_coordinates,
)
from hiresmed.core.errors import InputError
from whole_volume import volume_coordinates


def test_conventions_by_hand():
    """Four voxels from -1 to 1: their centres; from end to end; the lower corners (Lee 2022, eq. 1)."""
    assert axis_coordinates(0, 4, 4, "centre").tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert axis_coordinates(0, 4, 4, "endpoint", torch.float64).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert axis_coordinates(0, 4, 4, "corner").tolist() == [-1, -0.5, 0, 0.5]
    assert axis_coordinates(0, 1, 1, "centre").tolist() == [0]


@pytest.mark.parametrize("n", [2, 3, 17, 256])
def test_endpoint_is_linspace_and_centre_is_what_grid_sample_calls_unaligned(n):
    """The papers' conventions: PatchDDM and CIPS use linspace; align_corners=False means cell centres."""
    assert torch.allclose(axis_coordinates(0, n, n, "endpoint"), torch.linspace(-1, 1, n), atol=1e-6)
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    grid = torch.nn.functional.affine_grid(theta, (1, 1, 1, n), align_corners=False)
    assert torch.allclose(axis_coordinates(0, n, n, "centre"), grid[0, 0, :, 0], atol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("start", "shape", "size"), [((2, 0, 5), (3, 7, 2), (9, 7, 8)), ((4, 1), (1, 6), (5, 7))])
def test_a_patch_knows_its_place_as_the_volume_does(convention, start, shape, size):
    whole = volume_coordinates(size, convention)
    crop = whole[(slice(None), *(slice(s, s + n) for s, n in zip(start, shape)))]
    assert torch.equal(patch_coordinates(start, shape, size, convention), crop)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_beyond_the_faces_the_law_goes_on(convention):
    inner, wide = axis_coordinates(0, 5, 5, convention), axis_coordinates(-3, 11, 5, convention)
    assert torch.equal(wide[3:8], inner)
    assert torch.allclose(wide.diff(), wide.diff()[:1].expand(10), atol=1e-6) and wide[0] < -1


def test_channel_d_is_the_coordinate_along_array_axis_d():
    where = volume_coordinates((3, 4, 5))
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        assert (where[axis].amax(others) == where[axis].amin(others)).all() and where[axis].diff(dim=axis).min() > 0


@pytest.mark.parametrize(("shape", "step"), [((12, 8), 2), ((12, 8), 4), ((6, 12, 9), 3)])
def test_a_coarse_centre_is_the_mean_of_its_fine_ones_and_only_under_that_convention(shape, step):
    def pooled(convention):
        fine = volume_coordinates(shape, convention).double()
        for axis in range(1, len(shape) + 1):
            fine = fine.unflatten(axis, (-1, step)).mean(axis + 1)
        return (fine - volume_coordinates([-(-n // step) for n in shape], convention).double()).abs().max()

    assert pooled("centre") < 1e-6
    assert pooled("endpoint") > 0.02 and pooled("corner") > 0.02


def test_the_same_anatomy_has_the_same_coordinates_in_every_storage_order():
    """All 48 orientations of one volume: a voxel's oriented coordinates follow it wherever it is stored."""
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    ras = nibabel.Nifti1Image(volume_coordinates((4, 5, 6)).permute(1, 2, 3, 0).numpy(), affine)
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        stored = ras.as_reoriented(np.array(list(zip(order, signs))))
        found = oriented_coordinates(volume_coordinates(stored.shape[:3]), stored.affine)
        assert np.allclose(found.numpy(), np.moveaxis(stored.get_fdata(), -1, 0), atol=1e-6)


def test_ras_is_left_alone_lps_is_turned_and_an_oblique_axis_goes_by_its_nearest():
    where = volume_coordinates((3, 3, 3))
    assert torch.equal(oriented_coordinates(where, np.eye(4)), where)
    lps = oriented_coordinates(where, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert torch.equal(lps, where * torch.tensor([-1.0, -1, 1]).view(3, 1, 1, 1))
    tilted = np.eye(4)
    tilted[:3, :3] = [[0.2, 0.9, 0.1], [-0.9, 0.2, 0.1], [0.1, -0.1, 2.0]]  # i runs to the front's back, j to the right
    assert torch.equal(oriented_coordinates(where, tilted), torch.stack([where[1], -where[0], where[2]]))


def test_a_2d_image_has_no_orientation():
    where = volume_coordinates((3, 4))
    assert torch.equal(oriented_coordinates(where, np.diag([-1.0, -1.0, 1.0, 1.0])), where)


def test_an_unknown_convention_is_refused_by_the_known_ones():
    with pytest.raises(InputError, match="one of centre, endpoint, corner, got 'middle'"):
        axis_coordinates(0, 2, 2, "middle")
