"""The alternating trainer keeps the algorithm of the papers, step by step and to the last digit (in float64)."""

from __future__ import annotations

import copy

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latents_of
from hiresmed.training.batches import GanBatch, LatentBatch, LatentEvaluation
from hiresmed.training.objectives import LeastSquares, NonSaturating, Wasserstein
from hiresmed.training.penalties import GradientPenalty, R1Penalty
from hiresmed.training.trainer import AdversarialTrainer
from ignite.engine import Events
from tiny_gan import ConditionalBatch, Patches, make_discriminator, make_generator, make_trainer, weights
from torch import nn
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("one_thread")


def log_steps(trainer: AdversarialTrainer) -> list[str]:
    steps: list[str] = []
    trainer.d_optimizer.register_step_pre_hook(lambda *_: steps.append("D"))
    trainer.g_optimizer.register_step_pre_hook(lambda *_: steps.append("G"))
    return steps


def assert_same(one: dict, other: dict, tolerance: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_an_iteration_is_a_d_step_and_then_a_g_step():
    trainer = make_trainer()
    steps = log_steps(trainer)
    trainer.run()
    assert steps == ["D", "G"] * 4


def test_with_n_critic_3_the_generator_learns_at_every_third_iteration_and_each_d_step_sees_a_fresh_batch():
    seen, outputs = [], []
    trainer = make_trainer(batch_size=1, n_critic=3, max_epochs=1, epoch_length=6, generator_losses=None)
    steps = log_steps(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.batch["index"].item()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(set(e.state.output)))
    trainer.run()
    assert steps == ["D", "D", "D", "G", "D", "D", "D", "G"]
    assert seen == [0, 1, 2, 3, 4, 5]
    assert ["loss_g" in names for names in outputs] == [False, False, True, False, False, True]
    assert all({"loss_d", "pred", "image"} <= names for names in outputs)


@pytest.mark.parametrize("reuse_fake", [True, False])
def test_one_iteration_equals_the_algorithm_written_out(reuse_fake):
    trainer = make_trainer(torch.float64, max_epochs=1, epoch_length=1, reuse_fake=reuse_fake)
    generator, discriminator = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-3, (0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3, (0.5, 0.999))
    batch = next(iter(trainer.data_loader))
    sketch, real = batch["sketch"], batch["image"]

    fake = generator(sketch).detach()
    d_real, d_fake = discriminator(torch.cat([sketch, real], 1)), discriminator(torch.cat([sketch, fake], 1))
    loss_d = 0.5 * ((d_real - 1) ** 2).mean() + 0.5 * (d_fake**2).mean()
    loss_d.backward()
    d_optimizer.step()
    fake = generator(sketch)
    d_fake = discriminator(torch.cat([sketch, fake], 1))  # the updated D
    loss_g = 0.5 * ((d_fake - 1) ** 2).mean() + 10 * (fake - real).abs().mean()
    loss_g.backward()
    g_optimizer.step()

    trainer.run()
    assert_same(trainer.generator.state_dict(), generator.state_dict(), 1e-15)
    assert_same(trainer.discriminator.state_dict(), discriminator.state_dict(), 1e-15)
    torch.testing.assert_close(trainer.state.output["loss_d"], loss_d.detach())
    torch.testing.assert_close(trainer.state.output["loss_g"], loss_g.detach())
    torch.testing.assert_close(trainer.state.output["l1"], (fake - real).abs().mean().detach())


@pytest.mark.parametrize("reuse_fake", [True, False])
def test_no_gradient_of_the_d_step_reaches_the_generator(reuse_fake):
    trainer = make_trainer(reuse_fake=reuse_fake, max_epochs=1, epoch_length=1)
    gradients = []
    trainer.d_optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad is not None for p in trainer.generator.parameters())
    )
    trainer.run()
    assert gradients == [False] * 4


