"""Group norm channels last on a CPU: the values and gradients of torch's, more exact than these in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hiresmed.methods.patchddm.group_norm import Norm, is_channels_last

pytestmark = pytest.mark.processor

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
CASES = [((1, 6, 5, 4, 3), 6), ((2, 6, 5, 4, 3), 3), ((3, 8, 7, 6), 2), ((2, 4, 70, 40, 31), 1)]


def norm(groups: int, channels: int, dtype: torch.dtype) -> Norm:
    made = Norm(groups, channels).to(dtype)
    with torch.no_grad():
        made.weight.copy_(torch.rand(channels) + 0.5)
        made.bias.copy_(torch.randn(channels))
    return made


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=LAYOUTS[x.ndim])


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_values_and_gradients_are_torchs(shape, groups):
    torch.manual_seed(0)
    layer = norm(groups, shape[1], torch.float64)
    x, g = 2 * torch.randn(shape, dtype=torch.float64) + 3, torch.randn(shape, dtype=torch.float64)
    ours, theirs = last(x).requires_grad_(), x.clone().requires_grad_()
    assert is_channels_last(last(x)) and not is_channels_last(x), "the control must take the other way"
    made = layer(ours)
    wanted = F.group_norm(theirs, groups, layer.weight, layer.bias, layer.eps)
    assert made.is_contiguous(memory_format=LAYOUTS[x.ndim])
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-12)
    parameters = [layer.weight, layer.bias]
    found, expected = (torch.autograd.grad(y, [z, *parameters], g) for y, z in ((made, ours), (wanted, theirs)))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [4, 2])
def test_half_precision_is_near_float32(groups):
    torch.manual_seed(0)
    layer = norm(groups, 4, torch.float32)
    x, g = last(torch.randn(2, 4, 20, 20, 20) + 3).bfloat16(), last(torch.randn(2, 4, 20, 20, 20)).bfloat16()
    exact, half = x.double().requires_grad_(), x.clone().requires_grad_()
    wanted = F.group_norm(exact, groups, layer.weight.double(), layer.bias.double(), layer.eps)
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(half)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), wanted, rtol=8e-3, atol=1.6e-2)
    found = torch.autograd.grad(made, [half, layer.weight, layer.bias], g)
    expected = torch.autograd.grad(wanted, exact, g.double())[0]
    assert found[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    assert (found[0].double() - expected).abs().max() < 0.02 * expected.abs().max()


def test_large_volumes_far_from_zero_are_as_exact_as_small_ones():
    torch.manual_seed(0)
    x = last(torch.randn(1, 2, 96, 96, 96) + 3)
    layer = norm(2, 2, torch.float32)
    exact = F.group_norm(x.double(), 2, layer.weight.double(), layer.bias.double(), layer.eps)
    theirs = F.group_norm(x, 2, layer.weight, layer.bias, layer.eps)
    gap, their_gap = ((y - exact).abs().max().item() for y in (layer(x), theirs))
    assert gap < 2e-5
    assert their_gap > 10 * gap, "torch has learned: the layer may go"
