"""The streamed cascade gives the numbers of the untiled one, whatever the tiles, and only what it was asked for.

Float64 levels in memory (nothing is rounded), every weight drawn at random, in two and three dimensions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.tiles import TileGrid
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io.stores import MemoryStores
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator
from hiresmed.methods.msgan.means import with_block_means
from monai.data import MetaTensor, list_data_collate
from torch import nn

pytestmark = pytest.mark.processor

EXACT = 1e-12
HUGE = 4096


def generator(dims: int, scales: int = 2, kind=MultiScaleGenerator, **options) -> MultiScaleGenerator:
    """A tiny cascade in float64, eval, all weights drawn at random, so that the image stays well inside [-1, 1]."""
    small = {"width": 8, "num_blocks": 1, "fine_width": 4}
    network = kind(dims, num_stages=scales, base=small, stage=small, **options).double().eval()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            deviation = 0.1 if weight.ndim == 1 else (0.3 if ".out." in name else 1.2) / weight[0].numel() ** 0.5
            weight.copy_(deviation * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
    return network


def cascade(tile_size=16, scales: int = 2, stores=None, **options) -> CascadeInferer:
    options = {"noise": 0.0, "window": (-1, 1), "num_scales": scales, "progress": False} | options
    return CascadeInferer(GradientSketch(), stores or MemoryStores("float64"), tile_size, **options)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    """Bricks of random grey with a little noise, in [-1, 1]: many edges, no symmetry."""
    draw = np.random.default_rng(seed)
    bricks = draw.uniform(-0.9, 0.9, [-(-n // 7) for n in shape])
    for axis in range(len(shape)):
        bricks = bricks.repeat(7, axis)
    return bricks[tuple(slice(0, n) for n in shape)] + draw.normal(0, 0.03, shape)


def drawing(*shape: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    return np.where(draw.random(shape) < 0.15, draw.random(shape), 0.0)


def values(volume) -> np.ndarray:
    return np.asarray(volume.read([0] * len(volume.shape), volume.shape))


def telling(image: np.ndarray) -> bool:
    """Neither flat nor clipped, which would both hide differences."""
    return image.std() > 0.01 and np.mean(np.abs(image) == 1) < 0.01


def apart(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == np.float64
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((40, 36, 28), {}),
        ((40, 36, 28), {"weights": "per_scale", "coordinates": False}),
        ((72, 44), {}),
        ((72, 44), {"weights": "per_scale"}),
        ((64, 48), {"factor": 4}),
        ((73, 45), {}),
    ],
)
def test_streamed_tiles_are_the_generators_own_untiled_forward(shape, options):
    scales = 1 if options.get("factor") == 4 else 2
    network, sketch = generator(len(shape), scales, **options), drawing(*shape)
    with torch.no_grad():
        untiled = network(torch.from_numpy(sketch)[None, None])[0, 0].numpy()
    assert telling(untiled)
    made = cascade(16, scales)({"sketch": ArrayVolume(sketch)}, network)
    assert apart(values(made.image), untiled) <= EXACT


ORIENTATIONS = {
    "RAS": np.eye(4),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "oblique ASL": np.array([[0.1, 0, -2.0, 5], [0.9, 0.1, 0, 4], [0, 1.4, 0.3, 3], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(40, 36, 28), (45, 38, 29)])
def test_the_networks_own_forward_is_inference_however_the_file_is_oriented(shape, orientation):
    """What monai.bundle's load and verify_net_in_out run: the base is told where a voxel lies in the patient."""
    network, affine, sketch = generator(3), ORIENTATIONS[orientation], drawing(*shape)
    with torch.no_grad():
        own = network(MetaTensor(torch.from_numpy(sketch)[None, None], affine=affine))
        misplaced = network(MetaTensor(torch.from_numpy(sketch)[None, None], affine=affine @ np.diag([-1, 1, 1, 1])))
    tiled = cascade(16)({"sketch": ArrayVolume(sketch, affine)}, network)
    assert apart(own[0, 0].numpy(), values(tiled.image)) <= EXACT
    assert apart(misplaced[0, 0].numpy(), values(tiled.image)) > 1e-3, "left for right is seen"
    assert np.array_equal(own.affine.numpy(), affine)