def test_the_discriminator_is_frozen_in_the_g_step_alone():
    class Spy(LeastSquares):
        asked: list[tuple[str, bool]] = []

        def discriminator(self, real_logits, fake_logits):
            self.asked += [("D", p.requires_grad) for p in trainer.discriminator.parameters()]
            return super().discriminator(real_logits, fake_logits)

        def generator(self, fake_logits):
            self.asked += [("G", p.requires_grad) for p in trainer.discriminator.parameters()]
            return super().generator(fake_logits)

    trainer = make_trainer(objective=Spy(), max_epochs=1, epoch_length=1)
    trainer.discriminator[0].bias.requires_grad_(False)  # frozen by the user: stays so
    grads = {}

    def remember(*_):
        learning = ((n, p) for n, p in trainer.discriminator.named_parameters() if p.requires_grad)
        grads.update({name: parameter.grad.clone() for name, parameter in learning})

    trainer.d_optimizer.register_step_post_hook(remember)
    trainer.run()
    assert Spy.asked == [("D", True), ("D", False), ("D", True), ("D", True)] + [("G", False)] * 4
    assert [p.requires_grad for p in trainer.discriminator.parameters()] == [True, False, True, True]
    assert len(grads) == 3
    for name, parameter in trainer.discriminator.named_parameters():
        if name in grads:
            assert torch.equal(parameter.grad, grads[name]), "the G step left a gradient in D"


def test_without_adversarial_weight_it_is_plain_l1_training_and_d_is_never_asked():
    trainer = make_trainer(torch.float64, adversarial_weight=0.0, objective=None)
    generator, d_before = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator.state_dict())
    optimizer = torch.optim.Adam(generator.parameters(), 2e-3, (0.5, 0.999))
    data = Patches(dtype=torch.float64)
    for _ in range(2):
        for batch in DataLoader(data, 4):
            optimizer.zero_grad()
            (10 * nn.functional.l1_loss(generator(batch["sketch"]), batch["image"])).backward()
            optimizer.step()
    trainer.run()
    assert_same(trainer.generator.state_dict(), generator.state_dict(), 1e-15)
    assert_same(trainer.discriminator.state_dict(), d_before, 0)
    assert not {"loss_d", "adversarial"} & set(trainer.state.output)


@pytest.mark.parametrize("adversarial_weight", [0.0, 1.0])
def test_micro_batches_give_the_gradient_of_the_whole_batch(adversarial_weight):
    """Five images in two micro-batches: 3 + 2, which must not count equally."""
    changes = {
        "loader": DataLoader(Patches(10, torch.float64), 5),
        "penalties": [R1Penalty(3.0, every=2)],
        "adversarial_weight": adversarial_weight,
    }
    whole, cut = make_trainer(torch.float64, **changes), make_trainer(torch.float64, accumulation_steps=2, **changes)
    whole.run()
    cut.run()
    assert_same(weights(whole), weights(cut), 1e-12)
    assert whole.state.output.keys() == cut.state.output.keys()
    assert_same(whole.state.output, cut.state.output, 1e-12)


def test_ema_is_decay_times_itself_plus_the_rest_of_the_new_weights_after_each_g_step():
    torch.manual_seed(0)
    generator = make_generator(torch.float64)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
    ema = torch.optim.swa_utils.AveragedModel(generator, multi_avg_fn=average)
    trainer = make_trainer(torch.float64, generator=generator, ema=ema, n_critic=2, max_epochs=4)
    path = []
    trainer.g_optimizer.register_step_post_hook(lambda *_: path.append(generator[0].weight.detach().clone()))
    trainer.run()
    assert len(path) == 4
    expected = path[0]
    for new in path[1:]:
        expected = 0.75 * expected + 0.25 * new
    torch.testing.assert_close(ema.module[0].weight.detach(), expected, rtol=0, atol=1e-15)
    assert trainer.checkpoint_objects()["ema"] is ema


