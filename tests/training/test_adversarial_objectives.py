"""Each objective is its paper's formula, checked by numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hiresmed.training.objectives import BinaryCrossEntropy, LeastSquares, NonSaturating, Wasserstein

REAL, FAKE = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([-3.0, 0.5], dtype=torch.float64)


def log1pexp(x: float) -> float:
    return math.log(1 + math.exp(x))


D_SOFTPLUS = (log1pexp(-2) + log1pexp(0)) / 2 + (log1pexp(-3) + log1pexp(0.5)) / 2
G_SOFTPLUS = (log1pexp(3) + log1pexp(-0.5)) / 2


@pytest.mark.parametrize(
    ("objective", "loss_d", "loss_g"),
    [
        # D: ((2-1)^2 + (0-1)^2)/4 + (9 + .25)/4;  G: ((-4)^2 + (-.5)^2)/4
        (LeastSquares(), 0.5 + 2.3125, 4.0625),
        (NonSaturating(), D_SOFTPLUS, G_SOFTPLUS),
        (BinaryCrossEntropy(), D_SOFTPLUS, G_SOFTPLUS),
        # D: -1.25 - 1;  G: 1.25
        (Wasserstein(), -2.25, 1.25),
    ],
    ids=lambda v: type(v).__name__ if hasattr(v, "generator") else "",
)
def test_the_losses_have_the_values_of_the_formula(objective, loss_d, loss_g):
    assert objective.discriminator(REAL, FAKE).item() == pytest.approx(loss_d, rel=1e-12)
    assert objective.generator(FAKE).item() == pytest.approx(loss_g, rel=1e-12)


@pytest.mark.parametrize("objective", [LeastSquares(), NonSaturating(), BinaryCrossEntropy(), Wasserstein()])
def test_d_learns_to_raise_real_and_lower_fake_logits_and_g_to_raise_them(objective):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    objective.discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all() or isinstance(objective, LeastSquares)
    fake.grad = None
    objective.generator(fake).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("objective", [LeastSquares(), NonSaturating(), BinaryCrossEntropy(), Wasserstein()])
def test_scales_count_equally_whatever_the_size_of_their_maps(objective):
    coarse, fine = torch.full((2, 1, 2, 2), 0.3), torch.full((2, 1, 8, 8), -1.7)
    both = objective.discriminator([coarse, fine], [fine, coarse])
    apart = (objective.discriminator(coarse, fine) + objective.discriminator(fine, coarse)) / 2
    torch.testing.assert_close(both, apart)
    torch.testing.assert_close(
        objective.generator([coarse, fine]), (objective.generator(coarse) + objective.generator(fine)) / 2
    )