def test_each_image_of_a_batch_has_its_own_orientation():
    network, sketch = generator(3, 1), torch.from_numpy(drawing(20, 24, 16))[None]
    images = [MetaTensor(sketch, affine=affine) for affine in ORIENTATIONS.values()]
    with torch.no_grad():
        batch = network(list_data_collate(images))
        alone = [network(image[None]) for image in images]
    assert torch.allclose(batch.as_tensor(), torch.cat(alone).as_tensor(), rtol=0, atol=EXACT)
    assert not torch.allclose(batch[0].as_tensor(), batch[1].as_tensor(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(45, 38, 29), (83, 46), (7, 50), (10, 9, 11)])
@pytest.mark.parametrize("given", ["image", "sketch"])
def test_any_tile_size_gives_the_same_image(shape, given):
    """Odd sizes, sizes below a tile, noise, coordinates, the sketch drawn at every scale: against one tile a level."""
    network = generator(len(shape))
    volume = ArrayVolume(picture(*shape) if given == "image" else drawing(*shape))

    def made(tile):
        return values(cascade(tile, noise=1.0, seed=3)({given: volume}, network).image)

    whole = made(HUGE)
    assert telling(whole)
    for tile in (16, 20, 24):
        assert apart(made(tile), whole) <= EXACT, tile