def test_bfloat16_autocast_runs_the_networks_in_half_precision_and_the_losses_and_penalties_in_full():
    dtypes: dict[str, set] = {"conv": set(), "logits": set(), "penalised": set(), "pred": set()}

    class SpyPenalty(R1Penalty):
        def __call__(self, discriminator, real, fake, iteration):
            dtypes["penalised"].add(discriminator(real).dtype)
            return super().__call__(discriminator, real, fake, iteration)

    class SpyObjective(NonSaturating):
        def discriminator(self, real_logits, fake_logits):
            dtypes["logits"] |= {real_logits.dtype, fake_logits.dtype}
            return super().discriminator(real_logits, fake_logits)

    trainer = make_trainer(amp=True, objective=SpyObjective(), penalties=[SpyPenalty(1.0, 1)], max_epochs=10)
    trainer.generator[0].register_forward_hook(lambda _, __, out: dtypes["conv"].add(out.dtype))
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["l1"].item()))
    # the first iteration also computes in float32, to compare
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: dtypes["conv"].clear())
    trainer.run()
    dtypes["pred"].add(trainer.state.output["pred"].dtype)
    assert dtypes == {
        "conv": {torch.bfloat16},
        "logits": {torch.float32},
        "penalised": {torch.float32},
        "pred": {torch.float32},
    }
    assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())
    reference = make_trainer(objective=NonSaturating(), penalties=[R1Penalty(1.0, 1)], max_epochs=10)
    reference.run()
    assert losses[-1] < 0.9 * losses[0]
    assert abs(losses[-1] - reference.state.output["l1"].item()) < 0.02 * losses[-1]


def test_a_wgan_gp_step_with_n_critic_learns():
    discriminator = make_discriminator()
    trainer = make_trainer(
        discriminator=discriminator,
        objective=Wasserstein(),
        penalties=[GradientPenalty(10.0)],
        n_critic=2,
        max_epochs=4,
        reuse_fake=False,
    )
    before = copy.deepcopy(discriminator.state_dict())
    trainer.run()
    assert {"gradient_penalty", "loss_d", "loss_g", "adversarial", "l1"} <= set(trainer.state.output)
    assert all(torch.isfinite(value).all() for value in trainer.state.output.values())
    assert any(not torch.equal(before[k], v) for k, v in discriminator.state_dict().items())


def test_a_wasserstein_critic_without_a_penalty_is_refused():
    with pytest.raises(InputError, match="Wasserstein must have a gradient penalty"):
        make_trainer(objective=Wasserstein(), penalties=[])


def test_penalties_see_the_image_alone_with_its_condition_bound():
    shapes = []

    def penalty(discriminator, real, fake, iteration):
        shapes.append((tuple(real.shape), tuple(fake.shape), fake.requires_grad, iteration))
        image = real.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
        weight = trainer.discriminator[0].weight
        assert weight.shape[1] == 2
        assert gradient.shape == real.shape

    trainer = make_trainer(penalties=[penalty], max_epochs=1)
    trainer.run()
    assert shapes == [((4, 1, 16, 16), (4, 1, 16, 16), False, k) for k in (1, 2)]


def test_max_grad_norm_bounds_the_step():
    torch.manual_seed(0)
    generator = make_generator(torch.float64)
    trainer = make_trainer(
        torch.float64,
        generator=generator,
        g_optimizer=torch.optim.SGD(generator.parameters(), 1.0),
        max_grad_norm=1e-3,
        max_epochs=1,
        epoch_length=1,
    )
    before = torch.cat([p.detach().flatten().clone() for p in generator.parameters()])
    trainer.run()
    moved = torch.cat([p.detach().flatten() for p in generator.parameters()]) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_of_the_name_of_a_target_compares_with_that_target():
    def prepare(batchdata, device, non_blocking):
        real = batchdata["image"]
        return GanBatch((batchdata["sketch"],), real, None, {"coarse": torch.full_like(real, 5.0)})

    discriminator = nn.Conv2d(1, 1, 4, 4)
    difference = nn.L1Loss()
    trainer = make_trainer(
        discriminator=discriminator,
        prepare_batch=prepare,
        generator_losses={"fine": (1.0, difference), "coarse": (0.5, difference)},
        max_epochs=1,
        epoch_length=1,
    )
    trainer.run()
    output = trainer.state.output
    torch.testing.assert_close(output["coarse"], (output["pred"] - 5).abs().mean())
    torch.testing.assert_close(output["fine"], (output["pred"] - output["image"]).abs().mean())
    torch.testing.assert_close(output["loss_g"], output["fine"] + 0.5 * output["coarse"] + output["adversarial"])


