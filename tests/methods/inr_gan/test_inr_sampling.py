"""Stages of implicit training: places, crops and what the stage before draws there all lie on one another."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.inr_gan.generator import ImplicitGenerator
from hiresmed.methods.inr_gan.patch_consistency import PatchConsistency
from hiresmed.methods.inr_gan.sampling_places import StageBatch, read_stages
from torch import nn
from torch.optim.swa_utils import AveragedModel
from whole_volume import volume_coordinates

STAGES = [((4, 6), (4, 6)), ((8, 12), (4, 6)), ((16, 24), (4, 6))]
CPU = torch.device("cpu")


def ramp(coordinates: torch.Tensor) -> torch.Tensor:
    """Images whose values are their places: (N, D, *S) -> (N, D, *S)."""
    return coordinates.clone()


def whole_images(count: int, shape=(16, 24)) -> torch.Tensor:
    return volume_coordinates(shape)[None].repeat(count, 1, *[1] * len(shape))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_real_patch_shows_the_place_that_the_generator_is_asked_for(stage):
    """Only cell centres do so at every stage: the mean of a cell's places is the place of the coarse cell."""
    torch.manual_seed(0)
    batch = StageBatch(STAGES, stage, 5)({"image": whole_images(7)}, CPU)
    coordinates, z = batch.inputs
    torch.testing.assert_close(batch.real, coordinates.expand_as(batch.real), rtol=0, atol=1e-6)
    assert batch.real.shape == (7, 2, 4, 6)
    assert z.shape == (7, 5)
    assert len(coordinates) == (1 if stage == 1 else 7)


@pytest.mark.parametrize("stage", [2, 3])
def test_what_the_stage_before_draws_is_the_mean_of_the_patch_and_nothing_beyond(stage):
    class Ramp(nn.Module):
        asked: list[torch.Size] = []

        def forward(self, coordinates, z):
            assert not torch.is_grad_enabled()
            assert not self.training
            self.asked.append(coordinates.shape)
            return ramp(coordinates)

    torch.manual_seed(0)
    batch = StageBatch(STAGES, stage, 5, Ramp())({"image": whole_images(9)}, CPU)
    target = batch.targets["patch_consistency"]
    assert Ramp.asked == [(9, 2, 2, 3)], "a quarter of the patch's places"
    assert PatchConsistency()(batch.inputs[0], target) < 1e-13
    shifted = batch.inputs[0] + 2 / torch.tensor(STAGES[stage - 1][0]).view(1, 2, 1, 1)  # one fine voxel
    assert PatchConsistency()(shifted, target) > 1e-3
    Ramp.asked.clear()


def test_starts_are_even_cover_the_grid_and_differ_within_the_batch():
    torch.manual_seed(0)
    stage = read_stages(STAGES)[2]
    starts = stage.starts(500)
    assert {s[0] for s in starts} == set(range(0, 13, 2))
    assert {s[1] for s in starts} == set(range(0, 19, 2))


def test_without_a_stage_before_any_start_will_do():
    torch.manual_seed(0)
    (alone,) = read_stages([((9, 8), (4, 6))])
    assert {s for s in alone.starts(300)} == {(a, b) for a in range(6) for b in range(3)}


def test_the_frozen_average_gives_the_target_of_the_same_latent_and_gets_no_gradient():
    torch.manual_seed(0)
    previous = AveragedModel(ImplicitGenerator(2, 1, 5, 4, (6,), 1))
    batch = StageBatch(STAGES, 2, 5, previous)({"image": torch.rand(4, 1, 16, 24)}, CPU)
    target, (coordinates, z) = batch.targets["patch_consistency"], batch.inputs
    coarse = torch.nn.functional.avg_pool2d(coordinates, 2)
    torch.testing.assert_close(target, previous.module(coarse, z).detach())
    assert not target.requires_grad


def test_a_batch_cut_into_micro_batches_keeps_places_latents_and_targets_together():
    torch.manual_seed(0)
    batch = StageBatch(STAGES, 2, 5, lambda_network())({"image": whole_images(6)}, CPU)
    for part in batch.split(3):
        torch.testing.assert_close(part.real, part.inputs[0], rtol=0, atol=1e-6)
        assert len(part.inputs[1]) == 2
        assert PatchConsistency()(part.real, part.targets["patch_consistency"]) < 1e-13


def lambda_network() -> nn.Module:
    class Ramp(nn.Module):
        def forward(self, coordinates, z):
            return ramp(coordinates)

    return Ramp()


def test_ratios_may_differ_from_axis_to_axis_in_3d():
    torch.manual_seed(0)
    stages = [((4, 4, 8), (4, 4, 8)), ((16, 8, 8), (4, 4, 8))]
    assert read_stages(stages)[1].ratio == (4, 2, 1)
    batch = StageBatch(stages, 2, 5, lambda_network())({"image": whole_images(3, (16, 8, 8))}, CPU)
    assert batch.targets["patch_consistency"].shape == (3, 3, 1, 2, 8)
    assert PatchConsistency()(batch.inputs[0], batch.targets["patch_consistency"]) < 1e-13


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "at least one pair"),
        ([((8, 8), (9, 8))], "patch inside"),
        ([((8, 8), (4,))], "one voxel count per axis"),
        ([(8, 4)], "one voxel count per axis"),
        ([((4, 4), (4, 4)), ((6, 8), (4, 4))], "whole multiples"),
        ([((4, 4), (4, 4)), ((8, 8), (3, 4))], "whole multiples"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, words):
    with pytest.raises(InputError, match=words):
        read_stages(stages)


def test_images_smaller_than_the_grid_and_stages_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="at least the"):
        StageBatch(STAGES, 3, 5)({"image": whole_images(2, (8, 12))}, CPU)
    with pytest.raises(InputError, match="from 1 to 3"):
        StageBatch(STAGES, 4, 5)
    with pytest.raises(InputError, match="first stage"):
        StageBatch(STAGES, 1, 5, lambda_network())
