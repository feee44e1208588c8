"""Exact chunked training has the gradients of image-based training: for G and D, with and without R1's step."""

from __future__ import annotations

import copy

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.methods.inr_gan.critic import ResidualCritic
from hiresmed.methods.inr_gan.exact import ExactTrainer, bands, draw
from hiresmed.methods.inr_gan.generator import ImplicitGenerator
from hiresmed.methods.inr_gan.patch_consistency import PatchConsistency
from hiresmed.methods.inr_gan.sampling_places import StageBatch
from hiresmed.training.batches import GanBatch
from hiresmed.training.objectives import NonSaturating
from hiresmed.training.penalties import R1Penalty
from hiresmed.training.trainer import AdversarialTrainer
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (12, 7)


def trainer(kind, dtype, iterations: int = 1, r1_every: int = 1, **changes):
    torch.manual_seed(0)
    generator = ImplicitGenerator(2, 1, 6, 6, (8, 6), 2, bandwidth=8.0, table_size=4).to(dtype)
    discriminator = ResidualCritic(SIZE, width=4, max_width=8, group_size=2).to(dtype)
    data = [{"image": torch.rand(8, 1, *SIZE, dtype=dtype)} for _ in range(iterations)]
    made = kind(
        device="cpu",
        max_epochs=1,
        train_data_loader=data,
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.SGD(generator.parameters(), 1e-2),
        d_optimizer=torch.optim.SGD(discriminator.parameters(), 1e-2),
        objective=NonSaturating(),
        prepare_batch=StageBatch([(SIZE, SIZE)], 1, 6),
        penalties=[R1Penalty(10.0, every=r1_every)],
        **changes,
    )
    made.gradients = []

    def note(network):
        return lambda *_: made.gradients.append({n: p.grad.clone() for n, p in network.named_parameters()})

    made.d_optimizer.register_step_pre_hook(note(discriminator))
    made.g_optimizer.register_step_pre_hook(note(generator))
    torch.manual_seed(1)
    made.run()
    return made


def relative(mine: dict, theirs: dict) -> float:
    """|difference| / |gradient|, over all weights of a network."""
    gap = sum((mine[n] - theirs[n]).double().square().sum() for n in theirs)
    return float((gap / sum(g.double().square().sum() for g in theirs.values())).sqrt())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("rows", "images", "micro"), [(5, None, 2), (12, 3, 1), (7, 2, 4)])
@pytest.mark.parametrize("r1_every", [1, 16])
def test_gradients_equal_those_of_image_based_training(dtype, tolerance, rows, images, micro, r1_every):
    """D's, with its penalty or in an iteration where that rests, and then G's against the D so updated."""
    image = trainer(AdversarialTrainer, dtype, r1_every=r1_every)
    bands = {"rows": rows, "images_per_band": images, "accumulation_steps": micro}
    exact = trainer(ExactTrainer, dtype, r1_every=r1_every, **bands)
    assert len(exact.gradients) == len(image.gradients) == 2
    gaps = [relative(a, b) for a, b in zip(exact.gradients, image.gradients)]
    assert max(gaps) <= tolerance, gaps
    assert set(image.state.output) == set(exact.state.output) >= {"loss_d", "loss_g", "adversarial"}
    assert ("r1" in exact.state.output) == (r1_every == 1)
    for name, value in image.state.output.items():
        torch.testing.assert_close(exact.state.output[name], value, rtol=10 * tolerance, atol=10 * tolerance)


def test_two_iterations_with_a_lazy_r1_step_stay_together():
    image = trainer(AdversarialTrainer, torch.float64, 2, 2)
    exact = trainer(ExactTrainer, torch.float64, 2, 2, rows=5, accumulation_steps=2)
    assert len(exact.gradients) == 4
    assert max(relative(a, b) for a, b in zip(exact.gradients, image.gradients)) <= 1e-12


def test_losses_on_the_whole_fake_pull_back_exactly_too():
    def total_variation(pred, target):
        return pred.diff(dim=2).abs().mean()  # not a sum over places of one band

    changes = {"generator_losses": {"tv": (3.0, total_variation)}}
    image = trainer(AdversarialTrainer, torch.float64, **changes)
    exact = trainer(ExactTrainer, torch.float64, rows=5, **changes)
    assert max(relative(a, b) for a, b in zip(exact.gradients, image.gradients)) <= 1e-12


