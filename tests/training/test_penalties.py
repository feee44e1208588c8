"""Gradient penalties against discriminators whose gradient is known."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.training.penalties import GradientPenalty, R1Penalty
from torch import nn

REAL, FAKE = torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.randn(6, 1, 4, 4, dtype=torch.float64)


def linear(length: float) -> nn.Module:
    """D(x) = <w, x> with |w| = length: its gradient is w everywhere."""
    layer = nn.Linear(16, 1, dtype=torch.float64)
    layer.weight.data *= length / layer.weight.data.norm()
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_a_linear_discriminator_pays_by_the_length_of_its_weights(length):
    critic = linear(length)
    assert GradientPenalty(10.0)(critic, REAL, FAKE, 1).item() == pytest.approx(10 * (length - 1) ** 2, abs=1e-9)
    assert R1Penalty(4.0, every=1)(critic, REAL, FAKE, 1).item() == pytest.approx(4 / 2 * length**2)


def test_the_penalty_pulls_the_weights_by_its_derivative():
    critic = linear(3.0)
    GradientPenalty(10.0)(critic, REAL, FAKE, 1).backward()
    weight = critic[1].weight
    torch.testing.assert_close(weight.grad, 2 * 10 * (3 - 1) * weight.detach() / 3)
    weight.grad = None
    R1Penalty(4.0, every=1)(critic, REAL, FAKE, 1).backward()
    torch.testing.assert_close(weight.grad, 4 * weight.detach())


def half_square(image: torch.Tensor) -> torch.Tensor:
    """Gradient x at x."""
    return image.square().flatten(1).sum(1) / 2


def test_r1_looks_at_real_images_alone():
    expected = 0.5 * 2.0 * REAL.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(R1Penalty(2.0, every=1)(half_square, REAL, FAKE, 1), expected)


def test_the_place_between_real_and_fake_is_drawn_once_per_image_from_torchs_generator():
    real, fake = torch.full((256, 1, 4, 4), 2.0), torch.full((256, 1, 4, 4), 1.0)
    places = []

    def critic(image):
        places.append(image.detach())
        return half_square(image)

    torch.manual_seed(5)
    first = GradientPenalty(1.0)(critic, real, fake, 1)
    torch.manual_seed(5)
    assert torch.equal(first, GradientPenalty(1.0)(critic, real, fake, 1))
    place = places[0].flatten(1)
    assert torch.equal(place, place[:, :1].expand_as(place)), "one number per image"
    assert 1.0 <= place.min() < 1.05 < 1.95 < place.max() <= 2.0, "from the fake's value to the real's"
    # the gradient is x itself: 16 pixels of this value
    torch.testing.assert_close(first, ((4 * place[:, 0] - 1) ** 2).mean())


def test_a_lazy_penalty_has_the_same_mean_over_time():
    critic = linear(2.0)
    lazy = [R1Penalty(1.0, every=4)(critic, REAL, FAKE, k) for k in range(1, 9)]
    assert [value is None for value in lazy] == [True, True, True, False] * 2
    always = R1Penalty(1.0, every=1)(critic, REAL, FAKE, 1)
    torch.testing.assert_close(sum(v for v in lazy if v is not None) / 8, always)


def test_patch_logits_pay_by_their_mean_whatever_the_size_of_the_map():
    """D = a x, voxel by voxel: the mean over 16 voxels has the gradient a / 16 in each, of length a / 4."""
    critic = nn.Conv2d(1, 1, 1, dtype=torch.float64)
    critic.weight.data.fill_(8.0)
    assert R1Penalty(2.0, every=1)(critic, REAL, FAKE, 1).item() == pytest.approx((8 / 4) ** 2)
    assert R1Penalty(2.0, every=1)(lambda x: [critic(x), critic(x)], REAL, FAKE, 1).item() == pytest.approx(4.0)


def test_a_discriminator_without_gradient_gets_a_finite_penalty_and_derivative():
    critic = linear(0.0)
    value = GradientPenalty(10.0)(critic, REAL, FAKE, 1)
    value.backward()
    assert value.item() == pytest.approx(10.0, rel=1e-5)
    assert torch.isfinite(critic[1].weight.grad).all()


def test_inside_autocast_the_penalty_is_still_computed_in_full_precision():
    critic, real, fake = linear(1.7).float(), REAL.float(), FAKE.float()
    torch.manual_seed(0)
    outside = GradientPenalty(10.0)(critic, real, fake, 1)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = GradientPenalty(10.0)(critic, real, fake, 1)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"every": 0}])
def test_wrong_weights_and_intervals_are_refused(wrong):
    with pytest.raises(InputError, match="weight >= 0 and every >= 1"):
        R1Penalty(**wrong)
