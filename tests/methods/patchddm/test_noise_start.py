"""A network that starts as noise returns its last input channels over their deviation, and learns."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import ImageOnly, PatchDDMUNet, start_as_noise

pytestmark = pytest.mark.processor

TIMES = torch.tensor([3, 900])


@pytest.mark.parametrize("skip", ["average", "add", "concatenate"])
@pytest.mark.parametrize("multipliers", [(1, 2, 2), (1, 3), (1,)])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("trained", [False, True])
def test_it_returns_x_t_over_its_deviation(skip, multipliers, blocks, trained):
    torch.manual_seed(0)
    network = PatchDDMUNet(2, 5, 2, 8, multipliers, blocks, skip=skip)
    if trained:
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.3 * torch.randn_like(weight)
    assert start_as_noise(network) is network
    x = 3 * torch.randn(2, 5, 16, 16, dtype=torch.float64) + 1
    x_t = x[:, -2:]
    wanted = (x_t - x_t.mean((2, 3), keepdim=True)) / x_t.std((2, 3), correction=0, keepdim=True)
    assert torch.allclose(network.double()(x, TIMES), wanted, rtol=0, atol=1e-5)


def test_a_first_level_wider_than_the_stem_hands_it_on_too():
    network = start_as_noise(PatchDDMUNet(2, 5, 1, 8, (2, 3), skip="average")).double()
    x = torch.randn(1, 5, 16, 16, dtype=torch.float64)
    x_t = x[:, -1:] - x[:, -1:].mean()
    assert torch.allclose(network(x, TIMES[:1]), x_t / x_t.std(correction=0), rtol=0, atol=1e-4)


def test_every_weight_of_it_learns():
    torch.manual_seed(0)
    network = start_as_noise(PatchDDMUNet(2, 5, 1, 8, (1, 2)))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(2, 5, 8, 8), TIMES).square().mean().backward()
        optimizer.step()
    silent = {name for name, weight in network.named_parameters() if not weight.grad.any()}
    assert not silent


def test_other_predictions_leave_a_network_as_it_is_and_others_are_refused():
    network = PatchDDMUNet(2, 5, 1, 8, (1, 2))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    start_as_noise(network, "x0")
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    with pytest.raises(InputError, match="must be a PatchDDMUNet, got ImageOnly"):
        start_as_noise(ImageOnly(1, torch.nn.Identity()))
    with pytest.raises(InputError, match="at least 4 wide to start as noise, got 3"):
        start_as_noise(PatchDDMUNet(2, 5, 2, 3, (1, 2)))
