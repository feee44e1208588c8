"""Sketches: one voxel thin, local, in fixed units, the same from either side of an edge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hiresmed.methods.msgan import GradientSketch, GradientSketchd


def image(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 1, *[n // 4 + 2 for n in shape]), generator=draw) * 2 - 1
    bricks = F.interpolate(coarse, scale_factor=4.0)[(..., *(slice(0, n) for n in shape))]
    return (bricks + 0.02 * torch.randn(bricks.shape, generator=draw)).contiguous()


def step(height: float, dims: int = 2, at: int = 12, size: int = 24) -> torch.Tensor:
    """0 before `at`, `height` from there on, along the first axis."""
    edge = torch.zeros(1, 1, *[size] * dims)
    edge[:, :, at:] = height
    return edge


@pytest.mark.parametrize("shape", [(60, 50), (34, 30, 28)])
@pytest.mark.parametrize("options", [{}, {"sigma": 1.7, "threshold": 0.1}, {"binary": True}])
def test_the_sketch_of_a_tile_is_the_crop_of_the_sketch_to_the_bit(shape, options):
    sketcher, whole = GradientSketch(**options), image(*shape)
    h, drawn = sketcher.halo, sketcher(whole)
    assert drawn.shape[2:] == tuple(n - 2 * h for n in shape) and 0.02 < float((drawn > 0).float().mean()) < 0.6
    draw = np.random.default_rng(0)
    for _ in range(10):
        start = [int(draw.integers(0, n - 2 * h)) for n in shape]
        size = [int(draw.integers(1, n - 2 * h - s + 1)) for n, s in zip(shape, start)]
        tile = whole[(..., *(slice(s, s + n + 2 * h) for s, n in zip(start, size)))]
        assert torch.equal(sketcher(tile), drawn[(..., *(slice(s, s + n) for s, n in zip(start, size)))])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_straight_edge_is_one_voxel_thin_and_lies_at_the_step(dims, axis):
    sketcher = GradientSketch()
    edge = step(0.5, dims).transpose(2, axis if axis < 0 else 2 + axis)
    lines = (sketcher(edge)[0, 0] > 0).movedim(axis, 0)
    assert (lines.sum(0) == 1).all()
    assert lines.nonzero()[:, 0].unique().tolist() in ([11 - sketcher.halo], [12 - sketcher.halo])


def test_a_slanted_edge_and_a_sphere_are_thin():
    at = torch.arange(48.0)
    slanted = ((at[:, None] + 0.6 * at[None]) > 38).float()[None, None]
    per_row = (GradientSketch()(slanted)[0, 0] > 0).sum(0)
    assert per_row.min() >= 1 and per_row.max() <= 2, "a staircase, nowhere a band"
    ball = torch.stack(torch.meshgrid(at, at, at, indexing="ij")).sub(23.5).square().sum(0).sqrt()
    shell = GradientSketch()((ball < 14).float()[None, None])[0, 0] > 0
    h = GradientSketch().halo
    radius = ball[h:-h, h:-h, h:-h][shell]
    assert radius.min() > 12.5 and radius.max() < 15.5
    assert len(radius) < 1.5 * 4 * math.pi * 14**2, "about one voxel for each unit of the surface"


def test_strength_is_the_square_root_of_the_steps_slope_up_to_saturation():
    """A step of height c, smoothed by sigma and differenced over two voxels, has the slope c x k at its edge."""
    sketcher = GradientSketch()
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    weights /= weights.sum()
    k = (weights[3] + weights[2]) / 2  # the smoothed step rises by w0 + w1 over the two voxels
    for height in (0.1, 0.3, 0.6, 0.9):
        drawn = float(sketcher(step(height)).max())
        assert drawn == pytest.approx(min(1.0, math.sqrt(height * k / 0.4)), abs=1e-5)
    assert float(sketcher(step(2.0)).max()) == 1.0


@pytest.mark.parametrize("shape", [(34, 30), (22, 20, 21)])
def test_lines_are_the_voxels_that_top_both_neighbours_in_the_nearest_of_all_directions(shape):
    """Against the definition, voxel by voxel: Gaussian, central differences, every direction of the 3^D block."""
    picture, sketcher = image(*shape)[0, 0].double(), GradientSketch(threshold=0.05)
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    smooth = picture.numpy()
    for axis in range(len(shape)):
        smooth = np.apply_along_axis(np.convolve, axis, smooth, weights / weights.sum(), "valid")
    slopes = np.stack(np.gradient(smooth))[(slice(None), *[slice(1, -1)] * len(shape))]
    magnitude = np.sqrt((slopes**2).sum(0))
    steps = [np.array(s) for s in itertools.product((-1, 0, 1), repeat=len(shape)) if s > (0,) * len(shape)]
    wanted = np.zeros([n - 2 for n in magnitude.shape])
    for at in np.ndindex(wanted.shape):
        here = np.array(at) + 1
        cosines = [abs(step @ slopes[(slice(None), *here)]) / np.linalg.norm(step) for step in steps]
        step, value = steps[int(np.argmax(cosines))], magnitude[tuple(here)]
        if value > 0.05 and value >= magnitude[tuple(here + step)] and value > magnitude[tuple(here - step)]:
            wanted[at] = min(1.0, math.sqrt(value / 0.4))
    drawn = sketcher(picture[None, None])[0, 0].numpy()
    assert 0.02 < (wanted > 0).mean() < 0.5
    np.testing.assert_allclose(drawn, wanted, atol=1e-9)


def test_below_the_threshold_there_is_nothing_and_above_it_something():
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    weights /= weights.sum()
    height = 0.02 / ((weights[3] + weights[2]) / 2)  # the faintest step drawn: 63 HU of 1024 per unit
    assert 50 < 1024 * height < 70
    assert not GradientSketch()(step(0.98 * height)).any()
    assert GradientSketch()(step(1.02 * height)).any()
    assert not GradientSketch()(torch.full((1, 1, 20, 20), 0.7)).any()


def test_it_does_not_matter_which_side_is_bright():
    for shape in ((60, 50), (30, 28, 26)):
        bright = image(*shape)
        assert torch.allclose(GradientSketch()(bright), GradientSketch()(-bright), atol=1e-6)
        assert torch.allclose(GradientSketch()(bright), GradientSketch()(bright + 0.5), atol=1e-4)


def test_binary_draws_the_same_lines_as_a_pencil():
    grey, black = GradientSketch()(image(60, 50)), GradientSketch(binary=True)(image(60, 50))
    assert black.unique().tolist() == [0.0, 1.0]
    assert torch.equal(black > 0, grey > 0)
    assert float(grey.min()) == 0 and float(grey.max()) <= 1 and len(grey.unique()) > 100


def test_a_batch_is_drawn_image_by_image():
    one, other = image(40, 40), image(40, 40).flip(2)
    both = GradientSketch()(torch.cat([one, other]))
    assert torch.equal(both[:1], GradientSketch()(one)) and torch.equal(both[1:], GradientSketch()(other))


def test_the_dictionary_form_gives_a_sketch_of_the_images_size_with_no_edge_at_its_faces():
    data = GradientSketchd(sigma=1.0)({"image": image(40, 30)[0]})
    assert data["sketch"].shape == data["image"].shape
    h = GradientSketch().halo
    assert torch.equal(data["sketch"][:, h:-h, h:-h], GradientSketch()(image(40, 30))[0])
    flat = GradientSketchd()({"image": torch.full((1, 12, 12), 0.9)})
    assert not flat["sketch"].any()
