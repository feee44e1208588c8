"""Laws of the procedural patients: a box is a crop, a size is a resolution, a seed is a patient."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.phantoms import ChestXrayPhantom, ThoraxPhantom


@pytest.fixture(scope="module")
def phantom():
    return ThoraxPhantom((72, 60, 68), seed=1)


@pytest.fixture(scope="module")
def whole(phantom):
    return phantom.read((0, 0, 0), phantom.shape)


def world(phantom, values, *points):
    """Values at points given in mm of the patient's own frame (left, back, head)."""
    index = [(np.array(p) * phantom.patient.scale / phantom.spacing + np.array(phantom.shape) / 2) for p in points]
    return [float(values[tuple(i.astype(int))]) for i in index]


@pytest.mark.parametrize("seed", range(5))
def test_any_box_is_the_crop_of_the_whole_bit_for_bit_with_noise(phantom, whole, seed):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        start = [int(rng.integers(0, n - 1)) for n in phantom.shape]
        shape = [int(rng.integers(1, n - s + 1)) for s, n in zip(start, phantom.shape)]
        crop = whole[tuple(slice(s, s + m) for s, m in zip(start, shape))]
        np.testing.assert_array_equal(phantom.read(start, shape), crop)


def test_a_single_slice_is_the_slice_of_the_whole(phantom, whole):
    """A one-voxel box skips most shapes: none of them may have reached it."""
    for k in range(0, phantom.shape[2], 5):
        np.testing.assert_array_equal(phantom.read((0, 0, k), (72, 60, 1))[..., 0], whole[..., k])
    for j in range(0, phantom.shape[1], 7):
        np.testing.assert_array_equal(phantom.read((0, j, 0), (72, 1, 68))[:, 0], whole[:, j])


def test_the_box_law_holds_on_strongly_anisotropic_and_on_tiny_grids():
    for shape in ((80, 70, 9), (5, 6, 4)):
        phantom = ThoraxPhantom(shape, seed=1)
        whole = phantom.read((0, 0, 0), shape)
        for k in range(shape[2]):
            np.testing.assert_array_equal(phantom.read((2, 1, k), (3, 4, 1)), whole[2:5, 1:5, k : k + 1])


def test_the_small_version_is_the_block_mean_of_the_large_one():
    small, large = (ThoraxPhantom((n,) * 3, seed=1, noise=False).read((0, 0, 0), (n,) * 3) for n in (64, 128))
    mean = large.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5))
    error = np.abs(small - mean)
    assert np.corrcoef(small.ravel(), mean.ravel())[0, 1] > 0.99
    assert np.median(error) < 4
    assert error.mean() < 25
    assert abs(small.mean() - mean.mean()) < 3
    shifted = np.abs(np.roll(small, 1, axis=0) - mean)
    assert error.mean() < 0.6 * shifted.mean()  # not half a voxel away either


def test_organs_lie_where_anatomy_puts_them_with_their_hu(phantom):
    quiet = ThoraxPhantom((180, 150, 170), seed=1, noise=False)
    read = lambda p, n=3: quiet.read(  # noqa: E731
        [int(v) - n // 2 for v in np.array(p) * quiet.patient.scale / quiet.spacing + np.array(quiet.shape) / 2],
        (n,) * 3,
    )
    assert read((0, -149, 0), 1).max() == -1000  # air in front
    assert -930 < np.median(read((-70, 20, 40), 15)) < -750  # right lung
    assert -930 < np.median(read((75, 40, 10), 15)) < -750  # left lung
    assert 80 < read((-80, 0, -120), 9).mean() < 130  # liver, right, with contrast
    sway = float(quiet.patient.sway(0.0))
    assert 150 < np.median(read((25 + sway, 36, 0), 5)) < 250  # descending aorta, left of the spine
    sway = float(quiet.patient.sway(100.0))
    assert read((-1 + sway, 10, 100), 3).mean() < -850  # trachea
    level = float(quiet.patient.levels[9])
    depth = float(quiet.patient.spine_depth(level))
    assert 100 < read((float(quiet.patient.sway(level)), depth, level), 3).mean() < 350  # vertebra, behind
    assert (quiet.read((0, 0, 0), (180, 150, 40)) > 600).any()  # cortical bone


def test_lungs_hold_a_plausible_volume_of_air(phantom, whole):
    litres = np.count_nonzero((whole > -960) & (whole < -600)) * np.prod(phantom.spacing) / 1e6
    assert 2.5 < litres < 7


def test_contrast_brightens_the_aorta_and_leaves_bone_alone():
    plain, bright = (ThoraxPhantom((90, 75, 85), seed=1, noise=False, contrast=c) for c in (False, True))
    a, b = (p.read((0, 0, 0), p.shape) for p in (plain, bright))
    point = (25 + float(plain.patient.sway(0.0)), 36, 0)
    assert world(plain, a, point)[0] < 70 < 150 < world(bright, b, point)[0]
    assert np.mean(a != b) < 0.2
    assert (b >= a - 1).all()


def test_the_noise_has_its_deviation_and_is_not_there_when_switched_off(phantom, whole):
    quiet = ThoraxPhantom(phantom.shape, seed=1, noise=False).read((0, 0, 0), phantom.shape)
    noise = (whole - quiet)[(quiet > -900)]
    assert abs(noise.mean()) < 0.3
    assert 13.5 < noise.std() < 14.5


def test_same_seed_same_patient_other_seed_other_patient():
    a, again, b = (ThoraxPhantom((40, 40, 40), seed=s, noise=False).read((0, 0, 0), (40,) * 3) for s in (1, 1, 6))
    np.testing.assert_array_equal(a, again)
    assert np.mean(np.abs(a - b) > 100) > 0.02


def test_values_are_whole_hu_and_fit_the_dtype_it_claims(phantom, whole):
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, whole.astype(phantom.dtype))


