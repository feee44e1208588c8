"""Laws: figures are MONAI's, whatever the boxes; worse images score worse; sums add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.image_similarity import QualitySums, image_quality, quality_sums
from monai.metrics.regression import MAEMetric, PSNRMetric, SSIMMetric

WINDOW = (-1000.0, 600.0)


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-1000, 600, size=shape)
    return np.clip(truth + rng.normal(size=shape) * 80, *WINDOW), truth


@pytest.mark.parametrize("shape", [(40, 33), (26, 24, 20)])
def test_the_figures_are_those_of_monai(shape):
    result, truth = pair(shape)
    unit = [torch.from_numpy((x + 1000) / 1600).float()[None, None] for x in (result, truth)]
    found = image_quality(result, truth, WINDOW, box=16)
    assert found["mae"] == pytest.approx(MAEMetric()(*unit).item() * 1600, rel=1e-5)
    assert found["psnr"] == pytest.approx(PSNRMetric(max_val=1.0)(*unit).item(), rel=1e-5)
    assert found["ssim"] == pytest.approx(SSIMMetric(len(shape), data_range=1.0)(*unit).item(), abs=1e-5)


def test_the_boxes_do_not_change_the_figures():
    result, truth = pair((37, 45, 29))
    whole = image_quality(result, truth, WINDOW, box=64)
    boxed = image_quality(result, truth, WINDOW, box=13)
    assert boxed["n"] == whole["n"] == result.size
    for name in ("mae", "psnr", "ssim"):
        assert boxed[name] == pytest.approx(whole[name], rel=1e-6)


def test_a_constant_error_gives_its_size_and_the_closed_form_of_psnr():
    truth = np.zeros((20, 20))
    found = image_quality(truth + 16, truth, WINDOW)
    assert found["mae"] == pytest.approx(16) and found["psnr"] == pytest.approx(40)


def test_equal_images_have_ssim_1_and_no_psnr():
    truth = pair((20, 20))[1]
    found = image_quality(truth, truth, WINDOW)
    assert found["psnr"] is None and found["mae"] == 0 and found["ssim"] == pytest.approx(1, abs=1e-6)


def test_padding_outside_the_window_does_not_count():
    truth = pair((20, 20))[1]
    padded = truth.copy()
    truth[:5], padded[:5] = -1000, -3024
    assert image_quality(padded, truth, WINDOW)["mae"] == 0


def test_more_noise_is_worse_in_every_figure():
    rng = np.random.default_rng(0)
    truth = np.add.outer(np.linspace(-900, 500, 64), np.zeros(64))
    noise = rng.normal(size=truth.shape)
    found = [image_quality(truth + s * noise, truth, WINDOW) for s in (5, 20, 80)]
    assert [f["mae"] for f in found] == sorted(f["mae"] for f in found)
    assert [f["psnr"] for f in found] == sorted((f["psnr"] for f in found), reverse=True)
    assert [f["ssim"] for f in found] == sorted((f["ssim"] for f in found), reverse=True)


def test_sums_of_two_images_add_up_to_those_of_both():
    (a, b), (c, d) = pair((20, 24), 0), pair((15, 24), 1)
    merged = quality_sums(a, b, WINDOW).merge(quality_sums(c, d, WINDOW)).result()
    both = np.concatenate([a, c]), np.concatenate([b, d])
    assert merged["mae"] == pytest.approx(np.abs(both[0] - both[1]).mean())
    assert merged["psnr"] == pytest.approx(10 * np.log10(1600**2 / ((both[0] - both[1]) ** 2).mean()))


def test_an_image_smaller_than_the_kernel_has_no_ssim_but_an_error():
    found = image_quality(np.zeros((10, 30)), np.ones((10, 30)), WINDOW)
    assert found["ssim"] is None and found["mae"] == pytest.approx(1)


def test_a_nan_in_the_result_is_not_hidden():
    truth = np.zeros((20, 20))
    result = truth.copy()
    result[2, 2] = np.nan
    assert np.isnan(image_quality(result, truth, WINDOW)["mae"])


def test_two_shapes_two_windows_and_an_empty_window_are_refused():
    a = np.zeros((20, 20))
    with pytest.raises(InputError, match="one shape"):
        image_quality(a, a[1:], WINDOW)
    with pytest.raises(InputError, match="low < high"):
        image_quality(a, a, (5, 5))
    with pytest.raises(InputError, match="one window"):
        QualitySums((0.0, 1.0)).merge(QualitySums((0.0, 2.0)))
