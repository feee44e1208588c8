"""A draw belongs to (seed, number, place): windows, batches, order, padding and crops change nothing."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.coordinates import patch_coordinates
from hiresmed.core.errors import InputError
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.core.noise import place_noise
from hiresmed.methods.patchddm import DDIM, DPMSolver, Heun, NoiseSchedule
from hiresmed.methods.patchddm.inferer import DiffusionInferer
from monai.data import MetaTensor
from torch import nn

pytestmark = pytest.mark.processor

SCHEDULE = NoiseSchedule(prediction="x0")


class Pointwise(nn.Module):
    """A network that sees one voxel: of image, coordinates and x_t, and the time; K channels."""

    def __init__(self, channels: int = 2, labels: int = 2, dims: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(labels, channels + dims + labels, generator=generator))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        scale = 1 + 1e-3 * t.view(-1, *[1] * (x.ndim - 1))
        return torch.tanh(torch.einsum("kc,bc...->bk...", self.weight, x) * scale)


def make(sampler=None, **knobs) -> DiffusionInferer:
    knobs = {"label_channels": 2, "steps": 3, "patch_size": 16, "seed": 5, **knobs}
    return DiffusionInferer(sampler or DDIM(SCHEDULE, clip=(-1, 1)), **knobs)


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("sampler", [DDIM(SCHEDULE), DDIM(SCHEDULE, eta=0.8), DPMSolver(SCHEDULE), Heun(SCHEDULE)])
@pytest.mark.parametrize("overlap, window_batch", [(0.0, 1), (0.5, 3), (0.7, 1)])
def test_for_a_pointwise_network_sliding_windows_give_the_whole_volumes_result(sampler, overlap, window_batch):
    image, network = picture(2, 2, 37, 24), Pointwise()
    whole = make(sampler, steps=9)(image, network)
    windows = make(sampler, steps=9, inference="sliding", overlap=overlap, window_batch=window_batch)(image, network)
    assert whole.std() > 0.1
    torch.testing.assert_close(windows, whole, rtol=0, atol=2e-5 if isinstance(sampler, Heun) else 1e-6)


def test_the_same_in_three_dimensions_with_the_papers_reference_grid():
    image, network = picture(1, 4, 20, 9, 13), Pointwise(4, 1, 3)
    knobs = {"label_channels": 1, "reference_size": 32, "patch_size": (8, 8, 12)}
    whole = make(**knobs)(image, network)
    torch.testing.assert_close(make(inference="sliding", **knobs)(image, network), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("inference", ["whole", "sliding"])
def test_the_network_sees_image_then_coordinates_then_noise_at_its_place_in_the_padded_reference_grid(inference):
    seen = []

    def network(x, t):
        seen.append((x.clone(), t.clone()))
        return x[:, -2:].clone()

    image = picture(1, 1, 12, 7)
    make(inference=inference, steps=1, reference_size=(20, 30), multiple=8)(image, network)
    ((x, t),) = seen
    padded = (16, 8) if inference == "whole" else (16, 16)
    start = (4 - 2, 11 - (padded[1] - 7) // 2)
    assert x.shape == (1, 1 + 2 + 2, *padded) and t.tolist() == [999.0]
    inside = (slice(2, 14), slice(11 - start[1], 18 - start[1]))
    assert torch.equal(x[0, 0][inside], image[0, 0])
    outside = torch.ones(padded, dtype=torch.bool)
    outside[inside] = False
    assert (x[0, 0][outside] == -1).all()
    assert torch.equal(x[0, 1:3], patch_coordinates(start, padded, (20, 30), "endpoint"))
    assert torch.equal(x[0, 3], torch.from_numpy(place_noise(5, start, padded, 0)))
    assert torch.equal(x[0, 4], torch.from_numpy(place_noise(5, start, padded, 1024)))


def test_a_crop_that_says_where_it_lies_gets_the_whole_images_numbers():
    image, network = picture(1, 2, 40, 31), Pointwise()
    whole = make(reference_size=64)(image, network)
    origin = (12 + 5, 16 + 9)
    crop = make(reference_size=64, multiple=8)(image[..., 5:30, 9:22], network, origin=origin)
    torch.testing.assert_close(crop, whole[..., 5:30, 9:22], rtol=0, atol=1e-6)


def test_the_coordinates_convention_counts_and_none_leaves_the_channels_out():
    image, network = picture(1, 2, 16, 16), Pointwise()
    assert not torch.allclose(make(coordinates="centre")(image, network), make()(image, network))
    channels = []
    make(coordinates=None, steps=1)(image, lambda x, t: (channels.append(x.shape[1]), x[:, -2:] * 1)[1])
    assert channels == [2 + 2]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_draw():
    image, network = picture(1, 2, 16, 20), Pointwise()
    one = make()(image, network)
    assert torch.equal(one, make()(image, network))
    assert not torch.allclose(one, make(seed=6)(image, network), atol=1e-2)


def test_an_image_gets_the_same_draw_alone_and_in_a_batch():
    images, network = picture(3, 2, 16, 20), Pointwise()
    together = make()(images, network)
    for k in range(3):
        torch.testing.assert_close(make()(images[k : k + 1], network), together[k : k + 1], rtol=0, atol=1e-6)


def test_mean_and_variance_are_those_of_the_single_draws_in_any_order():
    image, network, draws = picture(1, 2, 18, 16), Pointwise(), {}
    inferer = make(num_samples=5)
    made = inferer.sample(image, network, each=lambda k, draw: draws.update({k: draw.clone()}))
    assert sorted(draws) == [0, 1, 2, 3, 4] and made.count == 5
    stack = torch.stack([draws[k] for k in range(5)]).double()
    assert stack.std(0).mean() > 0.05
    torch.testing.assert_close(made.mean.double(), stack.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(made.variance.double(), stack.var(0), rtol=0, atol=1e-6)
    assert torch.equal(inferer(image, network), made.mean)
    turned = inferer.sample(image, network, members=[3, 0, 4, 2, 1])
    torch.testing.assert_close(turned.mean, made.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.variance, made.variance, rtol=0, atol=1e-6)
    alone = inferer.sample(image, network, members=[3])
    assert torch.equal(alone.mean, draws[3]) and not alone.variance.any() and alone.count == 1


def test_an_ensemble_of_any_size_holds_as_many_volumes_at_the_network():
    image = picture(1, 2, 64, 64)

    def most_held(num_samples: int) -> float:
        held = []

        def network(x, t):
            held.append(live.now / (2 * 64 * 64 * 4))
            return x[:, -2:] * 0.5

        with LiveBytes(held=[image]) as live:
            make(num_samples=num_samples)(image, network)
        return max(held)

    # the image; the network's input of 2 + 2 + 2 channels; x_t, mean, squares
    assert most_held(1) == pytest.approx(1 + 3 + 1, abs=0.01)
    assert most_held(2) == most_held(6) == pytest.approx(1 + 3 + 3, abs=0.01)


def test_bfloat16_stays_in_the_network_and_windows_are_merged_in_full_precision():
    half = []

    class Half(Pointwise):
        def forward(self, x, t):
            half.append((x.dtype, torch.is_autocast_enabled("cpu")))
            return super().forward(x, t).bfloat16()

    image = picture(1, 2, 37, 24)
    whole = make(amp=True)(image, Half())
    windows = make(amp=True, inference="sliding")(image, Half())
    tried = (torch.float32, False)  # what bfloat16 is compared with, once an inferer
    assert whole.dtype == torch.float32 and set(half) == {(torch.float32, True), tried} and half.count(tried) == 2
    torch.testing.assert_close(windows, whole, rtol=0, atol=0.05)
    constant = make(amp=True, inference="sliding", steps=1)(
        image, lambda x, t: torch.full_like(x[:, -2:], 0.7).bfloat16()
    )
    torch.testing.assert_close(constant, torch.full_like(constant, float(torch.tensor(0.7).bfloat16())))


def test_a_given_forward_takes_the_networks_place():
    image, network = picture(1, 2, 16, 16), Pointwise()
    called = []

    def lean(module, x, t):
        called.append(module)
        return module(x, t)

    assert torch.equal(make(forward=lean)(image, network), make()(image, network))
    assert called == [network] * 3


def test_a_metatensor_comes_back_as_one_with_its_geometry_and_the_given_image_is_left_alone():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    plain = picture(1, 2, 17, 16)
    image = MetaTensor(plain.clone(), affine=affine)
    made = make(num_samples=2, inference="sliding").sample(image, Pointwise())
    for value in (made.mean, made.variance):
        assert isinstance(value, MetaTensor) and torch.equal(value.affine, affine) and value.shape == (1, 2, 17, 16)
    assert torch.equal(image.as_tensor(), plain)
    assert torch.equal(made.mean.as_tensor(), make(num_samples=2, inference="sliding")(plain, Pointwise()))


def test_float64_images_are_computed_in_float64():
    seen = []
    image = picture(1, 2, 16, 16).double()
    made = make()(image, lambda x, t: (seen.append(x.dtype), x[:, -2:] * 0.5)[1])
    assert made.dtype == torch.float64 and set(seen) == {torch.float64}


@pytest.mark.parametrize(
    "knobs, sentence",
    [
        ({"inference": "tiled"}, "inference must be one of whole, sliding"),
        ({"coordinates": "center"}, "coordinates must be one of"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"num_samples": 0}, "num_samples must be"),
        ({"num_samples": 5000}, "at most 1024"),
        ({"steps": "many"}, "steps must be"),
    ],
)
def test_impossible_knobs_are_met_with_a_sentence(knobs, sentence):
    with pytest.raises(InputError, match=sentence):
        make(**knobs)


def test_mistakes_about_the_network_are_met_with_a_sentence():
    with pytest.raises(InputError, match="label_channels its number"):
        make(label_channels=1)(picture(1, 2, 16, 16), lambda x, t: x)
    with pytest.raises(InputError, match="multiple of the network's 32"):
        make(inference="sliding", multiple=32)(picture(1, 2, 16, 16), Pointwise())
    with pytest.raises(InputError, match="reference_size must give 2"):
        make(reference_size=(8, 8, 8))(picture(1, 2, 16, 16), Pointwise())
