"""The residual discriminator: its halvings by hand, its groups in micro-batches, R1's second derivative."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.inr_gan.critic import Blur, EqualConv, ResidualCritic
from hiresmed.training.minibatch import minibatch_deviation

pytestmark = pytest.mark.processor


def critic(dims: int, size, **changes) -> ResidualCritic:
    torch.manual_seed(0)
    assert len(size) == dims
    return ResidualCritic(size, **{"width": 4, "max_width": 6, **changes}).double()


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("dims", "size", "final", "blocks", "cells"),
    [
        (1, (16,), 4, 2, 4),
        (2, (16, 16), 4, 2, 16),
        (2, (16, 7), 4, 2, 12),
        (3, (8, 8, 4), 4, 1, 64),
        (2, (8, 8), 1, 3, 1),
    ],
)
def test_each_axis_is_halved_until_it_is_short(dims, size, final, blocks, cells):
    network = critic(dims, size, final_size=final)
    assert len(network.blocks) == blocks
    assert network.hidden.weight.shape[1] == 6 * cells
    assert network(images(3, *size)).shape == (3, 1)


def test_an_axis_that_is_not_halved_is_not_blurred_either():
    x = images(1, 8, 5)
    y = Blur((True, False)).double()(x, padding=1, stride=2)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1))
    by_hand = sum(w * padded[:, :, k : k + 8 : 2][:, :, :4] for k, w in enumerate([0.125, 0.375, 0.375, 0.125]))
    torch.testing.assert_close(y, by_hand)


def test_convolutions_are_scaled_by_their_fan_in():
    torch.manual_seed(0)
    assert 0.9 < EqualConv(2, 16, 64, 3)(torch.randn(4, 16, 12, 12))[..., 1:-1, 1:-1].std() < 1.1


def test_the_deviation_is_that_of_neighbours_and_of_what_is_left_over():
    x = images(6, 2, 3)
    y = minibatch_deviation(x, 4)
    for part in (slice(0, 4), slice(4, 6)):
        group = x[part, 0]
        by_hand = (((group - group.mean(0)) ** 2).mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[part, 1], by_hand.expand_as(y[part, 1]))
    assert torch.equal(y[:, :1], x)
    assert minibatch_deviation(x[:3], 4).shape == (3, 2, 2, 3)


def test_micro_batches_of_whole_groups_give_the_logits_of_the_whole_batch_and_others_do_not():
    network, x = critic(2, (8, 8)), images(8, 8, 8)
    whole = network(x)
    parts = torch.cat([network(part) for part in x.split(4)])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    broken = torch.cat([network(part) for part in x.split(2)])
    assert (broken - whole).abs().max() > 1e-4


def test_without_groups_each_image_is_judged_alone():
    network, x = critic(2, (8, 8), group_size=1), images(4, 8, 8)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


@pytest.mark.parametrize("size", [(8, 8), (6, 5)])
def test_the_gradient_penalty_has_the_derivative_that_differences_give(size):
    network, x = critic(2, size), images(4, *size)

    def penalty() -> torch.Tensor:
        place = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(place).sum(), place, create_graph=True)
        return gradient.square().sum()

    weight = network.blocks[0].second.weight
    (slope,) = torch.autograd.grad(penalty(), weight)
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = []
    for step in (1e-5, -1e-5):
        weight.data += step * way
        values.append(penalty().item())
        weight.data -= step * way
    assert (slope * way).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_images_of_another_shape_and_impossible_settings_are_refused():
    with pytest.raises(InputError, match="was built for images"):
        critic(2, (8, 8))(images(1, 16, 16))
    with pytest.raises(InputError, match="size must give a positive number of voxels"):
        ResidualCritic((8, 0))
