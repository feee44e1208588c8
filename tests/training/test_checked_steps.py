"""Trainings in bfloat16 are checked before their first step, and no step is made on a gradient that cannot be right."""

from __future__ import annotations

import copy
import logging

import pytest
import tiny_diffusion
import tiny_gan
import torch
from falsified import Falsified
from hiresmed.core import bfloat16
from hiresmed.core.bfloat16 import TrainingPrecision
from hiresmed.core.errors import InputError
from hiresmed.core.gradient_guard import MOST_SKIPPED, WARM_UP
from hiresmed.methods.dcgan import DcganCritic, DcganGenerator
from hiresmed.methods.inr_gan import ExactTrainer
from hiresmed.methods.patchddm import DiffusionTrainer
from hiresmed.training.batches import GanBatch, LatentBatch
from hiresmed.training.checkpoint import Checkpoint
from hiresmed.training.objectives import BinaryCrossEntropy
from hiresmed.training.seeding import Seeding
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("one_thread")


class FalselyScaled(nn.Module):
    """(B, C, *S), times weights whose gradient is uninitialised where x is bfloat16: here, huge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return Falsified.apply(x, self.scale, lambda g: torch.full_like(g, 1e37))


def dcgan(**changes):
    """DCGAN with batch norm and dropout: what a probe could leave traces in."""
    torch.manual_seed(0)
    generator = DcganGenerator(size=16, width=8, latent_size=6, norm="batch", dropout=0.2)
    discriminator = DcganCritic(size=16, width=8, norm="batch")
    images = [{"image": torch.rand(1, 16, 16)} for _ in range(8)]
    return tiny_gan.make_trainer(
        generator=generator,
        discriminator=discriminator,
        objective=BinaryCrossEntropy(),
        generator_losses=None,
        loader=DataLoader(images, 4),
        prepare_batch=LatentBatch(6),
        ema=torch.optim.swa_utils.AveragedModel(generator),
        **changes,
    )


def diffusion(**changes) -> DiffusionTrainer:
    return tiny_diffusion.make_trainer(torch.float32, **changes)


def state(trainer) -> dict:
    """All that training changed but the precision."""
    objects = {name: value.state_dict() for name, value in trainer.checkpoint_objects().items() if name != "precision"}
    return {**copy.deepcopy(objects), "random": torch.get_rng_state()}


@pytest.mark.parametrize("make", [dcgan, diffusion, lambda **k: dcgan(reuse_fake=False, **k)])
def test_a_training_whose_probe_passes_is_the_one_without_a_probe_to_the_bit(make, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    probed = make(amp=True)
    probed.run()
    ends = state(probed)
    assert "in bfloat16 are like float32's: lowest cosine 0.9" in caplog.text or "cosine 1.0" in caplog.text
    monkeypatch.setattr(TrainingPrecision, "settle", lambda *_: None)
    believed = make(amp=True)
    believed.run()
    torch.testing.assert_close(ends, state(believed), rtol=0, atol=0)
    exact = make()
    exact.run()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ends, state(exact), rtol=0, atol=0)


@pytest.mark.parametrize("of", ["generator", "discriminator", "network"])
def test_where_a_gradient_is_false_in_bfloat16_the_training_is_float32s_and_says_so_once(of, caplog):
    def make(**changes):
        torch.manual_seed(0)
        if of == "network":

            class Network(tiny_diffusion.Tiny):
                def __init__(self) -> None:
                    super().__init__()
                    self.false = FalselyScaled(4)

                def forward(self, x, t):
                    return self.second(self.false(self.first(x)))

            return diffusion(network=Network(), **changes)
        network = getattr(tiny_gan, f"make_{of}")()
        network.insert(1, FalselyScaled(4))
        return tiny_gan.make_trainer(**{of: network}, **changes)

    checked = make(amp=True)
    checked.run()
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert "scale' has" in record.getMessage() and record.getMessage().endswith("the run goes on in float32.")
    exact = make()
    exact.run()
    torch.testing.assert_close(state(checked), state(exact), rtol=0, atol=0)


def test_gradients_made_band_by_band_are_probed_too(caplog):
    caplog.set_level(logging.INFO)

    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.latent = nn.Conv2d(2, 8, 1), nn.Linear(3, 8)
            self.last = nn.Conv2d(8, 1, 1)

        def forward(self, coordinates, z):
            return self.last(torch.tanh(self.place(coordinates) + self.latent(z)[..., None, None]))

    torch.manual_seed(0)
    coordinates, z, real = torch.rand(1, 2, 16, 16), torch.randn(4, 3), torch.rand(4, 1, 16, 16)
    generator, discriminator = Pointwise(), nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Softplus(), nn.Conv2d(4, 1, 4))
    trainer = ExactTrainer(
        device="cpu", max_epochs=1, train_data_loader=[0], generator=generator, discriminator=discriminator,
        g_optimizer=torch.optim.SGD(generator.parameters(), 1e-3), objective=BinaryCrossEntropy(),
        d_optimizer=torch.optim.SGD(discriminator.parameters(), 1e-3), amp=True, rows=5,
        prepare_batch=lambda *_: GanBatch((coordinates, z), real),
    )  # fmt: skip
    trainer.run()
    assert trainer.precision.autocast and "lowest cosine" in caplog.text


@pytest.mark.parametrize("verdict", [True, False])
def test_a_resumed_training_with_amp_ends_as_one_left_alone(verdict, tmp_path, monkeypatch):
    """The probe's answer is the checkpoint's, even if a probe of the later weights would say otherwise."""
    answers = []

    def probe(gradients, networks, device):
        answers.append(verdict if not answers else not verdict)
        return bfloat16.PrecisionComparison(answers[-1], "w", 0.0, 1.0, 1.0)

    monkeypatch.setattr("hiresmed.training.trainer.probe_gradients", probe)

    def run(folder, epochs):
        trainer = dcgan(amp=True, max_epochs=epochs, train_handlers=[Seeding(0), Checkpoint(folder, resume=True)])
        trainer.run()
        return trainer

    whole = run(tmp_path / "whole", 3)
    answers.clear()
    run(tmp_path / "two", 1)
    resumed = run(tmp_path / "two", 3)
    assert len(answers) == 1 and whole.precision.autocast is resumed.precision.autocast is verdict
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)


def test_a_checkpoint_of_before_these_checks_resumes(tmp_path):
    def run(epochs):
        trainer = dcgan(max_epochs=epochs, train_handlers=[Seeding(0), Checkpoint(tmp_path, resume=True)])
        trainer.run()
        return trainer

    run(1)
    path = tmp_path / "checkpoints" / "latest.pt"
    content = torch.load(path, weights_only=True)
    for name in ("precision", "g_guard", "d_guard"):
        del content["objects"][name]
    torch.save(content, path)
    assert run(2).g_guard.steps == 2, "only those of the second epoch"
    del content["objects"]["generator"]
    torch.save(content, path)
    with pytest.raises(InputError, match="must hold"):
        run(3)


@pytest.mark.parametrize("make", [dcgan, diffusion])
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e12])
def test_a_gradient_that_cannot_be_right_changes_nothing_but_a_count(make, bad, caplog):
    trainer = make(max_epochs=1)
    guards = {n: g for n, g in trainer.checkpoint_objects().items() if n.endswith("guard")}
    for guard in guards.values():
        guard.norm, guard.steps = 1e3, WARM_UP
    network = trainer.generator if make is dcgan else trainer.network
    optimizer = trainer.g_optimizer if make is dcgan else trainer.optimizer
    if make is diffusion:
        trainer.ema = torch.optim.swa_utils.AveragedModel(network)
    weight = next(network.parameters())
    hook = weight.register_hook(lambda gradient: torch.full_like(gradient, bad))
    counts = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: counts.append(e.state.output.get("skipped_steps")))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), hook.remove)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: before.append(copy.deepcopy(network)))
    before = []
    start = copy.deepcopy(network)
    trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before[0].parameters(), start.parameters())), "no step"
    assert all(not torch.equal(a, b) for a, b in zip(network.parameters(), start.parameters())), "then one"
    assert int(optimizer.state[weight]["step"]) == int(trainer.ema.n_averaged) == 1
    assert counts == [1, 1] and "step not taken, 1 so far" in caplog.text


def test_a_training_that_has_diverged_ends_with_a_sentence():
    trainer = diffusion(max_epochs=MOST_SKIPPED)
    next(trainer.network.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(InputError, match="The gradient of the network must be of the size of those before it"):
        trainer.run()
    assert trainer.state.iteration == MOST_SKIPPED
