"""Laws: no seam, no score, whatever the content; a seam scores, more when stronger; boxes change nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.metrics.seams import retile_discrepancy, seam_z


def texture(shape, seed=0):
    """Smooth shapes with texture in one half only: a face/non-face ratio would depend on it."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 6, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    noise = rng.normal(size=shape)
    noise[: shape[0] // 2] *= 0.05
    return 100 * np.sin(x) + noise


def with_offsets(image, tile, strength, seed=1):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(size=[-(-n // tile) for n in image.shape]) * strength
    for axis in range(image.ndim):
        offsets = np.repeat(offsets, tile, axis=axis)
    return image + offsets[tuple(slice(0, n) for n in image.shape)]


class Boxes:
    """A reader that refuses to hand out more than `most` voxels at once."""

    def __init__(self, array, most):
        self.array, self.most, self.shape = array, most, array.shape

    def read(self, start, shape):
        assert np.prod(shape) <= self.most, f"read {shape} at once"
        assert all(s >= 0 and s + n <= whole for s, n, whole in zip(start, shape, self.shape))
        return self.array[tuple(slice(s, s + n) for s, n in zip(start, shape))]


def test_untiled_noise_scores_like_a_standard_normal():
    rng = np.random.default_rng(0)
    scores = np.array([seam_z(rng.normal(size=(64, 64, 64)), 16)["per_axis"] for _ in range(12)])
    assert abs(scores.mean()) < 0.6 and 0.5 < scores.std() < 1.5


def test_content_that_differs_from_plane_to_plane_is_no_seam():
    assert all(abs(z) < 2.5 for z in seam_z(texture((96, 96, 80)), 16)["per_axis"])


def test_a_ramp_and_a_constant_are_no_seams():
    ramp = np.add.outer(np.arange(64.0), 3 * np.arange(64.0))
    assert seam_z(ramp, 16)["value"] < 3
    assert seam_z(np.zeros((64, 64)), 16)["value"] == 0


def test_offset_tiles_score_and_stronger_ones_score_more():
    scores = [seam_z(with_offsets(texture((96, 96, 96)), 16, s), 16)["value"] for s in (0, 0.5, 1, 2, 4)]
    assert scores[0] < 2.5 and scores[1] > 4 and scores == sorted(scores)


def test_only_the_axis_with_seams_scores():
    image = np.random.default_rng(0).normal(size=(64, 64, 64))
    image += (np.arange(64) // 16 % 2 * 3.0)[None, :, None]
    z = seam_z(image, 16)["per_axis"]
    assert z[1] > 5 and abs(z[0]) < 2.5 and abs(z[2]) < 2.5


def test_seams_on_another_grid_do_not_score_until_its_origin_is_given():
    image = with_offsets(np.random.default_rng(0).normal(size=(104, 104)), 16, 3)[8:, 8:]
    assert seam_z(image, 16)["value"] < 2.5
    assert seam_z(image, 16, origin=8)["value"] > 5


def test_the_score_does_not_depend_on_the_boxes_it_is_read_in():
    image = with_offsets(texture((70, 50, 61)), 16, 1)
    whole = seam_z(image, 16, box=128)["per_axis"]
    boxed = seam_z(Boxes(image, most=23 * 20 * 20), (16, 16, 16), box=20)["per_axis"]
    np.testing.assert_allclose(boxed, whole, rtol=1e-9)


def test_integers_do_not_wrap():
    image = np.random.default_rng(0).integers(0, 9, size=(64, 64)) + 250 * (np.arange(64) // 16 % 2)[:, None]
    assert seam_z(image.astype(np.uint8), 16)["per_axis"] == seam_z(image.astype(float) % 256, 16)["per_axis"]


def test_an_image_of_one_tile_has_no_score_and_a_tiny_tile_is_refused():
    assert seam_z(np.zeros((16, 16)), 16)["value"] is None
    with pytest.raises(InputError, match="at least 10"):
        seam_z(np.zeros((64, 64)), 4)


def test_retile_discrepancy_is_the_largest_and_the_mean_difference():
    a = np.random.default_rng(0).normal(size=(30, 40, 20)).astype(np.float32)
    b = a.copy()
    b[29, 39, 19] += 0.5
    found = retile_discrepancy(Boxes(a, 16**3), Boxes(b, 16**3), box=16)
    assert found["max"] == pytest.approx(0.5, rel=1e-6) and found["n"] == a.size
    assert found["mean"] == pytest.approx(0.5 / a.size, rel=1e-6)
    assert retile_discrepancy(a, a)["max"] == 0


def test_retile_discrepancy_shows_a_nan_and_refuses_two_shapes():
    a = np.zeros((40, 40))
    b = a.copy()
    b[3, 3] = np.nan
    assert np.isnan(retile_discrepancy(a, b, box=16)["max"])
    with pytest.raises(InputError, match="one shape"):
        retile_discrepancy(a, a[1:])


@pytest.mark.realdata
def test_a_real_scan_shows_no_seams_until_tiles_of_it_are_shifted_by_20_hu():
    folder = os.environ.get("HIRESMED_DATA")
    path = Path(folder or "") / "ct3d" / "Lung_Dx-A0001_s3_5mm.nii.gz"
    if not folder or not path.exists():
        pytest.skip("HIRESMED_DATA names no folder with ct3d/Lung_Dx-A0001_s3_5mm.nii.gz")
    import nibabel

    scan = np.asarray(nibabel.load(path).dataobj[100:300, 100:300]).astype(np.float32)
    assert all(abs(z) < 2.5 for z in seam_z(scan, 16)["per_axis"])
    assert seam_z(with_offsets(scan, 16, 20), 16)["value"] > 20


@pytest.mark.realdata
def test_the_8_pixel_blocks_of_a_real_jpeg_are_seams_too():
    folder = os.environ.get("HIRESMED_DATA")
    paths = sorted(Path(folder or "/nowhere").glob("xray2d/*.jpg"))[:3]
    if not paths:
        pytest.skip("HIRESMED_DATA names no folder with xray2d/*.jpg")
    from PIL import Image

    for path in paths:
        image = np.asarray(Image.open(path).convert("L"))
        assert seam_z(image, 64)["value"] > 3 > seam_z(image, 67)["value"]
