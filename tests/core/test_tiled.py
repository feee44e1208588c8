"""Tiled equals untiled: the same numbers whatever the tiles, for every network that sees a bounded neighbourhood.

Untiled is one tile that holds the whole image. Float64 throughout, so that any difference above rounding (1e-12) is a
mistake of halo, lattice or cropping, and every layer is randomised, so that no such mistake hides behind a zero.
"""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.exact_tiling import ExactTiledInferer
from hiresmed.methods.msgan import PatchGenerator
from monai.networks.layers.factories import Conv, Norm
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

pytestmark = pytest.mark.processor

EXACT = 1e-12
HUGE = 10_000


class TwoLevels(nn.Module):
    """Same-padded U-Net of two levels: strided convolution down, nearest or transposed up, a skip."""

    def __init__(self, dims: int, transposed: bool) -> None:
        super().__init__()
        conv, up = Conv[Conv.CONV, dims], Conv[Conv.CONVTRANS, dims]
        self.inside = conv(2, 4, 3, padding=1)
        self.down = conv(4, 6, 3, stride=2, padding=1)
        self.deep = conv(6, 6, 3, padding=1)
        self.up = up(6, 4, 2, stride=2) if transposed else nn.Sequential(nn.Upsample(scale_factor=2), conv(6, 4, 1))
        self.out = conv(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.relu(self.inside(x))
        y = self.up(torch.tanh(self.deep(torch.relu(self.down(skip)))))
        return self.out(torch.cat([skip, y], 1))


def chain(dims: int) -> nn.Module:
    conv = Conv[Conv.CONV, dims]
    return nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 5, padding=2), nn.Tanh(), conv(4, 3, 1))


def dilated(dims: int) -> nn.Module:
    conv = Conv[Conv.CONV, dims]
    return nn.Sequential(conv(2, 4, 3, padding=3, dilation=3), nn.LeakyReLU(), conv(4, 3, 3, padding=2, dilation=2))


def batch_normed(dims: int) -> nn.Module:
    conv, norm = Conv[Conv.CONV, dims], Norm[Norm.BATCH, dims]
    return nn.Sequential(conv(2, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 3, 3, padding=1))


def reparametrised(dims: int) -> nn.Module:
    conv = Conv[Conv.CONV, dims]
    first, second = weight_norm(conv(2, 4, 3, padding=1)), spectral_norm(conv(4, 4, 3, padding=1))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), conv(4, 3, 1))


def max_pooled(dims: int) -> nn.Module:
    pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims]
    conv = Conv[Conv.CONV, dims]
    return nn.Sequential(conv(2, 4, 1), pool(3, 1, 1), nn.ReLU(), conv(4, 3, 1))


NETWORKS = {
    "same-padded chain": chain,
    "strided, nearest": lambda dims: TwoLevels(dims, False),
    "strided, transposed": lambda dims: TwoLevels(dims, True),
    "dilated": dilated,
    "batch norm in eval": batch_normed,
    "weight and spectral norm": reparametrised,
    "max pooling": max_pooled,
    "valid convolutions on a lattice of 2": lambda dims: PatchGenerator(dims, 2, 6, 4, num_blocks=1, factor=2),
    "valid convolutions on a lattice of 4": lambda dims: PatchGenerator(dims, 2, 6, 4, 1, 4, residual=False),
}


def randomised(network: nn.Module) -> nn.Module:
    """Every weight, bias and running statistic drawn anew; float64, eval."""
    generator = torch.Generator().manual_seed(3)
    network = network.double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            fan_in = max(1, weight[0].numel()) if weight.ndim > 1 else 1
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 2 / fan_in**0.5)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-3, 3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network


def image(*shape: int) -> torch.Tensor:
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == torch.float64
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("shape", "tiles"),
    [
        ((53, 38), (16, 24, (32, 20))),  # no tile divides the image
        ((11, 70), (16, 12)),  # smaller than a tile along one axis
        ((5, 3), (4, 16)),  # smaller than the network's field
        ((21, 10, 18), (8, (20, 8, 12))),
    ],
)
def test_tiled_equals_untiled(name, shape, tiles):
    network, x = randomised(NETWORKS[name](len(shape))), image(*shape)
    untiled = ExactTiledInferer(HUGE)(x, network)
    assert untiled.shape == (2, untiled.shape[1], *shape)
    assert untiled.std() > 0.05
    for tile in tiles:
        assert apart(ExactTiledInferer(tile)(x, network), untiled) <= EXACT, tile


