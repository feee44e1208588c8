"""From samples to the trainer's batch: channels in their order, D sees what G was told, rollout without gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hiresmed.methods.msgan import EvaluationBatch, MultiScaleBatch, MultiScaleGenerator
from hiresmed.methods.msgan.stage_inputs import stage_input
from torch.optim.swa_utils import AveragedModel

SMALL = {"width": 6, "num_blocks": 1, "fine_width": 4}
CPU = torch.device("cpu")


def network(dims: int = 2) -> MultiScaleGenerator:
    torch.manual_seed(0)
    return MultiScaleGenerator(dims, num_stages=2, base=SMALL, stage=SMALL)


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def finer(dims: int = 2, count: int = 2, **more) -> dict:
    """A batch of stage 1: patches of 8, halo 8, so conditions of 24 and coarse images of 12 + 2."""
    conditions = {k: drawn(count, 1, *[24] * dims) + i for i, k in enumerate(("sketch", "noise"))}
    coarse = {"coarse": drawn(count, 1, *[14] * dims)}
    return {"stage": [1] * count, "image": drawn(count, 1, *[8] * dims)} | conditions | coarse | more


def base(dims: int = 2) -> dict:
    """A batch of the base: patches of 8, halo 16."""
    conditions = {k: drawn(2, 1, *[40] * dims) + i for i, k in enumerate(("sketch", "noise"))}
    conditions["coordinates"] = drawn(2, dims, *[40] * dims)
    return {"stage": [0, 0], "image": drawn(2, 1, *[8] * dims)} | conditions


@pytest.mark.parametrize("dims", [2, 3])
def test_a_finer_stage_is_fed_enlarged_image_sketch_and_noise(dims):
    batch = finer(dims)
    fed = stage_input(batch, 2)
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    enlarged = F.interpolate(batch["coarse"], scale_factor=2.0, mode=mode)[(..., *[slice(2, -2)] * dims)]
    for channel, expected in enumerate((enlarged, batch["sketch"], batch["noise"])):
        assert torch.allclose(fed[:, channel : channel + 1], expected, atol=1e-6)
    assert fed.shape[1] == 3


@pytest.mark.parametrize("dims", [2, 3])
def test_the_base_is_fed_sketch_noise_and_coordinates(dims):
    batch = base(dims)
    assert torch.equal(stage_input(batch, 2), torch.cat([batch["sketch"], batch["noise"], batch["coordinates"]], 1))


def test_the_critic_is_shown_the_coarse_image_and_the_sketch_at_the_patch():
    batch = finer()
    made = MultiScaleBatch(network())(batch, CPU)
    assert made.inputs[1] == 1 and torch.equal(made.real, batch["image"])
    assert torch.equal(made.condition, stage_input(batch, 2)[:, :2, 8:16, 8:16])
    assert network()(*made.inputs).shape == made.real.shape == made.condition[:, :1].shape


def test_for_the_base_the_critic_is_shown_zeros_in_place_of_a_coarse_image():
    batch = base()
    made = MultiScaleBatch(network())(batch, CPU)
    assert made.inputs[1] == 0 and not made.condition[:, 0].any()
    assert torch.equal(made.condition[:, 1:], batch["sketch"][..., 16:24, 16:24])
    assert network()(*made.inputs).shape == made.real.shape


def below() -> dict:
    """What the base needs for a coarse box of 14 that begins 3 and 1 into its 20 output voxels."""
    n = 20 + 2 * 16
    conditions = {"sketch": drawn(1, n, n), "noise": drawn(1, n, n), "coordinates": drawn(2, n, n)}
    return {"stage": 0, "offset": [3, 1], "inside": [(0, 20), (0, 20)]} | conditions


def test_a_rolled_out_sample_takes_its_coarse_image_from_the_stage_before():
    generator, parts = network(), below()
    batch = finer(count=1, below=[parts])
    made = MultiScaleBatch(generator)(batch, CPU)
    x = torch.cat([parts["sketch"], parts["noise"], parts["coordinates"]])[None]
    coarse = generator(x, 0).clamp(-1, 1)[..., 3:17, 1:15]
    assert torch.allclose(made.inputs[0], stage_input(batch | {"coarse": coarse}, 2), atol=1e-6)
    assert not made.inputs[0].requires_grad, "each stage learns alone"
    assert not torch.allclose(made.inputs[0], stage_input(batch, 2), atol=1e-2)


def test_beyond_the_volume_the_generated_image_goes_on_with_its_face():
    parts = below() | {"inside": [(6, 20), (0, 9)]}
    batch = finer(count=1, below=[parts])
    seen = MultiScaleBatch(network())(batch, CPU).inputs[0][0, 0]
    whole = MultiScaleBatch(network())(finer(count=1, below=[below()]), CPU).inputs[0][0, 0]
    # rows 3, 4, 5 lie before the volume; enlarged and cropped, the first two fine rows are those of row 6
    assert torch.allclose(seen[0], seen[1]) and not torch.allclose(whole[0], whole[1])
    assert torch.allclose(seen[:, -1], seen[:, -4])
    assert torch.allclose(seen[8:, :10], whole[8:, :10], atol=1e-6)


def test_the_average_and_other_wrappers_are_looked_through():
    generator = network()
    averaged = AveragedModel(generator)
    for weight in averaged.parameters():
        torch.nn.init.zeros_(weight)
    batch = finer(count=1, below=[below()])
    assert not MultiScaleBatch(averaged)(batch, CPU).inputs[0][0, 0].any(), "it is the average that is rolled out"
    assert MultiScaleBatch(generator)(batch, CPU).inputs[0][0, 0].any()


def test_an_evaluator_gets_input_truth_and_stage():
    batch = finer()
    inputs, truth, arguments, keywords = EvaluationBatch(MultiScaleBatch(network()))(batch, "cpu")
    assert torch.equal(inputs, stage_input(batch, 2)) and torch.equal(truth, batch["image"])
    assert (arguments, keywords) == ((1,), {})
