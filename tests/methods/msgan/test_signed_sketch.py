"""Signed sketches: exact in tiles, the negative of the negative's, and never mixed up with sketches of lines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.weights import load_weights, warm_start
from hiresmed.io.stores import MemoryStores
from hiresmed.methods.msgan import CascadeInferer, GradientSketchd, MultiScaleGenerator, SignedSketch, sketcher_of
from hiresmed.methods.msgan.conditions import SketchVolume
from hiresmed.methods.msgan.generator import coarser_sketch
from hiresmed.methods.msgan.sketch import sketch_of_whole

EMPTY = 128 / 255


def image(*shape: int, dtype=torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 1, *[n // 5 + 2 for n in shape]), generator=draw, dtype=dtype) * 2 - 1
    return F.interpolate(coarse, scale_factor=5.0)[(..., *(slice(0, n) for n in shape))].contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(60, 50), (34, 30, 28)])
def test_the_sketch_of_a_tile_is_the_crop_of_the_sketch_to_the_bit(shape, dtype):
    sketcher, whole = SignedSketch(), image(*shape, dtype=dtype)
    h, drawn = sketcher.halo, sketcher(whole)
    assert drawn.shape[2:] == tuple(n - 2 * h for n in shape) and drawn.std() > 0.1
    draw = np.random.default_rng(0)
    for _ in range(10):
        start = [int(draw.integers(0, n - 2 * h)) for n in shape]
        size = [int(draw.integers(1, n - 2 * h - s + 1)) for n, s in zip(shape, start)]
        tile = whole[(..., *(slice(s, s + n + 2 * h) for s, n in zip(start, size)))]
        assert torch.equal(sketcher(tile), drawn[(..., *(slice(s, s + n) for s, n in zip(start, size)))])


@pytest.mark.parametrize("shape", [(24, 20), (18, 17, 16)])
def test_it_is_the_root_of_a_difference_of_gaussians_cut_at_the_threshold(shape):
    """Against the definition, the Gaussians as one D-dimensional sum."""
    picture, sketcher = image(*shape), SignedSketch()

    def blurred(sigma: float) -> np.ndarray:
        reach = int(np.ceil(3 * sigma))
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = np.ones([1] * len(shape))
        for axis in range(len(shape)):
            kernel = kernel * (line / line.sum()).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        padded = np.pad(picture[0, 0].numpy(), reach, mode="edge")
        views = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
        return (views * kernel).sum(tuple(range(-len(shape), 0)))

    difference = blurred(0.8) - blurred(2.0)
    kept = np.where(np.abs(difference) < 0.03, 0, difference)
    wanted = (128 + 127 * np.sign(kept) * np.sqrt(np.minimum(np.abs(kept) / 0.4, 1))) / 255
    np.testing.assert_allclose(sketch_of_whole(picture, sketcher)[0, 0].numpy(), wanted, atol=1e-9)
    assert (kept == 0).any() and (kept > 0).any() and (kept < 0).any()


@pytest.mark.parametrize("shape", [(60, 50), (30, 28, 26)])
def test_the_negative_has_the_negative_sketch_and_brightness_alone_draws_nothing(shape):
    sketcher, bright = SignedSketch(), image(*shape)
    np.testing.assert_allclose(sketcher(-bright) - EMPTY, EMPTY - sketcher(bright), atol=1e-12)
    assert torch.allclose(sketcher(bright + 0.5), sketcher(bright), atol=1e-6)
    assert (sketcher(torch.full_like(bright, 0.7)) == EMPTY).all()
    assert sketcher(bright * 9).min() >= 0 and sketcher(bright * 9).max() <= 1


def test_the_bright_side_of_an_edge_is_bright():
    edge = torch.zeros(1, 1, 30, 30)
    edge[:, :, 15:] = 0.8
    rows = sketch_of_whole(edge, SignedSketch())[0, 0, :, 0]
    assert (rows[12:15] < EMPTY).all() and (rows[15:18] > EMPTY).all() and (rows[:8] == EMPTY).all()


def test_the_knob_names_the_kinds_and_the_dictionary_form_takes_it():
    assert sketcher_of("edges", edges={"sigma": 2.0}).sigma == 2.0
    assert sketcher_of("signed", edges={"sigma": 9.0}, signed={"threshold": 0.1}).threshold == 0.1
    with pytest.raises(InputError, match="sketch_kind must be one of edges, signed, got 'canny'"):
        sketcher_of("canny")
    data = GradientSketchd(kind="signed")({"image": image(40, 30)[0]})
    assert torch.equal(data["sketch"], sketch_of_whole(image(40, 30), SignedSketch())[0])


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 5)])
def test_a_coarser_sketch_keeps_the_strongest_of_each_cell_of_either_sign(shape):
    fine = sketch_of_whole(image(*shape), SignedSketch())
    coarse = coarser_sketch(fine, 2, EMPTY)[0, 0].numpy()
    for at in itertools.product(*map(range, coarse.shape)):
        cell = fine[0, 0].numpy()[tuple(slice(2 * k, 2 * k + 2) for k in at)].ravel()
        assert abs(coarse[at] - EMPTY) == np.abs(cell - EMPTY).max() and coarse[at] in cell


# ---- in the cascade


def generator(dims: int, kind: str = "signed") -> MultiScaleGenerator:
    small = {"width": 8, "num_blocks": 1, "fine_width": 4}
    network = MultiScaleGenerator(dims, num_stages=2, base=small, stage=small, sketch_kind=kind).double().eval()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            deviation = 0.1 if weight.ndim == 1 else (0.3 if ".out." in name else 1.2) / weight[0].numel() ** 0.5
            weight.copy_(deviation * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
    return network


def cascade(tile_size=16, kind: str = "signed", **options) -> CascadeInferer:
    options = {"noise": 0.0, "window": (-1, 1), "num_scales": 2, "progress": False} | options
    return CascadeInferer(sketcher_of(kind), MemoryStores("float64"), tile_size, **options)


def values(volume) -> np.ndarray:
    return np.asarray(volume.read([0] * len(volume.shape), volume.shape))


def given(shape, kind: str) -> dict:
    picture = image(*shape)
    if kind == "sketch":
        return {"sketch": ArrayVolume(sketch_of_whole(picture, SignedSketch())[0, 0].numpy())}
    case = {"image": ArrayVolume(picture[0, 0].numpy())}
    if kind == "mask":
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(n // 3, n // 2) for n in shape)] = 1
        case["mask"] = ArrayVolume(mask)
    return case


@pytest.mark.parametrize("shape", [(71, 58), (40, 33, 37)])
@pytest.mark.parametrize("kind", ["image", "sketch", "mask", "super-resolution"])
def test_any_tile_size_gives_the_same_image(shape, kind):
    options = {"first_image": "real"} if kind == "super-resolution" else {}
    network = generator(len(shape))
    whole = values(cascade(4096, **options)(given(shape, kind), network).image)
    tiled = values(cascade(16, **options)(given(shape, kind), network).image)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-12)
    assert whole.std() > 0.01


@pytest.mark.parametrize("shape", [(64, 60), (40, 33, 37)])
def test_a_region_is_the_crop_of_the_whole(shape):
    region = [[n // 3, n // 2 + 3] for n in shape]
    whole = values(cascade()(given(shape, "image"), generator(len(shape))).image)
    part = values(cascade(region=region)(given(shape, "image"), generator(len(shape))).image)
    np.testing.assert_array_equal(part, whole[tuple(slice(a, b) for a, b in region)])


def test_streamed_tiles_of_a_sketch_are_the_generators_own_forward():
    sketch = given((64, 48), "sketch")["sketch"]
    network = generator(2)
    streamed = values(cascade()({"sketch": sketch}, network).image)
    with torch.no_grad():
        own = network(torch.from_numpy(values(sketch))[None, None])[0, 0].numpy()
    # the cascade's levels are in float64, the file's strengths in float64 as well
    np.testing.assert_allclose(streamed, own, rtol=0, atol=1e-12)


def test_what_is_to_be_redrawn_does_not_draw_itself():
    """Where all is masked the network sees no edge: an image and a flat one are redrawn alike."""
    picture = given((40, 40), "image")["image"]
    everything = ArrayVolume(np.ones((40, 40), np.uint8))
    flat = ArrayVolume(np.full((40, 40), 0.3))
    redrawn, blank = (cascade()({"image": i, "mask": everything}, generator(2)).image for i in (picture, flat))
    np.testing.assert_array_equal(values(redrawn), values(blank))
    assert not np.array_equal(values(cascade()({"image": picture}, generator(2)).image), values(blank))


# ---- which weights


@pytest.mark.parametrize("trained, asked", [("signed", "edges"), ("edges", "signed")])
def test_weights_for_the_other_kind_are_refused_with_the_cure(tmp_path, trained, asked):
    path = tmp_path / "model.pt"
    torch.save(generator(2, trained).state_dict(), path)
    load_weights(generator(2, trained), path)
    sentence = (
        f"sketch_kind must be what the weights were trained with, {trained}, got {asked}; set --sketch_kind {trained}"
    )
    for load in (load_weights, warm_start):
        with pytest.raises(InputError, match=sentence):
            load(generator(2, asked), path)
    with pytest.raises(InputError, match="kind that the network was trained with"):
        cascade(kind=asked)(given((40, 40), "image"), generator(2, trained))


def test_the_mark_stays_when_weights_are_averaged_and_halved(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(generator(2))
    averaged.update_parameters(generator(2))
    state = {k.removeprefix("module."): v for k, v in averaged.state_dict().items() if k.startswith("module.")}
    path = tmp_path / "model.pt"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    load_weights(generator(2), path)


# ---- a sketch from a file


def test_a_signed_file_of_8_bits_or_floats_is_read_as_it_is():
    strengths = sketch_of_whole(image(60, 50), SignedSketch())[0, 0].numpy()
    strengths[:30] = EMPTY
    eight = np.rint(255 * strengths).astype(np.uint8)
    for array in (strengths, eight):
        read = values(SketchVolume.of(ArrayVolume(array), "signed"))
        np.testing.assert_allclose(read, eight / 255, atol=0.51 / 255)


def test_lines_on_black_or_on_paper_are_no_signed_sketch():
    lines = np.zeros((40, 50), np.uint8)
    lines[10, 5:35] = 255
    for drawing in (lines, 255 - lines, np.zeros((20, 20, 20), np.uint8)):
        with pytest.raises(InputError, match=r"must be a signed sketch, middle grey .* --sketch_kind edges"):
            SketchVolume.of(ArrayVolume(drawing), "signed")
