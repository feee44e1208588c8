"""Equation 4 of Lee et al. 2022 by hand, in both readings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hiresmed.core.errors import InputError
from hiresmed.methods.inr_gan.patch_consistency import PatchConsistency, coarser


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def test_halving_is_bilinear_resizing_at_cell_centres():
    pred = noise(2, 3, 8, 6)
    torch.testing.assert_close(coarser(pred, (4, 3)), F.interpolate(pred, scale_factor=0.5, mode="bilinear"))


@pytest.mark.parametrize("shape", [(8,), (8, 6), (8, 6, 4)])
def test_both_norms_by_hand_in_one_to_three_axes(shape):
    coarse = [n // 2 for n in shape]
    pred, target = noise(3, 2, *shape), noise(3, 2, *coarse).flip(0)
    cells = pred.reshape(3, 2, *[m for n in coarse for m in (n, 2)])
    difference = cells.mean(list(range(3, cells.ndim, 2))) - target
    torch.testing.assert_close(PatchConsistency()(pred, target), (difference**2).mean())
    euclid = torch.stack([(d**2).sum().sqrt() for d in difference]).mean()
    torch.testing.assert_close(PatchConsistency("norm")(pred, target), euclid)


def test_softer_variants_by_hand():
    pred, target = noise(2, 1, 8, 8), noise(2, 1, 4, 4)
    difference = F.avg_pool2d(pred, 2) - target
    blocks = F.avg_pool2d(difference, 2)
    torch.testing.assert_close(PatchConsistency(blocks=2)(pred, target), blocks.square().mean())
    beyond = (difference.abs() - 0.3).clamp(min=0)
    torch.testing.assert_close(PatchConsistency(tolerance=0.3)(pred, target), beyond.square().mean())
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]  # a detail of coarse pixels
    finer = checker.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert PatchConsistency()(finer, torch.zeros_like(checker)) == 1
    assert PatchConsistency(blocks=2)(finer, torch.zeros_like(checker)) == 0
    for wrong in ({"blocks": 0}, {"tolerance": -0.1}, {"blocks": 1.5}):
        with pytest.raises(InputError, match="tolerance from 0 on"):
            PatchConsistency(**wrong)


def test_an_axis_may_keep_its_grid():
    pred = noise(1, 1, 4, 6)
    assert PatchConsistency()(pred, pred.unflatten(2, (2, 2)).mean(3)) < 1e-30


@pytest.mark.parametrize("norm", ["mean_square", "norm"])
def test_where_the_patches_agree_value_and_gradient_are_zero(norm):
    pred = noise(2, 1, 4, 4).requires_grad_(True)
    value = PatchConsistency(norm)(pred, coarser(pred, (2, 2)).detach())
    value.backward()
    assert value == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_shapes_that_do_not_divide_and_unknown_norms_are_refused():
    with pytest.raises(InputError, match="whole multiple"):
        PatchConsistency()(noise(1, 1, 5, 4), noise(1, 1, 2, 2))
    with pytest.raises(InputError, match="mean_square, norm"):
        PatchConsistency("l1")
