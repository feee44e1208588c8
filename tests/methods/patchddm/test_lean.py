"""The lean forward gives the plain forward's numbers, whatever the slab, and holds the memory that it promises."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.methods.patchddm.lean import lean_forward
from hiresmed.methods.patchddm.lean_slabs import NormSiLU, Stored
from hiresmed.methods.patchddm.unet import SKIPS, PatchDDMUNet
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.processor

GIB = 2**30
TIMES = torch.tensor([7, 500])


def randomised(dims: int = 3, dtype: torch.dtype = torch.float64, **knobs) -> PatchDDMUNet:
    """Every layer drawn, the zero-initialised ones too: these would let any branch pass."""
    knobs = {"in_channels": 3, "out_channels": 2, "channels": 8, "channel_multipliers": (1, 2, 2)} | knobs
    network = PatchDDMUNet(dims, **knobs)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            deviation = 0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.copy_(deviation * torch.randn(weight.shape, generator=draw))
    return network.to(dtype).eval()


def images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def error(network: PatchDDMUNet, x: torch.Tensor, **knobs) -> float:
    """Largest difference between lean and plain, relative to the largest value."""
    with torch.no_grad():
        plain = network(x, TIMES[: x.shape[0]])
    lean = lean_forward(network, x, TIMES[: x.shape[0]], **knobs)
    assert lean.shape == plain.shape and lean.dtype == plain.dtype
    return float((lean - plain).abs().max() / plain.abs().max())


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize(("dims", "groups"), [(1, 8), (2, 4), (3, 2)])
def test_lean_equals_plain_for_every_kind_of_skip(skip, dims, groups):
    sides = (16, 12, 8)[:dims]
    network = randomised(dims, skip=skip, norm_groups=groups)
    assert error(network, images(2, 3, *sides), slab=3, threshold=0) < 1e-12
    assert error(network.float(), images(2, 3, *sides, dtype=torch.float32), slab=3, threshold=0) < 1e-5


@pytest.mark.parametrize("slab", [1, 4, 5, 64, None])
@pytest.mark.parametrize("threshold", [0, 8 * 12 * 16])
def test_neither_slab_nor_threshold_nor_offload_changes_the_result(slab, threshold):
    network = randomised(2)
    assert error(network, images(2, 3, 16, 12), slab=slab, threshold=threshold, offload="cpu") < 1e-12


def test_means_far_from_zero_do_not_spoil_the_variance():
    x = 1e4 + images(1, 4, 32, 8, 8, dtype=torch.float32)
    norm = torch.nn.GroupNorm(2, 4).requires_grad_(False)
    ours = NormSiLU(norm, Stored(x), 5)(x, torch.float32)
    exact = torch.nn.functional.silu(norm.double()(x.double()))
    assert float((ours - exact).abs().max()) < 5e-3
    one_pass = ((x * x).mean() - x.mean() ** 2).item()
    assert not 0.9 < one_pass < 1.1, "the naive formula would do: this test shows nothing"


@pytest.mark.parametrize("autocast", [True, False])
def test_in_bfloat16_lean_is_as_near_to_the_truth_as_plain(autocast):
    network, x = randomised(dtype=torch.float32), images(1, 3, 16, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        truth = network(x, TIMES[:1])
        network = network if autocast else network.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            given = x if autocast else x.bfloat16()
            plain, lean = network(given, TIMES[:1]), lean_forward(network, given, TIMES[:1], 4, threshold=0)
    assert lean.dtype == plain.dtype == torch.bfloat16
    scale = truth.abs().max()
    assert (plain - truth).abs().max() / scale < 0.06
    assert (lean - truth).abs().max() / scale < 0.06


def test_the_input_is_left_as_it_was_and_no_gradient_is_kept():
    network, x = randomised(), images(1, 3, 8, 8, 8).requires_grad_()
    before = x.detach().clone()
    assert not lean_forward(network, x, TIMES[:1], 4, threshold=0).requires_grad
    assert torch.equal(x.detach(), before)


def test_a_side_that_the_levels_do_not_divide_is_refused():
    with pytest.raises(InputError, match=r"\(8, 12\)"):
        lean_forward(randomised(2), images(1, 3, 8, 10), TIMES[:1])


def peaks(size: int, **knobs) -> tuple[int, int]:
    network = PatchDDMUNet(3, 3, 2, 8, (1, 1))  # not randomised: a fake module cannot be converted
    x = torch.zeros(1, 3, size, size, size)
    with torch.no_grad(), LiveBytes([x, *network.parameters()]) as plain:
        network(x, torch.tensor([7]))
    with LiveBytes([x, *network.parameters()]) as lean:
        lean_forward(network, x, torch.tensor([7]), **knobs)
    return plain.peak, lean.peak


def test_lean_lives_in_half_the_memory_and_the_count_needs_no_real_tensors():
    plain, lean = peaks(24, slab=2, threshold=0)
    assert lean < 0.6 * plain
    with FakeTensorMode():
        assert peaks(24, slab=2, threshold=0) == (plain, lean)


@pytest.mark.slow
def test_a_whole_brain_at_256_in_bfloat16_fits_4_3_gib():
    with FakeTensorMode():
        network, x = PatchDDMUNet(), torch.empty(1, 8, 256, 256, 256)
        with torch.autocast("cpu", torch.bfloat16), LiveBytes(network.parameters()) as live:
            lean_forward(network, x, torch.zeros(1, dtype=torch.long))
    assert live.peak < 4.3 * GIB