class Blanked(nn.Module):
    """A stage that does not see the outermost voxel shell of its input: one voxel of halo less."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        self.margin, self.factor, self.in_channels = stage.margin, stage.factor, stage.in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.zeros_like(x)
        place = (..., *[slice(1, -1)] * (x.ndim - 2))
        inner[place] = x[place]
        return self.stage(inner)


class BlankedBase(MultiScaleGenerator):
    def stage(self, number: int) -> nn.Module:
        return Blanked(super().stage(number)) if number == 0 else super().stage(number)


class BlankedFiner(MultiScaleGenerator):
    def stage(self, number: int) -> nn.Module:
        return super().stage(number) if number == 0 else Blanked(super().stage(number))


@pytest.mark.parametrize("kind", [BlankedBase, BlankedFiner])
@pytest.mark.parametrize("shape", [(70, 60), (36, 40, 28)])
def test_one_voxel_less_of_halo_is_seen_at_every_stage(kind, shape):
    volume = {"sketch": ArrayVolume(drawing(*shape))}
    tiled = values(cascade(8, scales=1)(volume, generator(len(shape), 1, kind)).image)
    whole = values(cascade(HUGE, scales=1)(volume, generator(len(shape), 1)).image)
    assert apart(tiled, whole) > 1e-6


@pytest.mark.parametrize(
    ("shape", "region"),
    [((90, 61), [[30, 41], [0, 9]]), ((90, 61), [[88, 90], [60, 61]]), ((40, 33, 52), [[17, 30], [3, 33], [33, 34]])],
)
@pytest.mark.parametrize("given", ["image", "sketch"])
def test_a_region_is_the_crop_of_the_whole_to_the_byte(shape, region, given):
    network = generator(len(shape)).float()
    volume = ArrayVolume(1000 * picture(*shape) if given == "image" else drawing(*shape), np.diag([2.0, 3.0, 4.0, 1.0]))
    options = {"noise": 1.0, "window": (-1024, 1024), "stores": MemoryStores(None)}
    whole = cascade(16, **options)({given: volume}, network)
    part = cascade(16, **options, region=region)({given: volume}, network)
    box = tuple(slice(a, b) for a, b in region)
    assert values(part.image).dtype == np.int16 and values(whole.image).std() > 3
    assert np.array_equal(values(part.image), values(whole.image)[box])
    assert np.array_equal(values(part.sketch), values(whole.sketch)[box])
    first = [a for a, _ in region] + [0] * (3 - len(region))
    assert np.allclose(part.image.affine[:3, 3], np.multiply(first, [2, 3, 4])), "the region lies where it lay"
    assert (whole.whole, part.whole) == (True, False)


class UnwrittenIsNaN(MemoryStores):
    """Levels on which reading a voxel that nobody wrote is an error."""

    def pyramid(self, *arguments):
        levels = super().pyramid(*arguments)
        for level in levels:
            level.array[...] = np.nan
            level.read = self._strict(level, level.read)
        self.made = getattr(self, "made", {}) | {arguments[0]: levels}
        return levels

    @staticmethod
    def _strict(level, read):
        def strict(start, shape):
            found = read(start, shape)
            assert not np.isnan(found).any(), f"{level.name} of {level.shape} was read at {start}, {shape} before made"
            return found

        return strict

    def share_made(self, name: str) -> list[float]:
        return [float(np.mean(~np.isnan(level.array))) for level in self.made[name]]


@pytest.mark.parametrize("case", ["image", "sketch", "image mask", "image sketch", "image mask sketch"])
@pytest.mark.parametrize("first_image", ["generated", "real"])
@pytest.mark.parametrize("region", [[[0, 3], [100, 117]], [[61, 62], [55, 70]], [[125, 129], [0, 1]]])
def test_a_region_needs_nothing_that_was_not_made_and_not_much_more(case, first_image, region):
    if first_image == "real" and "image" not in case:
        pytest.skip("nothing real to start from")
    shape = (129, 117)
    contents = {"image": picture(*shape), "sketch": drawing(*shape), "mask": (picture(*shape) > 0.4).astype(np.uint8)}
    stores = UnwrittenIsNaN("float64")
    inferer = cascade(12, scales=3, stores=stores, first_image=first_image, region=region, noise=1.0)
    made = inferer({name: ArrayVolume(contents[name]) for name in case.split()}, generator(2, 3))
    assert np.isfinite(values(made.image)).all()
    assert stores.share_made("result")[0] < 0.1, "the finest level of the region only"


def test_tile_order_and_reruns_leave_the_bytes_alone(monkeypatch):
    network, image = generator(2).float(), ArrayVolume(1000 * picture(70, 61))
    options = {"noise": 1.0, "window": (-1024, 1024), "stores": MemoryStores(None)}
    first = values(cascade(16, **options)(image, network).image)
    assert np.array_equal(values(cascade(16, **options)(image, network).image), first)
    forward = TileGrid.touching
    monkeypatch.setattr(TileGrid, "touching", lambda grid, box: forward(grid, box)[::-1])
    assert np.array_equal(values(cascade(16, **options)(image, network).image), first)


def test_seed_and_strength_of_the_noise_are_seen():
    network, volume = generator(2), {"sketch": ArrayVolume(drawing(40, 40))}

    def made(**options):
        return values(cascade(**options)(volume, network).image)

    silent, one, two = made(), made(noise=1.0, seed=1), made(noise=1.0, seed=2)
    assert apart(made(seed=1), made(seed=2)) == 0 == apart(one, made(noise=1.0, seed=1))
    assert min(apart(one, two), apart(one, silent), apart(one, made(noise=0.5, seed=1))) > 1e-3


def cell_means(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = image.shape
    return image.reshape(rows // factor, factor, columns // factor, factor).mean((1, 3))


def test_super_resolution_starts_from_the_means_of_the_input():
    network, image = generator(2), picture(72, 48)
    real = cascade(first_image="real")(ArrayVolume(image), network)
    generated = cascade()(ArrayVolume(image), network)
    assert apart(values(real.levels[-1]), cell_means(image.clip(-1, 1), 4)) <= EXACT
    assert float(np.abs(values(generated.levels[-1]) - cell_means(image, 4)).max()) > 0.1
    for weight in network.stages.parameters():
        nn.init.zeros_(weight)  # finer stages that add nothing: what is left is the enlarged start
    kept = values(cascade(first_image="real")(ArrayVolume(image), network).image)
    coarse = torch.from_numpy(cell_means(image.clip(-1, 1), 4))[None, None]
    for _ in range(2):  # and whose means are those of the level above
        fine = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")[0, 0].numpy()
        enlarged = with_block_means(fine, coarse[0, 0].numpy(), 2, (-1, 1), np.dtype("float64"))
        coarse = torch.from_numpy(enlarged)[None, None]
    assert apart(kept, coarse[0, 0].numpy()) <= EXACT


@pytest.mark.parametrize("shape", [(36, 27), (15, 12, 13)])
@pytest.mark.parametrize("scales", [1, 2])
def test_super_resolution_keeps_every_voxel_of_the_input_as_the_mean_of_its_block(shape, scales):
    """Whatever the network adds: to the last integer, at the window's ends too, in any order of axes."""
    image = np.rint(1300 * picture(*shape)).astype(np.int16)  # some beyond the window
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    options = {"first_image": "real", "window": (-1024, 1024), "noise": 1.0, "stores": MemoryStores(None)}
    made = cascade(16, scales=scales, **options, size=[n * 2**scales for n in shape])(
        ArrayVolume(image, lps), generator(len(shape), scales).float()
    )
    result = values(made.image)
    assert result.dtype == np.int16 and result.std() > 100
    means = _cells(result, 2**scales).mean(1).reshape(shape)
    assert np.array_equal(means, image.clip(-1024, 1024))
    assert _cells(result, 2**scales).std(1).mean() > 5, "detail was added"