def test_splitting_a_batch_shares_what_is_not_per_image():
    grid, per_image = torch.arange(7.0), torch.arange(5.0)
    batch = GanBatch((per_image, grid, 0.5), torch.arange(5.0)[:, None], None, {"t": per_image})
    parts = batch.split(2)
    assert [len(p) for p in parts] == [3, 2]
    assert all(p.inputs[1] is grid and p.inputs[2] == 0.5 and p.condition is None for p in parts)
    assert torch.equal(torch.cat([p.inputs[0] for p in parts]), per_image)
    assert torch.equal(torch.cat([p.targets["t"] for p in parts]), per_image)


def test_latent_batches_are_standard_normal_and_follow_the_torch_seed():
    prepare = LatentBatch(512)
    data = {"image": torch.zeros(64, 1, 4, 4)}
    torch.manual_seed(3)
    z = prepare(data, torch.device("cpu")).inputs[0]
    torch.manual_seed(3)
    assert torch.equal(z, prepare(data, torch.device("cpu")).inputs[0])
    assert z.shape == (64, 512)
    assert abs(z.mean().item()) < 0.03 and abs(z.std().item() - 1) < 0.03


def test_latents_of_an_evaluation_belong_to_the_images_numbers():
    cpu, data = torch.device("cpu"), {"image": torch.rand(3, 1, 4, 4), "number": torch.tensor([4, 0, 7])}
    z, real = LatentEvaluation(8, seed=5)(data, cpu)
    assert torch.equal(z, latents_of(5, [4, 0, 7], 8)) and torch.equal(real, data["image"])
    batch = LatentBatch(8, seed=5)(data, cpu)
    assert torch.equal(batch.inputs[0], z) and torch.equal(batch.real, real)


def test_the_condition_stands_before_the_image_and_may_be_left_out():
    data = {"a": torch.zeros(2, 1, 4, 4), "b": torch.ones(2, 2, 4, 4), "image": torch.full((2, 1, 4, 4), 2.0)}
    cpu = torch.device("cpu")
    batch = ConditionalBatch(["a", "b"])(data, cpu)
    assert batch.condition[0, :, 0, 0].tolist() == [0, 1, 1]
    assert [tuple(t.shape) for t in batch.inputs] == [(2, 1, 4, 4), (2, 2, 4, 4)]
    assert ConditionalBatch(["a"], condition=[])(data, cpu).condition is None
    with pytest.raises(InputError, match=r"key 'c'.*\['a', 'b', 'image'\]"):
        ConditionalBatch(["c"])(data, cpu)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_critic": 0}, "n_critic"),
        ({"max_epochs": 0}, "max_epochs must be a whole number from 1 on"),
        ({"epoch_length": 0}, "iterations must be a whole number from 1 on"),
        ({"adversarial_weight": 0.0, "generator_losses": None}, "generator_losses must name a loss"),
        ({"generator_losses": {"loss_g": (1.0, nn.L1Loss())}}, "rename"),
    ],
)
def test_wrong_knobs_are_refused_in_words(changes, words):
    with pytest.raises(InputError, match=words):
        make_trainer(**changes)


def test_a_generator_of_another_scale_is_refused():
    trainer = make_trainer(generator=nn.Conv2d(1, 1, 2, 2))
    with pytest.raises(InputError, match=r"\(4, 1, 16, 16\).*\(4, 1, 8, 8\)"):
        trainer.run()