def test_the_affine_is_centred_and_points_left_back_and_head():
    phantom = ThoraxPhantom((20, 30, 17), field_of_view_mm=(200, 300, 340))
    assert phantom.spacing == pytest.approx((10, 10, 20))
    middle = phantom.affine @ [9.5, 14.5, 8, 1]
    np.testing.assert_allclose(middle, [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_array_equal(np.sign(np.diag(phantom.affine)[:3]), [-1, -1, 1])


def test_memory_follows_the_box_not_the_volume():
    phantom = ThoraxPhantom((4096, 4096, 4096), seed=1)
    tracemalloc.start()
    phantom.read((2000, 2000, 2000), (64, 64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 64**3 * 4


@pytest.mark.parametrize("shape", [(0, 5, 5), (5, 5), (4.5, 4, 4), (-1, 4, 4)])
def test_an_impossible_size_is_refused_in_one_sentence(shape):
    with pytest.raises(InputError, match="ThoraxPhantom must have 3 positive whole numbers"):
        ThoraxPhantom(shape)


@pytest.fixture(scope="module")
def radiograph():
    phantom = ChestXrayPhantom((150, 170), seed=1)
    return phantom, phantom.read((0, 0), phantom.shape)


def test_any_box_of_the_radiograph_is_the_crop_of_the_whole(radiograph):
    phantom, whole = radiograph
    rng = np.random.default_rng(0)
    for _ in range(12):
        start = [int(rng.integers(0, n - 1)) for n in phantom.shape]
        shape = [int(rng.integers(1, n - s + 1)) for s, n in zip(start, phantom.shape)]
        crop = whole[start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]
        np.testing.assert_array_equal(phantom.read(start, shape), crop)


def test_the_radiograph_shows_dark_lungs_a_white_belly_and_the_heart_on_the_left(radiograph):
    _, grey = radiograph
    lung_right, lung_left = grey[60:80, 40:55].mean(), grey[50:70, 118:133].mean()
    spine, belly = grey[100:110, 80:90].mean(), grey[140:, 40:130].mean()
    assert max(lung_right, lung_left) < 0.8 * min(spine, belly)
    assert grey[85:100, 100:110].mean() > grey[85:100, 60:70].mean() + 100  # image right is the patient's left
    assert grey.min() >= 0
    assert grey.max() <= 4095


def test_the_small_radiograph_is_the_block_mean_of_the_large_one():
    small, large = (ChestXrayPhantom((n, n), seed=1, noise=False).read((0, 0), (n, n)) for n in (128, 256))
    error = np.abs(small - large.reshape(128, 2, 128, 2).mean(axis=(1, 3)))
    assert error.mean() < 25  # of 4095


def test_a_phantom_that_nobody_reads_is_not_grown(monkeypatch):
    """Bundles have a default phantom, also where an image is given; growing its vessels takes 2 s."""
    grown = []
    monkeypatch.setattr("hiresmed.phantoms.thorax._person", lambda seed: grown.append(seed))
    ThoraxPhantom((64, 64, 64), seed=3)
    assert grown == []
