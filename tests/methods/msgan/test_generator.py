"""The multi-scale generator's parts by hand, its margins by perturbation, its cascade by its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.methods.msgan import MultiScaleGenerator, PatchCritic, PatchGenerator
from hiresmed.methods.msgan.generator import coarser_sketch, crop, extend
from hiresmed.methods.msgan.stage_inputs import enlarge
from monai.data import MetaTensor
from monai.networks.layers.factories import Conv
from monai.networks.nets import PatchDiscriminator
from whole_volume import volume_coordinates

pytestmark = pytest.mark.processor

SMALL = {"width": 6, "num_blocks": 1, "fine_width": 4}


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            deviation = 0.1 if weight.ndim == 1 else 1 / weight[0].numel() ** 0.5
            weight.copy_(deviation * torch.randn(weight.shape, generator=draw))
    return network.double().eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("factor", "blocks", "margin"), [(1, 0, 3), (2, 0, 4), (2, 1, 8), (2, 3, 16), (4, 1, 16), (4, 3, 32)]
)
def test_the_margin_is_what_the_formula_says_and_what_the_output_lacks(factor, blocks, margin):
    network = PatchGenerator(2, 3, 4, 4, blocks, factor)
    assert network.margin == margin
    n = 2 * margin + 4 * factor
    assert network(torch.zeros(1, 3, n, n)).shape == (1, 1, 4 * factor, 4 * factor)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_crop_of_the_input_on_the_lattice_gives_the_crop_of_the_output(dims, factor):
    network = randomised(PatchGenerator(dims, 2, num_blocks=1, width=6, fine_width=4, factor=factor))
    x, m = noise(1, 2, *[2 * network.margin + 6 * factor] * dims), network.margin
    whole = network(x)
    part = network(x[(..., *[slice(factor, 3 * factor + 2 * m)] * dims)])
    assert torch.allclose(part, whole[(..., *[slice(factor, 3 * factor)] * dims)], rtol=0, atol=1e-12)


def test_a_silent_stage_returns_its_first_channel_and_a_base_its_own_values():
    network = randomised(PatchGenerator(2, 3, residual=True, **SMALL))
    for weight in network.out.parameters():
        torch.nn.init.zeros_(weight)
    x = noise(2, 3, 24, 24)
    assert torch.equal(network(x), x[:, :1, 8:-8, 8:-8])
    network.residual = False
    assert not network(x).any()


def test_every_channel_reaches_the_output():
    for network, channels in ((PatchGenerator(2, 3, **SMALL), 3), (PatchGenerator(3, 5, residual=False, **SMALL), 5)):
        network = randomised(network)
        dims = 2 if channels == 3 else 3
        x = noise(1, channels, *[20] * dims).requires_grad_(True)
        network(x).sum().backward()
        assert (x.grad.abs().amax([0, *range(2, 2 + dims)]) > 0).all()


def test_enlarging_keeps_cell_centres_and_crop_undoes_extend():
    x = noise(1, 1, 6, 5)
    for factor in (2, 4):
        fine = enlarge(x, factor)
        where, coarse = volume_coordinates((6 * factor, 5 * factor)).double(), volume_coordinates((6, 5)).double()
        inner = factor // 2
        ramp = enlarge(coarse[None], factor)[0]
        assert torch.allclose(crop(ramp[None], inner), crop(where[None], inner)), "a ramp stays where it is"
        assert fine.shape == (1, 1, 6 * factor, 5 * factor)
    wide = extend(x, [(2, 2), (2, 2)])
    assert torch.equal(crop(wide, 2), x)
    assert torch.equal(extend(x, [(2, 9), (0, 3)])[0, 0], torch.from_numpy(np.pad(x[0, 0], [(2, 9), (0, 3)], "edge")))


def test_a_thin_line_survives_in_the_coarser_sketch():
    sketch = torch.zeros(1, 1, 16, 16)
    sketch[..., 5] = 0.7
    coarse = coarser_sketch(coarser_sketch(sketch, 2), 2)
    assert torch.equal(coarse[0, 0, :, 1], torch.full((4,), 0.7)) and float(coarse.sum()) == pytest.approx(2.8)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_cascade_is_its_stages_one_after_the_other(dims):
    """By hand: pooled sketch, coordinates, base; enlarged, sketch, zero noise, stage; faces extended, clipped."""
    network = randomised(MultiScaleGenerator(dims, num_stages=1, base=SMALL, stage=SMALL))
    sketch = noise(1, 1, *[16] * dims).abs().clamp(max=1)
    m = network.base.margin
    coarse = coarser_sketch(sketch, 2)
    where = torch.stack(torch.meshgrid(*[-1 + (2 * torch.arange(-m, 8 + m).double() + 1) / 8] * dims, indexing="ij"))
    base_in = [extend(c, [(m, m)] * dims) for c in (coarse, torch.zeros_like(coarse))] + [where[None]]
    image = network(torch.cat(base_in, 1), 0).clamp(-1, 1)
    m = network.stages[0].margin
    stage_in = torch.cat([enlarge(image, 2), sketch, torch.zeros_like(sketch)], 1)
    by_hand = network(extend(stage_in, [(m, m)] * dims), 1).clamp(-1, 1)
    assert torch.allclose(network(sketch), by_hand, rtol=0, atol=1e-12)


def test_torchscript_of_the_cascade_is_the_cascade_on_ras_axes():
    network, sketch = randomised(MultiScaleGenerator(3, num_stages=1, base=SMALL, stage=SMALL)), noise(1, 1, 8, 8, 8)
    traced = torch.jit.trace(network, sketch)
    ras = network(MetaTensor(sketch, affine=np.eye(4))).as_tensor()
    assert torch.allclose(traced(-sketch), network(-sketch), rtol=0, atol=1e-12)
    assert torch.allclose(traced(sketch), ras, rtol=0, atol=1e-12)


def test_shared_weights_serve_every_scale_and_own_weights_one_each():
    shared = MultiScaleGenerator(2, num_stages=3, base=SMALL, stage=SMALL)
    own = MultiScaleGenerator(2, num_stages=3, weights="per_scale", base=SMALL, stage=SMALL)
    assert shared.stage(1) is shared.stage(2) is shared.stage(9) and shared.stage(0) is shared.base
    assert len({id(own.stage(n)) for n in range(4)}) == 4
    assert own.stage(9) is own.stage(3), "a cascade that grows reuses the last"
    with pytest.raises(ValueError, match="weights must be shared or per_scale, got 'none'"):
        MultiScaleGenerator(2, weights="none")


def test_the_names_of_the_weights_are_those_of_the_shipped_ones():
    names = set(MultiScaleGenerator(3, num_stages=2, base=SMALL, stage=SMALL).state_dict())
    layers = ["stem", "head", "blocks.0.first", "blocks.0.second", "to_fine", "fine", "last", "out"]
    stages, kinds = ("base", "stages.0"), ("weight", "bias")
    assert names == {f"{stage}.{layer}.{kind}" for stage in stages for layer in layers for kind in kinds}


def test_the_critic_gives_logits_of_overlapping_patches():
    critic = PatchCritic(2, 3, channels=8, num_layers=2)
    x = torch.randn(2, 3, 64, 48)
    logits = critic(x)
    assert torch.is_tensor(logits) and logits.shape[:2] == (2, 1) and min(logits.shape[2:]) > 4
    assert any(isinstance(m, Conv[Conv.CONV, 2]) for m in critic.modules())
    changed = x.clone()
    changed[1] += 1.0 * torch.randn(3, 64, 48)
    assert torch.allclose(critic(changed)[0], logits[0], atol=1e-5), "an image is judged alone"
    assert not torch.allclose(critic(changed)[1], logits[1], atol=1e-2)


@pytest.mark.parametrize("gain", [0.0, 16.0])
def test_critic_is_monais_on_the_detail_enlarged(gain):
    critic = PatchCritic(2, 3, channels=8, num_layers=2, detail_gain=gain)
    coarse, _, image = x = torch.randn(3, 2, 1, 48, 48).unbind(0)
    shown = list(x) + ([torch.tanh(gain * (image - coarse))] if gain else [])
    assert torch.equal(critic(torch.cat(x, 1)), PatchDiscriminator.forward(critic, torch.cat(shown, 1))[-1])


def test_detail_of_a_hundredth_moves_the_critic_that_is_shown_it():
    torch.manual_seed(0)
    coarse, sketch = torch.randn(2, 1, 1, 64, 64).tanh().unbind(0)
    detail = 0.01 * torch.randn(1, 1, 64, 64)
    moved = {}
    for gain in (0.0, 16.0):
        torch.manual_seed(1)
        critic = PatchCritic(2, 3, channels=16, detail_gain=gain)
        plain, fine = (critic(torch.cat([coarse, sketch, coarse + d], 1)) for d in (0 * detail, detail))
        moved[gain] = float(((fine - plain).std() / plain.std()).detach())
    assert moved[16.0] > 4 * moved[0.0], moved
