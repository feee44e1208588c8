"""Each stage goes on from the one before with all that training had, and is held to its frozen average."""

from __future__ import annotations

import copy

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.inr_gan.critic import ResidualCritic
from hiresmed.methods.inr_gan.generator import ImplicitGenerator
from hiresmed.methods.inr_gan.patch_consistency import PatchConsistency
from hiresmed.methods.inr_gan.sampling_places import read_stages
from hiresmed.methods.inr_gan.stages import StageClock, StagedTraining, plan_stages
from hiresmed.training.objectives import NonSaturating
from hiresmed.training.trainer import AdversarialTrainer
from ignite.engine import Events
from torch.optim.swa_utils import AveragedModel


def training(regularised: bool = True, epochs: tuple = (1, 2, 1)):
    torch.manual_seed(0)
    generator = ImplicitGenerator(2, 1, 6, 6, (8, 6), 2)
    discriminator = ResidualCritic((4, 4), width=4, max_width=8, final_size=2, group_size=2)
    average = AveragedModel(generator)
    staged = StagedTraining(plan_stages((16, 16)), epochs, 6, average, regularised)
    trainer = AdversarialTrainer(
        device="cpu",
        max_epochs=sum(epochs),
        train_data_loader=[{"image": torch.rand(4, 1, 16, 16)}] * 2,
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 1e-2),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 1e-2),
        objective=NonSaturating(),
        prepare_batch=staged,
        generator_losses={"patch_consistency": (0.1, PatchConsistency())},
        ema=average,
        train_handlers=[StageClock(staged)],
    )
    return trainer, staged


def test_the_papers_stages_have_a_sixteenth_of_the_pixels_each():
    stages = read_stages(plan_stages((256, 256)))
    assert [s.grid for s in stages] == [(64, 64), (128, 128), (256, 256)]
    assert {s.patch for s in stages} == {(64, 64)}
    assert plan_stages((32, 48), 1, 1) == [([32, 48], [32, 48])]
    assert plan_stages((32, 48, 16), 1, 4) == [([32, 48, 16], [8, 12, 4])]


def test_at_a_stages_start_nothing_is_new_but_the_frozen_average_of_the_stage_before():
    trainer, staged = training()
    ends, begins = {}, {}

    def state() -> dict:
        objects = {name: value for name, value in trainer.checkpoint_objects().items() if name != "precision"}
        return copy.deepcopy({name: value.state_dict() for name, value in objects.items()})

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: ends.update({e.state.epoch: state()}))
    trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda e: begins.update({e.state.epoch: (staged.stage, state(), staged.previous)})
    )
    trainer.run()
    assert [begins[epoch][0] for epoch in (1, 2, 3, 4)] == [1, 2, 2, 3]
    for epoch in (2, 4):
        _, begun, previous = begins[epoch]
        torch.testing.assert_close(begun, ends[epoch - 1], rtol=0, atol=0)
        average = ends[epoch - 1]["ema"]
        assert all(torch.equal(v, average[f"module.{n}"]) for n, v in previous.state_dict().items())
        assert not any(p.requires_grad for p in previous.parameters())
    assert begins[2][2] is begins[3][2], "within a stage the frozen one stays"
    steps = {int(s["step"]) for s in ends[4]["g_optimizer"]["state"].values()}
    assert steps == {8}, "Adam's moments go on"
    moved = begins[3][1]["generator"]
    assert any(not torch.equal(moved[n], v) for n, v in begins[2][2].state_dict().items())


def test_the_regularisation_rests_in_the_first_stage_and_where_it_is_off():
    for regularised in (True, False):
        trainer, _ = training(regularised)
        seen = {}
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e, seen=seen: seen.update({e.state.epoch: set(e.state.output)})
        )
        trainer.run()
        assert ["patch_consistency" in seen[epoch] for epoch in (1, 2, 4)] == [False, regularised, regularised]


def test_a_loaded_state_is_the_stage_it_was_saved_in_with_its_frozen_generator():
    _, staged = training()
    staged.begin_epoch(2)
    other_trainer, other = training()
    for parameter in other_trainer.generator.parameters():
        parameter.data += 1
    other.load_state_dict(copy.deepcopy(staged.state_dict()))
    assert other.stage == 2
    torch.testing.assert_close(other.previous.state_dict(), staged.previous.state_dict())
    batch = {"image": torch.rand(4, 1, 16, 16)}
    torch.manual_seed(3)
    mine = other(batch, torch.device("cpu"))
    torch.manual_seed(3)
    theirs = staged(batch, torch.device("cpu"))
    assert torch.equal(mine.targets["patch_consistency"], theirs.targets["patch_consistency"])
    assert torch.equal(mine.real, theirs.real) and torch.equal(mine.inputs[0], theirs.inputs[0])
    with pytest.raises(ValueError, match="do not have alike"):
        training(regularised=False)[1].load_state_dict(staged.state_dict())


def test_epochs_belong_to_stages_in_turn_and_all_later_ones_to_the_last():
    staged = training(epochs=(2, 1, 3))[1]
    assert [staged.stage_of(epoch) for epoch in range(1, 9)] == [1, 1, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("size", "count", "factor"),
    [((18, 16), 3, 4), ((16, 16), 4, 4), ((16, 16), 0, 4), ((16, 0), 3, 4), ((16, 16), 3, 2)],
)
def test_stages_that_an_image_does_not_divide_into_are_refused(size, count, factor):
    with pytest.raises(InputError):
        plan_stages(size, count, factor)


def test_patches_of_several_shapes_and_missing_epochs_are_refused():
    average = AveragedModel(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="patches of one shape"):
        StagedTraining([((8, 8), (8, 8)), ((16, 16), (16, 16))], [1, 1], 6, average)
    with pytest.raises(InputError, match="each of the 3 stages"):
        StagedTraining(plan_stages((16, 16)), [1, 1], 6, average)
