"""Blocks get the means that they must have, inside the window, by the least change."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan.means import EnlargedView, with_block_means

WINDOW = (-1.0, 1.0)


def block_means(image: np.ndarray, side: int) -> np.ndarray:
    split = image.reshape([n for length in image.shape for n in (length // side, side)])
    return split.mean(tuple(range(1, split.ndim, 2)))


@pytest.mark.parametrize("shape", [(6, 9), (4, 3, 5)])
@pytest.mark.parametrize("side", [2, 4])
def test_means_are_kept_where_values_meet_the_window(shape, side):
    draw = np.random.default_rng(0)
    means = draw.uniform(-1, 1, shape)
    means.flat[:2] = WINDOW
    values = draw.normal(0, 2, [n * side for n in shape])  # most are beyond it
    kept = with_block_means(values, means, side, WINDOW, np.dtype(float))
    np.testing.assert_allclose(block_means(kept, side), means, rtol=0, atol=1e-12)
    assert kept.min() >= -1 and kept.max() <= 1


def test_what_has_its_means_is_left_alone():
    values = np.random.default_rng(0).uniform(-0.9, 0.9, (8, 12))
    np.testing.assert_allclose(
        with_block_means(values, block_means(values, 2), 2, WINDOW, values.dtype), values, atol=1e-12
    )


def test_inside_the_window_a_block_is_shifted_as_a_whole():
    values = np.random.default_rng(0).uniform(-0.2, 0.2, (8, 12))
    change = with_block_means(values, block_means(values, 2) + 0.3, 2, WINDOW, values.dtype) - values
    np.testing.assert_allclose(change, 0.3, atol=1e-12)


def test_integers_have_their_means_exactly_and_move_by_less_than_one():
    draw = np.random.default_rng(0)
    values = draw.uniform(-900, 900, (16, 8, 12))
    means = np.rint(block_means(values, 2))
    made = with_block_means(values, means, 2, (-1024, 1024), np.dtype(np.int16))
    assert np.array_equal(made, np.rint(made)) and np.array_equal(block_means(made, 2), means)
    unrounded = with_block_means(values, means, 2, (-1024, 1024), np.dtype(float))
    assert np.abs(made - unrounded).max() < 1


def test_a_block_that_reaches_over_the_end_is_as_large_as_the_image_is():
    made = with_block_means(np.zeros((5, 7)), np.full((3, 4), 0.25), 2, WINDOW, np.dtype(float))
    assert made.shape == (5, 7)
    np.testing.assert_allclose(made, 0.25)


@pytest.mark.parametrize("shape", [(9, 14), (6, 5, 7)])
@pytest.mark.parametrize("side", [2, 4])
def test_an_enlarged_view_has_the_sources_means_whatever_box_is_read(shape, side):
    source = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    view = EnlargedView(ArrayVolume(source, np.diag([2.0, 3.0, 4.0, 1.0])), side, (-1024, 1024))
    whole = view.read((0,) * len(shape), view.shape)
    assert whole.dtype == np.int16 and np.array_equal(block_means(whole.astype(float), side), source)
    start, size = [5, 3, 6][: len(shape)], [7, 7, 8][: len(shape)]
    assert np.array_equal(view.read(start, size), whole[tuple(slice(s, s + n) for s, n in zip(start, size))])
    np.testing.assert_allclose(view.spacing, [w / side for w in (2.0, 3.0, 4.0)][: len(shape)])


def test_it_is_nearer_to_a_smooth_image_than_linear_interpolation():
    x = np.linspace(0, 3, 64)
    image = 500 * np.sin(np.add.outer(2.0 * x, 3.0 * x))
    source = block_means(image, 2)
    made = EnlargedView(ArrayVolume(source), 2, (-1024, 1024)).read((0, 0), image.shape)
    assert np.abs(made - image).mean() < 0.5 * np.abs(np.kron(source, np.ones((2, 2))) - image).mean()
    assert np.abs(made - image)[4:-4, 4:-4].max() < 10
