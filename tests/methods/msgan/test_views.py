"""A random field of view is what inference would see of another scan: means of cells, air around, its own sketch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.datasets.datalists import list_cases
from hiresmed.methods.msgan import MultiScaleGenerator, MultiScalePatches, RandomViews, SignedSketch, prepare_case
from hiresmed.methods.msgan.patches import PreparedCase
from hiresmed.methods.msgan.sketch import sketch_of_whole
from hiresmed.methods.msgan.views import view_of

WINDOW = (-1000.0, 1000.0)
SHAPES = [(64, 56), (40, 32, 24)]


def encode(values):
    return (np.asarray(values, np.float32) / 1000).clip(-1, 1)


def case(shape, affine=None, weight: float = 1.0) -> PreparedCase:
    draw = np.random.default_rng(0)
    bricks = draw.uniform(-900, 900, [-(-n // 6) for n in shape])
    for axis in range(len(shape)):
        bricks = bricks.repeat(6, axis)
    volume = ArrayVolume(bricks[tuple(slice(0, n) for n in shape)].astype(np.int16), affine)
    made = prepare_case(volume, SignedSketch(), encode, 2, 16, None)
    made.weight = weight
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", [1, 4])
def test_a_view_of_whole_cells_is_the_pyramids_mean(shape, cell):
    """At cell 4 it is read from a coarser level, whose cells are means already."""
    images = case(shape).images
    size = [n // cell - 1 for n in shape]
    seen = view_of(images, [cell] * len(shape), [n * cell for n in size], size, WINDOW)
    inner = images[0].array[tuple(slice(cell, cell * (n + 1)) for n in size)].astype(float)
    for axis, n in enumerate(size):
        inner = inner.reshape(*inner.shape[:axis], n, cell, *inner.shape[axis + 1 :]).mean(axis + 1)
    np.testing.assert_allclose(seen, inner / 1000, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_beyond_the_case_there_is_air_and_brightness_is_conserved(shape):
    """Whatever the field of view: the tissue above air in it is that of the case, no cell counted twice."""
    images = case(shape).images
    start = [-10.3] * len(shape)
    extent = [n + 31.7 for n in shape]
    size = [11] * len(shape)
    seen = view_of(images, start, extent, size, WINDOW)
    assert seen[(0,) * len(shape)] == pytest.approx(-1, abs=1e-6)
    volume = np.prod(extent) / np.prod(size)
    assert float((seen + 1).sum() * volume) == pytest.approx(float((encode(images[0].array) + 1).sum()), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_is_small_and_its_sketch_is_drawn_from_it_as_at_inference(shape):
    views = RandomViews(SignedSketch(), WINDOW, base_size=16)
    sides = set()
    for seed in range(20):
        view = views(case(shape), np.random.default_rng(seed))
        image, sketch = view.images[0].array, view.sketches[0].array
        assert view.coarsest == 0 and view.stages == [0] and image.shape == sketch.shape
        assert max(image.shape) <= 16 and image.min() >= -1000.01 and image.max() <= 1000.01
        drawn = sketch_of_whole(torch.from_numpy(encode(image))[None, None], SignedSketch())[0, 0].numpy()
        np.testing.assert_allclose(sketch, drawn, atol=0.51 / 255)
        sides.add(image.shape)
    assert len(sides) > 10, "fields, slabs and spacings differ"


def test_mirroring_turns_the_patients_left_and_right_whatever_the_files_axes():
    affine = np.zeros((4, 4))
    affine[0, 1] = -1  # left to right runs along the second axis
    affine[1, 0] = affine[2, 2] = affine[3, 3] = 1
    fixed = {"zoom": (1.0, 1.0), "slab": 0, "stretch": 0}
    plain, turned = (
        RandomViews(SignedSketch(), WINDOW, 16, mirror=share, **fixed)(
            case(SHAPES[1], affine), np.random.default_rng(3)
        ).images[0].array
        for share in (0, 1)
    )  # fmt: skip
    np.testing.assert_array_equal(turned, plain[::-1])  # a prepared case has its axes in RAS+ order
    assert not np.allclose(turned, plain)


def test_a_rewindowed_view_fills_the_window_as_an_image_of_its_own_would():
    dim = case(SHAPES[0])
    for level in dim.images:
        level.array[...] = level.array // 4
    spread = [
        np.ptp(RandomViews(SignedSketch(), WINDOW, 16, rewindow=on)(dim, np.random.default_rng(1)).images[0].array)
        for on in (False, True)
    ]
    assert spread[0] < 1500 < 1900 < spread[1]


def network() -> MultiScaleGenerator:
    small = {"width": 8, "num_blocks": 1, "fine_width": 4}
    return MultiScaleGenerator(2, num_stages=2, base=small, stage=small, sketch_kind="signed").eval()


def dataset(cases, **options) -> MultiScalePatches:
    views = RandomViews(SignedSketch(), WINDOW, 16)
    return MultiScalePatches(cases, network(), WINDOW, 16, 16, base_share=1.0, views=views, **options)


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) for k in ("image", "sketch", "noise", "coordinates"))


def test_views_are_a_function_of_seed_epoch_and_index_and_of_their_share():
    cases = [case(SHAPES[0])]
    one, other, without = dataset(cases, view_share=1.0), dataset(cases, view_share=1.0), dataset(cases)
    assert all(equal(one[k], other[k]) for k in range(5))
    one.set_epoch(1)
    assert not any(equal(one[k], other[k]) for k in range(5)), "another epoch, other views"
    plain = MultiScalePatches(cases, network(), WINDOW, 16, 16, base_share=1.0)
    assert all(equal(without[k], plain[k]) for k in range(5)), "no views, no change"
    assert dataset(cases, view_share=0.5, training=False)[0]["image"].shape == plain[0]["image"].shape
    with pytest.raises(InputError, match="base_views must be a share"):
        dataset(cases, view_share=1.5)


def test_a_case_is_drawn_as_often_as_its_weight_says():
    first, second = case(SHAPES[0], weight=3.0), case(SHAPES[0])
    for level in second.images:
        level.array[...] = 500
    data = dataset([first, second], iterations=200)
    share = np.mean([bool((data[k]["image"] - 0.5).abs().max() < 1e-5) for k in range(200)])
    assert 0.15 < share < 0.35


def test_an_entry_of_several_phantoms_is_that_many_and_a_bad_weight_is_refused():
    entry = {"phantom": 5, "count": 2, "shape": [16, 16, 16], "weight": 0.5}
    listed = list_cases(None, "training", [entry])
    assert [c["name"] for c in listed] == ["phantom_5", "phantom_6"]
    assert [c["weight"] for c in listed] == [0.5] * 2
    assert len({c["image"].read((0, 0, 0), (16, 16, 16)).tobytes() for c in listed}) == 2
    for weight in (0, -1, "2", True):
        with pytest.raises(InputError, match="weight of a case must be a number above 0"):
            list_cases(None, "training", [entry | {"weight": weight}])
