"""Laws: white noise of variance v has power v everywhere; a wave has its power in its bin; blur and noise show."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.metrics.spectrum import radial_spectrum, spectral_distance
from scipy.ndimage import gaussian_filter


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(512, 512), (96, 96, 96)])
def test_white_noise_has_its_variance_as_power_at_every_frequency(shape):
    power = radial_spectrum(3 * noise(shape), box=32)["power"]
    # the removed mean and the window leave a little less in the first bin
    np.testing.assert_allclose(power[1:], 9, rtol=0.15)


def test_a_wave_has_its_power_in_its_own_bin():
    x = np.arange(128)
    found = radial_spectrum(np.cos(2 * np.pi * 8 / 64 * x)[:, None] * np.ones(128), box=64)
    assert found["frequency"][found["power"].argmax()] == 8 / 64
    assert found["power"][12:].max() < 1e-20 * found["power"].max() + 1e-20


def test_an_offset_and_a_flip_change_nothing():
    image = noise((96, 96))
    for other in (image + 1000, image[::-1], image.T):
        assert spectral_distance(image, other, box=32)["value"] < 1e-6


def test_doubled_contrast_is_6_decibels():
    image = noise((64, 64, 64))
    assert spectral_distance(2 * image, image, box=32)["value"] == pytest.approx(20 * np.log10(2))


def test_more_blur_and_more_noise_lie_farther():
    image = gaussian_filter(noise((256, 256)), 1.5) * 100
    blurred = [spectral_distance(gaussian_filter(image, s), image)["value"] for s in (0.5, 1, 2)]
    noisy = [spectral_distance(image + s * noise(image.shape, 1), image)["value"] for s in (0.1, 0.5, 2)]
    assert 0 < blurred[0] < blurred[1] < blurred[2] and 0 < noisy[0] < noisy[1] < noisy[2]


def test_it_reads_boxes_and_no_more():
    class Reader:
        shape = (4096, 4096, 4096)
        count = 0

        def read(self, start, shape):
            self.count += 1
            assert tuple(shape) == (64, 64, 64)
            return noise(shape, self.count)

    reader = Reader()
    assert radial_spectrum(reader, every=32)["boxes"] == reader.count == 8


def test_two_constant_images_are_equal_and_a_small_one_is_refused():
    assert spectral_distance(np.zeros((64, 64)), np.ones((64, 64)))["value"] == 0
    with pytest.raises(InputError, match="lower `box`"):
        radial_spectrum(np.zeros((64, 63)))
