"""What inpainting sees of an image: nothing under the mask, a smooth continuation instead, whatever box is read."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan.filling import FilledView

SHAPES = [(70, 53), (21, 37, 9)]


def case(shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(n // 4, n // 2) for n in shape)] = 3
    mask[tuple(slice(-2, None) for _ in shape)] = 1  # a corner, too
    return draw.normal(0, 100, shape), mask


def filled(image: np.ndarray, mask: np.ndarray, held: int = 8) -> np.ndarray:
    view = FilledView(ArrayVolume(image), ArrayVolume(mask), 0.0, held)
    return view.read((0,) * image.ndim, image.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("held", [4, 8, 64])
def test_a_box_is_the_crop_of_the_whole(shape, held):
    image, mask = case(shape)
    view = FilledView(ArrayVolume(image), ArrayVolume(mask), 0.0, held)
    whole = filled(image, mask, held)
    draw = np.random.default_rng(1)
    for _ in range(20):
        start = [int(draw.integers(0, n)) for n in shape]
        size = [int(draw.integers(1, n - s + 1)) for n, s in zip(shape, start)]
        crop = whole[tuple(slice(s, s + n) for s, n in zip(start, size))]
        np.testing.assert_allclose(view.read(start, size), crop, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_outside_the_mask_nothing_changes_and_nothing_under_it_is_seen(shape):
    image, mask = case(shape)
    other = np.where(mask > 0, 1e6, image)
    assert np.array_equal(filled(image, mask)[mask == 0], image[mask == 0])
    assert np.array_equal(filled(image, mask), filled(other, mask))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_stays_between_what_is_around(shape):
    """A weighted mean of known values, so the fill of a constant is that constant, also at the image's end."""
    image, mask = case(shape)
    inside = filled(image, mask)[mask > 0]
    assert image[mask == 0].min() < inside.min() and inside.max() < image[mask == 0].max()
    np.testing.assert_allclose(filled(np.full(shape, 7.0), mask), 7.0, rtol=1e-12)


def test_a_ramp_is_continued_better_than_by_one_value():
    ramp = np.add.outer(np.arange(80.0), np.zeros(70))
    mask = np.zeros(ramp.shape, np.uint8)
    mask[20:60, 20:50] = 1
    error = np.abs(filled(ramp, mask, held=64) - ramp)[mask > 0].mean()
    assert error < 0.6 * np.abs(ramp - 39.5)[mask > 0].mean()


def test_where_all_is_masked_it_is_one_value():
    assert np.array_equal(filled(np.ones((20, 30)), np.ones((20, 30), np.uint8)), np.zeros((20, 30)))