def _cells(image: np.ndarray, side: int) -> np.ndarray:
    """(cells, side^D)."""
    split = image.astype(float).reshape([n for length in image.shape for n in (length // side, side)])
    order = [*range(0, split.ndim, 2), *range(1, split.ndim, 2)]
    return split.transpose(order).reshape(-1, side**image.ndim)


@pytest.mark.parametrize("shape", [(61, 50), (30, 27, 33)])
@pytest.mark.parametrize("region", [False, True])
def test_inpainting_leaves_every_voxel_outside_the_mask_as_it_was(shape, region):
    image = np.rint(1400 * picture(*shape)).astype(np.int16)  # some beyond the window
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(9, 22) for _ in shape)] = 7
    options = {"noise": 1.0, "window": (-1024, 1024), "stores": MemoryStores(None)}
    box = [[5, 25]] * len(shape) if region else None
    made = cascade(16, **options, region=box)(
        {"image": ArrayVolume(image), "mask": ArrayVolume(mask)}, generator(len(shape)).float()
    )
    place = (slice(5, 25),) * len(shape) if region else (...,)
    result, before, redrawn = values(made.image), image.clip(-1024, 1024)[place], mask[place] > 0
    assert result.dtype == np.int16
    assert np.array_equal(result[~redrawn], before[~redrawn])
    assert np.mean(result[redrawn] != before[redrawn]) > 0.95


@pytest.mark.parametrize("first_image", ["generated", "real"])
def test_what_is_to_be_redrawn_does_not_draw_itself(first_image):
    """Two images that differ only under the mask, up to its border, are inpainted alike."""
    network, mask = generator(2, 2), np.zeros((64, 60), np.uint8)
    mask[17:48, 15:46] = 1
    one = picture(64, 60)
    other = np.where(mask, np.random.default_rng(3).uniform(-1, 1, one.shape), one)
    one, other = (
        values(
            cascade(16, first_image=first_image)({"image": ArrayVolume(a), "mask": ArrayVolume(mask)}, network).image
        )
        for a in (one, other)
    )
    assert np.array_equal(one[mask > 0], other[mask > 0]) and telling(one)


def test_a_tensor_comes_back_as_a_tensor_of_the_same_numbers():
    network = generator(2)
    batch = torch.from_numpy(np.stack([picture(50, 41, seed=s)[None] for s in (1, 2)]))
    inferer = cascade(16, noise=1.0)
    made = inferer(batch, network)
    assert made.shape == batch.shape and made.dtype == torch.float64
    for image, result in zip(batch, made):
        assert apart(values(inferer(ArrayVolume(image[0].numpy()), network).image), result[0].numpy()) <= EXACT


def test_the_base_is_told_where_a_voxel_lies_in_the_patient_not_in_the_file():
    network = generator(3, 1)
    image = torch.from_numpy(picture(24, 20, 28))[None, None]
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    plain, same, lps = (
        cascade(16, scales=1)(MetaTensor(image, affine=affine), network) for affine in (np.eye(4), np.eye(4), turned)
    )
    assert torch.equal(plain, same)
    assert float((plain - lps).abs().max()) > 1e-4


def test_size_resamples_the_input_onto_the_output_grid():
    network = generator(2)
    made = cascade(16, size=[80, 60])(ArrayVolume(picture(40, 20), np.diag([4.0, 6.0, 1.0, 1.0])), network)
    assert made.image.shape == made.sketch.shape == made.source.shape == (80, 60)
    assert made.image.spacing == (2.0, 2.0)


MISTAKES = {
    "no input": ({}, {}, "must have an image or a sketch, got neither"),
    "wrong axes": ({"image": (20, 20, 20)}, {}, r"array must be a 2-D image, or one slice, got shape \(20, 20, 20\)"),
    "sketch elsewhere": ({"image": (20, 20), "sketch": (20, 21)}, {}, "sketch must have the image's"),
    "mask elsewhere": ({"image": (20, 20), "mask": (10, 20)}, {}, "mask must have the image's"),
    "mask of a sketch": ({"sketch": (20, 20), "mask": (20, 20)}, {}, "must have an image, got only a sketch"),
    "nothing to sharpen": ({"sketch": (20, 20)}, {"first_image": "real"}, "must have an image, got only a sketch"),
    "size of one axis": (
        {"image": (20, 20)},
        {"size": [40]},
        "size must give a positive number of voxels for each of 2 axes",
    ),
    "size of one number": ({"image": (20, 20)}, {"size": 40}, "size must give"),
    "size of nothing": (
        {"image": (20, 20)},
        {"size": [0, 40]},
        "size must give a positive number of voxels for each of 2 axes",
    ),
    "region of one axis": ({"image": (20, 20)}, {"region": [[0, 4]]}, "region must be"),
    "region outside": ({"image": (20, 20)}, {"region": [[0, 4], [10, 21]]}, "region must be"),
    "region of numbers": ({"image": (20, 20)}, {"region": [4, 5]}, "region must be"),
    "empty region": ({"image": (20, 20)}, {"region": [[0, 4], [6, 6]]}, "region must be"),
    "tile of one axis": ({"image": (20, 20)}, {"tile_size": [16]}, "tile_size must give 2 numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence_before_any_work(name):
    shapes, options, sentence = MISTAKES[name]

    class NoStores(MemoryStores):
        def pyramid(self, *arguments):
            raise AssertionError("work has begun")

    case = {k: ArrayVolume(np.zeros(shape)) for k, shape in shapes.items()}
    with pytest.raises(InputError, match=sentence):
        cascade(**({"stores": NoStores(), "tile_size": 16} | options))(case, generator(2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tile_size": 0}, "tile_size must be"),
        ({"base_size": 0, "scales": None}, "base_size must be"),
        ({"window": (100, -100)}, "window must be"),
        ({"window": (5,)}, "window must be"),
        ({"window": "wide"}, "window must be"),
        ({"seed": "one"}, "seed must be a whole number"),
        ({"noise": -1}, "noise must be"),
        ({"scales": -1}, "num_scales must be a whole number from 0 on"),
        ({"first_image": "blurred"}, "first_image must be generated or real"),
    ],
)
def test_a_knob_out_of_range_is_refused_at_once(options, sentence):
    with pytest.raises(InputError, match=sentence):
        cascade(**options)


def test_an_image_given_as_a_sketch_is_refused():
    with pytest.raises(InputError, match="edge strengths from 0 to 1"):
        cascade()({"sketch": ArrayVolume(1000 * picture(40, 40))}, generator(2))


def test_a_sketch_of_0_to_255_is_the_same_sketch():
    network, lines = generator(2), (drawing(40, 40) > 0).astype(np.uint8)
    assert (
        apart(*(values(cascade()({"sketch": ArrayVolume(a)}, network).image) for a in (lines, lines * np.uint8(255))))
        < 1e-7
    )