@pytest.mark.parametrize("name", NETWORKS)
def test_away_from_the_faces_it_is_the_network_itself(name):
    network, x = randomised(NETWORKS[name](2)), image(56, 64)
    inferer = ExactTiledInferer(16)
    field = inferer.field(network, 2)
    tiled, direct = inferer(x, network), network(x)
    h = field.halo
    inner = tiled[..., h:-h, h:-h]
    direct = direct[..., h - field.shrink : 56 - h - field.shrink, h - field.shrink : 64 - h - field.shrink]
    assert inner.shape[-1] > 16
    assert apart(inner, direct) <= EXACT


@pytest.mark.parametrize("name", ["same-padded chain", "dilated", "batch norm in eval", "weight and spectral norm"])
def test_one_voxel_less_of_halo_is_seen(name):
    network, x = randomised(NETWORKS[name](2)), image(40, 40)
    field = ExactTiledInferer(16).field(network, 2)
    assert field.alignment == 1
    untiled = ExactTiledInferer(HUGE)(x, network)
    assert apart(ExactTiledInferer(16, halo=field.halo)(x, network), untiled) <= EXACT
    assert apart(ExactTiledInferer(16, halo=field.halo - 1)(x, network), untiled) > 1e-6


@pytest.mark.parametrize("name", list(NETWORKS)[-2:])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_outermost_shell_of_a_tile_is_needed(name, dims):
    """No halo is larger than it must be, so blanking one voxel of it shows at once."""

    class Blanked(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.margin, self.factor = network, network.margin, network.factor

        def forward(self, x):
            inner = torch.zeros_like(x)
            place = (..., *[slice(1, -1)] * dims)
            inner[place] = x[place]
            return self.network(inner)

    network, x = randomised(NETWORKS[name](dims)), image(*[24] * dims)
    assert apart(ExactTiledInferer(8)(x, Blanked(network)), ExactTiledInferer(HUGE)(x, network)) > 1e-6


def test_beyond_its_faces_the_image_goes_on_with_its_last_value():
    blur = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.constant_(blur.weight, 1 / 9)
    flat = torch.full((1, 1, 20, 20), 5.0, dtype=torch.float64)
    assert apart(ExactTiledInferer(8)(flat, blur), flat) <= EXACT
    assert float(blur(flat)[0, 0, 0, 0]) == pytest.approx(5 * 4 / 9), "the network's own zeros would darken the border"


def test_what_is_computed_with_one_tile_size_is_the_same_to_the_bit():
    network, x = randomised(chain(2)).float(), image(50, 41).float()
    once, again = ExactTiledInferer(16)(x, network), ExactTiledInferer(16)(x, network)
    cut = ExactTiledInferer(16)(x[..., :32, :41].contiguous(), network)
    assert torch.equal(once, again)
    h = ExactTiledInferer(16).field(network, 2).halo
    assert torch.equal(cut[..., : 32 - h, :], once[..., : 32 - h, :]), "a voxel's value knows only its neighbourhood"


def test_a_network_of_another_field_is_probed_anew():
    inferer, x = ExactTiledInferer(16), image(40, 40)
    for name in ("same-padded chain", "dilated", "strided, nearest"):
        network = randomised(NETWORKS[name](2))
        assert apart(inferer(x, network), ExactTiledInferer(HUGE)(x, network)) <= EXACT


def test_a_network_that_goes_back_to_training_is_refused_though_it_was_probed_before():
    network, inferer, x = randomised(batch_normed(2)), ExactTiledInferer(16), image(20, 20)
    inferer(x, network)
    network.train()
    with pytest.raises(InputError, match=r"layer '1' \(BatchNorm2d\)"):
        inferer(x, network)


def test_a_halo_smaller_than_what_the_network_consumes_is_refused():
    network = randomised(NETWORKS["valid convolutions on a lattice of 2"](2))
    with pytest.raises(InputError, match=r"8 voxels a side .*, got 7"):
        ExactTiledInferer(16, halo=7)(image(20, 20), network)


@pytest.mark.parametrize("tile", [0, -8, (16, 0)])
def test_a_tile_without_voxels_is_refused(tile):
    with pytest.raises(InputError, match="tile_size must be"):
        ExactTiledInferer(tile)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_who_has_switched_gradients_off_gets_the_same(mode):
    x = torch.rand(1, 2, 40, 37, dtype=torch.float64)
    network = chain(2).double()
    expected = ExactTiledInferer(HUGE)(x, network)
    with mode():
        result = ExactTiledInferer(16)(x.clone(), network)
    assert (result - expected).abs().max() <= EXACT
