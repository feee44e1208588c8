"""The implicit generator: a pure function of place and latent, equal to its formulas, fast and sparing of memory."""

from __future__ import annotations

import copy
import itertools
import math
import time

import pytest
import torch
import torch.nn.functional as F
from hiresmed.core.coordinates import patch_coordinates
from hiresmed.core.errors import InputError
from hiresmed.methods.inr_gan.generator import (
    CoordinateTable,
    EqualLinear,
    FourierFeatures,
    ImplicitGenerator,
    MappingNetwork,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from whole_volume import volume_coordinates

pytestmark = [pytest.mark.processor, pytest.mark.usefixtures("one_thread")]


def tiny(dims: int = 2, table: int | None = 4, channels: int = 1, dtype=torch.float64) -> ImplicitGenerator:
    torch.manual_seed(0)
    network = ImplicitGenerator(dims, channels, 6, 5, (8, 6), 2, bandwidth=9.0, table_size=table).to(dtype)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.add_(0.1 * torch.randn_like(weight))
    return network


def latents(count: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)


def by_grouped_convolution(network: ImplicitGenerator, coordinates: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The same weights as StyleGAN2 and CIPS put it: one group per image, gain after the activation (2-D)."""
    style, batch, area = network.mapping(z), len(z), coordinates.shape[2:]

    def layer(x, module, demodulate):
        s = module.style(style)
        kernel = module.weight.T[None] / math.sqrt(len(module.weight)) * s[:, None, :]
        if demodulate:
            kernel = kernel / kernel.square().sum(2, keepdim=True).add(1e-8).sqrt()
        out = F.conv2d(x.reshape(1, -1, *area), kernel.reshape(-1, kernel.shape[2], 1, 1), groups=batch)
        return out.reshape(batch, -1, *area) + module.bias.view(1, -1, 1, 1)

    places = coordinates.expand(batch, *coordinates.shape[1:]).movedim(1, -1)
    x = network.fourier(places)
    if network.table is not None:
        x = torch.cat([x, network.table(places)], -1)
    x, image = x.movedim(-1, 1), 0
    for number, module in enumerate(network.layers):
        x = F.leaky_relu(layer(x, module, True), 0.2) * math.sqrt(2)
        if number and number % 2 == 0:
            image = image + layer(x, network.heads[number // 2 - 1], False)
    return image


@pytest.mark.parametrize("table", [None, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_pixel_major_matrices_give_the_images_and_gradients_of_grouped_convolution(table, shared):
    network, z = tiny(table=table, channels=3), latents(3)
    coordinates = torch.rand(1 if shared else 3, 2, 4, 5, dtype=torch.float64) * 2 - 1
    mine, theirs = network(coordinates, z), by_grouped_convolution(network, coordinates, z)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    pull, weights = torch.randn_like(mine), list(network.parameters())
    for a, b in zip(torch.autograd.grad(mine, weights, pull), torch.autograd.grad(theirs, weights, pull)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_eval_and_train_draw_the_same_and_repeatedly_so():
    network, z, where = tiny(), latents(2), volume_coordinates((6, 5))[None].double()
    first = network.train()(where, z)
    assert torch.equal(first, network.train()(where, z))
    assert torch.equal(first, network.eval()(where, z))
    assert not list(network.buffers()), "nothing but weights: no noise, no running statistics"


@pytest.mark.parametrize(("dims", "size"), [(1, (12,)), (2, (6, 10)), (3, (4, 6, 8))])
@pytest.mark.parametrize("table", [None, 4])
def test_a_patch_of_a_grid_that_is_not_square_is_the_crop_of_the_whole(dims, size, table):
    network, z = tiny(dims, table), latents(2)
    whole = network(volume_coordinates(size)[None].double(), z)
    start, shape = [n // 4 for n in size], [n // 2 for n in size]
    box = tuple(slice(s, s + n) for s, n in zip(start, shape))
    where = patch_coordinates(start, shape, size)[None].double()
    torch.testing.assert_close(network(where, z), whole[(..., *box)], rtol=1e-12, atol=1e-12)
    own = torch.cat([where, -where])  # each image its own places
    assert not torch.allclose(network(own, z)[1], whole[(1, slice(None), *box)])
    torch.testing.assert_close(network(own, z)[0], whole[(0, slice(None), *box)], rtol=1e-12, atol=1e-12)


def test_the_three_axes_are_told_apart():
    network, z = tiny(3), latents(1)
    where = volume_coordinates((4, 4, 4))[None].double()
    image = network(where, z)
    for order in itertools.permutations(range(3)):
        turned = network(where[:, list(order)], z)
        assert torch.allclose(turned, image) == (order == (0, 1, 2))


@pytest.mark.parametrize(("dims", "size"), [(1, (5,)), (2, (4, 6)), (3, (3, 4, 5))])
def test_the_table_interpolates_between_cell_centres_as_torch_does_and_its_faces_go_on(dims, size):
    table = CoordinateTable(size, 3).double()
    fine = [2 * n for n in size]
    grown = table(volume_coordinates(fine).double().movedim(0, -1))
    grid = table.weight.detach().view(*size, 3).movedim(-1, 0)[None]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims]
    torch.testing.assert_close(grown.movedim(-1, 0)[None], F.interpolate(grid, size=fine, mode=mode), rtol=0, atol=1e-6)
    corner = table(torch.full((1, dims), -7.0, dtype=torch.float64))
    assert torch.equal(corner[0], table.weight[0])


def test_every_parameter_is_trained_the_embedding_too():
    network = tiny()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)  # built before the first forward pass
    target = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        (network(volume_coordinates((8, 8))[None].double(), latents(2)) - target).square().mean().backward()
        optimizer.step()
    still = [name for name, value in network.state_dict().items() if torch.equal(value, before[name])]
    assert not still
    assert (network.table.weight - before["table.weight"]).abs().amin() > 0, "each cell, since all were seen"


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() // t.element_size() for t in tree_leaves(result) if torch.is_tensor(t)]
        self.numel = max([self.numel, *sizes])
        return result


def test_no_gradient_of_the_table_is_as_large_as_the_table_times_the_batch():
    network, z = tiny(table=48), latents(8)
    with Largest() as seen:
        network(torch.rand(8, 2, 4, 4, dtype=torch.float64), z).sum().backward()
    assert network.table.weight.numel() <= seen.numel < 2 * network.table.weight.numel()


def test_modulating_once_for_all_tiles_changes_no_bit():
    network, z = tiny(dtype=torch.float32), latents(2, torch.float32)
    once = network.modulate(network.mapping(z))
    for start in range(0, 12, 4):
        where = patch_coordinates((start, 0), (4, 12), (12, 12))[None]
        assert torch.equal(network.synthesise(where, once), network(where, z))


def test_the_mapping_sees_the_direction_of_z_and_layers_are_scaled_at_run_time():
    mapping, z = MappingNetwork(6, 5, 2).double(), latents(2)
    torch.testing.assert_close(mapping(z), mapping(3 * z), rtol=1e-6, atol=0)
    layer = EqualLinear(9, 4, bias=2.0, rate=0.5)
    assert torch.equal(layer(torch.zeros(1, 9)), torch.full((1, 4), 2.0))
    torch.testing.assert_close(layer(torch.eye(9)), (layer.weight * 0.5 / 3).T + 2)


def test_hidden_activations_start_with_unit_mean_square_whatever_the_depth():
    torch.manual_seed(3)
    network, z = ImplicitGenerator(2, 1, 32, 32, (64,) * 4, 2, bandwidth=40.0), torch.randn(16, 32)
    outputs = network(volume_coordinates((16, 16))[None], z)
    x = network.fourier(volume_coordinates((16, 16)).flatten(1).T)[None].expand(16, -1, -1)
    for matrix, bias in network.modulate(network.mapping(z)).layers:
        x = F.leaky_relu(torch.baddbmm(bias, x, matrix), 0.2)
    assert 0.3 < x.square().mean() < 3
    assert 0.3 < outputs.std() < 10


def test_fourier_features_start_within_their_bandwidth_and_keep_full_precision_under_amp():
    features = FourierFeatures(2, 4000, 50.0)
    assert 49 < features.frequencies.abs().max() <= 50
    assert FourierFeatures(2, 4000).frequencies.abs().max() <= math.sqrt(4.5)
    where = torch.rand(10, 2)
    plain = features(where)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(where), plain)
        assert (tiny(dtype=torch.float32)(torch.rand(1, 2, 4, 4), latents(1, torch.float32))).isfinite().all()


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (3, 2, 4, 4), (2, 4)])
def test_coordinates_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match="coordinates of shape"):
        tiny()(torch.zeros(shape, dtype=torch.float64), latents(2))


def fastest(*ways, rounds: int = 30) -> list[float]:
    """Best time of each in seconds of this thread, taken in turns so that a busy neighbour disturbs all alike."""
    best = [math.inf] * len(ways)
    with torch.inference_mode():
        for _ in range(rounds):
            for number, way in enumerate(ways):
                begun = time.thread_time()
                way()
                best[number] = min(best[number], time.thread_time() - begun)
    return best


@pytest.mark.slow
def test_the_layers_at_width_64_are_twice_as_fast_as_grouped_convolution_and_near_a_bare_matrix_product():
    """One thread, an image of 64^2: twice CIPS's form (its gain, bias, activation), 80 % of the products alone."""
    torch.manual_seed(0)
    width, side = 64, 64
    network = ImplicitGenerator(2, 1, 64, 64, (width,) * 7, 2)
    layers = network.modulate(network.mapping(torch.randn(1, 64))).layers
    start = torch.randn(1, side * side, width)
    image = start.transpose(1, 2).reshape(1, width, side, side).contiguous()
    kernels = [matrix.transpose(1, 2).reshape(-1, width, 1, 1).contiguous() for matrix, _ in layers]
    bias = torch.zeros(1, width, 1, 1)

    def products():
        for x in start.split(1024, 1):
            for matrix, _ in layers:
                x = torch.bmm(x, matrix)

    def ours():
        for x in start.split(1024, 1):  # as the inferer has it
            for matrix, shift in layers:
                x = F.leaky_relu_(torch.bmm(x, matrix).add_(shift), 0.2)

    def grouped():
        x = image
        for kernel in kernels:
            x = F.conv2d(x, kernel).view(1, width, side, side)
            x = (F.leaky_relu(x + bias, 0.2) * math.sqrt(2)).view(1, -1, side, side)

    bare, mine, theirs = fastest(products, ours, grouped)
    print(f"grouped / ours {theirs / mine:.2f}, products / ours {bare / mine:.2f}")
    assert theirs / mine >= 2
    assert bare / mine >= 0.8


def test_torchscript_draws_the_same_and_can_be_saved(tmp_path):
    network = ImplicitGenerator(2, latent_size=8, style_size=8, channels=(16, 8), mapping_layers=2).eval()
    places, z = torch.rand(1, 2, 5, 4) * 2 - 1, torch.randn(1, 8)
    torch.jit.save(torch.jit.trace(network, (places, z)), tmp_path / "model.ts")
    loaded = torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(loaded(places, z), network(places, z))