def test_the_average_and_fewer_generator_steps_go_as_in_the_plain_trainer():
    def averaged(kind, **changes):
        torch.manual_seed(0)
        like = ImplicitGenerator(2, 1, 6, 6, (8, 6), 2, bandwidth=8.0, table_size=4).double()
        ema = torch.optim.swa_utils.AveragedModel(like)
        trainer(kind, torch.float64, iterations=4, n_critic=2, ema=ema, **changes)
        return ema.state_dict()

    image, exact = averaged(AdversarialTrainer), averaged(ExactTrainer, rows=7)
    assert image["n_averaged"] == exact["n_averaged"] == 2
    for name, value in image.items():
        torch.testing.assert_close(exact[name], value, rtol=1e-10, atol=1e-12)


def test_micro_batches_that_cut_a_group_of_the_discriminator_are_refused():
    with pytest.raises(InputError, match="whole groups of 2"):
        trainer(ExactTrainer, torch.float64, accumulation_steps=3)
    with pytest.raises(InputError, match="rows and images_per_band"):
        trainer(ExactTrainer, torch.float64, rows=0)


def test_bands_cover_every_place_of_every_image_once_and_draw_the_whole():
    torch.manual_seed(0)
    generator = ImplicitGenerator(2, 3, 6, 6, (8,), 2).double()
    z = torch.randn(5, 6, dtype=torch.float64)
    for shared in (True, False):
        where = torch.rand(1 if shared else 5, 2, 7, 4, dtype=torch.float64)
        seen = torch.zeros(5, 7)
        for image, row in bands(where, z, 3, 2):
            seen[image, row] += 1
        assert (seen == 1).all()
        torch.testing.assert_close(draw(generator, where, z, 3, 2), generator(where, z), rtol=1e-12, atol=1e-12)
    assert not draw(generator, where, z, 3).requires_grad


def test_no_generator_call_sees_more_than_a_band():
    calls = []
    band = trainer(ExactTrainer, torch.float64, iterations=1, rows=5, images_per_band=4)
    plain = copy.deepcopy(band.generator)
    band.generator.register_forward_pre_hook(
        lambda _, args: calls.append((len(args[1]), args[0].shape[2], torch.is_grad_enabled()))
    )
    band._iteration(band, {"image": torch.rand(8, 1, *SIZE, dtype=torch.float64)})
    shapes = [(4, 5), (4, 5), (4, 2)] * 2
    assert calls == [(*s, False) for s in shapes] + [(*s, True) for s in shapes], "drawn once, then pulled back"
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), band.generator.parameters()))


def live_mebibytes(kind, side: int, previous: bool = False, **changes) -> float:
    """Peak of one iteration without R1 at the paper's scale (width 512, 32 images), on tensors without memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator, below = ImplicitGenerator(2, 3), ImplicitGenerator(2, 3)
        discriminator = ResidualCritic([side] * 2, 3, final_size=4 if side == 256 else 1)
        g_optimizer, d_optimizer = (torch.optim.Adam(n.parameters()) for n in (generator, discriminator))
        moments = [torch.zeros_like(p) for p in [*generator.parameters()] * 3]  # Adam's of G, and the average

        def prepare(batchdata, device, non_blocking):
            z, where = torch.randn(32, 512), torch.rand(32 if side < 256 else 1, 2, side, side)
            targets = {}
            if previous:
                with torch.no_grad():
                    targets["patch_consistency"] = below(torch.rand(32, 2, side // 2, side // 2), z)
            return GanBatch((where, z), torch.rand(32, 3, side, side), targets=targets)

        networks = (generator, discriminator, g_optimizer, d_optimizer)
        made = kind("cpu", 1, [0], *networks, NonSaturating(), prepare, **changes)
        made.state.iteration = 1
        held = [p for n in (generator, discriminator, below) for p in n.parameters()] + moments
        with LiveBytes(held) as live:
            made._iteration(made, 0)
        return live.peak / 2**20


@pytest.mark.slow
def test_at_the_papers_scale_patches_need_a_tenth_and_exact_bands_less_than_image_based_training():
    """The published multi-stage training needs 12 397 MiB of image-based training's 78 134 (6.3 x)."""
    losses = {"patch_consistency": (0.1, PatchConsistency())}
    assert live_mebibytes(AdversarialTrainer, 64, True, generator_losses=losses) < 7000
    assert live_mebibytes(AdversarialTrainer, 256) > 70000
    assert live_mebibytes(ExactTrainer, 256, rows=128, images_per_band=4, accumulation_steps=8) < 6410
