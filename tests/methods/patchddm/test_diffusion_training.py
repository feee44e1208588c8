"""One iteration is the paper's algorithm to the last digit; its random numbers belong to the sample, not to the run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import DDIM, NoiseSchedule
from hiresmed.methods.patchddm.inferer import DiffusionInferer
from hiresmed.methods.patchddm.trainer import DiffusionTrainer, LabelBatch
from hiresmed.training.checkpoint import Checkpoint
from hiresmed.training.seeding import Seeding
from ignite.engine import Events
from monai.data import MetaTensor
from tiny_diffusion import Blobs, Tiny, make_trainer, weights
from torch import nn
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(one: dict, other: dict, tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1)])
def test_one_iteration_equals_the_algorithm_written_out(prediction, low, high):
    asked = []

    class Spy(Tiny):
        def forward(self, x, t):
            asked.append((x.detach().clone(), t.clone()))
            return super().forward(x, t)

    network = Spy(dtype=torch.float64)
    trainer = make_trainer(network=network, epoch_length=1, prediction=prediction, label_range=[low, high])
    written = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(written.parameters(), 1e-3)
    trainer.run()
    (x, t) = asked[0]

    batch = next(iter(trainer.data_loader))
    label = batch["label"].double() * (high - low) + low
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.long().numpy()]
    alpha, sigma = (torch.from_numpy(np.sqrt(v)).view(-1, 1, 1, 1) for v in (alpha_bar, 1 - alpha_bar))
    assert torch.equal(x[:, :1], batch["image"]) and torch.equal(x[:, 1:3], batch["coords"])
    eps = (x[:, 3:] - alpha * label) / sigma
    assert 0.9 < eps.std() < 1.1 and abs(eps.mean()) < 0.1, "what is left is standard normal noise"
    assert ((eps - eps[:1]).abs().amax((1, 2, 3))[1:] > 0.5).all(), "of each sample its own"
    target = {"eps": eps, "x0": label, "v": alpha * eps - sigma * label}[prediction]
    output = written(x, t)
    loss = ((output - target) ** 2).mean()
    loss.backward()
    optimizer.step()
    assert_same(dict(trainer.network.state_dict()), dict(written.state_dict()), 1e-9)
    for mine, theirs in zip(network.parameters(), written.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-9)
    made = trainer.state.output
    torch.testing.assert_close(made["loss"], loss.detach())
    torch.testing.assert_close(made["label"], label)
    x0 = {"eps": (x[:, 3:] - sigma * output) / alpha, "x0": output, "v": alpha * x[:, 3:] - sigma * output}[prediction]
    torch.testing.assert_close(made["pred"], x0.detach(), rtol=1e-6, atol=1e-6)


def test_times_are_uniform_over_the_whole_schedule_and_never_repeat_by_iteration_or_seed():
    def times(seed, iteration):
        trainer = make_trainer(seed=seed)
        trainer.state.iteration = iteration
        return trainer._times_and_noise(torch.zeros(500, 1, 1, 1))

    t, _ = times(0, 1)
    assert 0 <= t.min() < 20 and 980 < t.max() <= 999
    assert float(t.double().mean()) == pytest.approx(499.5, abs=50)
    again, other_iteration, other_seed = times(0, 1), times(0, 2), times(1, 1)
    assert torch.equal(t, again[0])
    assert (t == other_iteration[0]).float().mean() < 0.02 and (t == other_seed[0]).float().mean() < 0.02


def test_first_share_trains_so_many_samples_at_pure_noise_and_the_others_at_the_times_of_ever():
    def times(**knobs):
        trainer = make_trainer(seed=0, **knobs)
        trainer.state.iteration = 1
        return trainer._times_and_noise(torch.zeros(500, 1, 1, 1))[0]

    plain, some = times(), times(first_share=0.3)
    first = some == 999
    assert first.float().mean() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(some[~first], plain[~first])
    assert (times(first_share=1.0) == 999).all() and torch.equal(times(first_share=0.0), plain)
    with pytest.raises(InputError, match="first_share must be"):
        make_trainer(first_share=1.5)


def test_the_noise_of_a_global_batch_does_not_depend_on_the_number_of_processes(monkeypatch):
    trainer = make_trainer()
    trainer.state.iteration = 7
    t, eps = trainer._times_and_noise(torch.zeros(6, 1, 4, 4))
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda r=rank: r)
        t_share, eps_share = trainer._times_and_noise(torch.zeros(3, 1, 4, 4))
        assert torch.equal(t_share, t[rank::2]) and torch.equal(eps_share, eps[rank::2])


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_micro_batches_give_the_whole_batchs_step(parts):
    one, other = make_trainer(), make_trainer(accumulation_steps=parts)
    one.run(), other.run()
    assert_same(weights(one), weights(other), 1e-12)
    for name in ("loss", "pred", "label"):
        torch.testing.assert_close(one.state.output[name], other.state.output[name], rtol=0, atol=1e-9)


def test_the_gradient_is_clipped_to_the_given_norm_and_the_average_follows_the_step():
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    network = Tiny(dtype=torch.float64)
    ema = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average)
    trainer = make_trainer(network=network, max_grad_norm=1e-3, ema=ema)
    norms, expected = [], {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(torch.stack([p.grad.norm() for p in network.parameters()]).norm()))
    )

    def follow():
        for name, value in network.state_dict().items():
            expected[name] = value.clone() if name not in expected else 0.9 * expected[name] + 0.1 * value

    trainer.add_event_handler(Events.ITERATION_COMPLETED, follow)
    trainer.run()
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)
    assert_same(dict(ema.module.state_dict()), expected, 1e-12)


def resumable(folder, epochs: int, resume: bool = True) -> DiffusionTrainer:
    network = Tiny()
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    ema = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average)
    return make_trainer(
        torch.float32,
        network=network,
        max_epochs=epochs,
        ema=ema,
        accumulation_steps=2,
        max_grad_norm=1.0,
        train_handlers=[Seeding(0), Checkpoint(folder, resume=resume)],
    )


def test_a_resumed_run_ends_with_the_uninterrupted_ones_weights_bit_for_bit(tmp_path):
    torch.manual_seed(1)
    left_alone = resumable(tmp_path / "one", 4)
    left_alone.run()
    torch.manual_seed(1)
    resumable(tmp_path / "two", 2).run()
    torch.manual_seed(99)
    resumed = resumable(tmp_path / "two", 4)
    resumed.run()
    assert resumed.state.iteration == left_alone.state.iteration == 8
    assert_same(weights(resumed), weights(left_alone))


def test_amp_runs_the_network_in_bfloat16_and_the_loss_in_full_precision():
    seen = []

    class Loss(nn.MSELoss):
        def forward(self, output, target):
            seen.append((output.dtype, target.dtype))
            return super().forward(output, target)

    full, half = make_trainer(torch.float32), make_trainer(torch.float32, amp=True, loss_function=Loss())
    full.run(), half.run()
    assert set(seen) == {(torch.float32, torch.float32)}
    assert not torch.equal(full.state.output["loss"], half.state.output["loss"])
    torch.testing.assert_close(full.state.output["loss"], half.state.output["loss"], rtol=0.03, atol=0)


def test_a_trained_network_draws_the_masks_of_unseen_images():
    """The whole circle: trainer, schedule, sampler and inferer mean the same by x_t, t and the order of channels."""
    torch.manual_seed(0)
    network = Tiny(16, kernel=5)
    schedule = NoiseSchedule(prediction="x0")
    trainer = make_trainer(
        torch.float32,
        network=network,
        train_data_loader=DataLoader(Blobs(1600, torch.float32), 8),
        optimizer=torch.optim.AdamW(network.parameters(), 1e-2),
        schedule=schedule,
        seed=3,
    )
    trainer.run()
    unseen = Blobs(16)
    unseen.epoch = 1_000_000
    batch = next(iter(DataLoader(unseen, 16)))
    inferer = DiffusionInferer(DDIM(schedule, clip=(-1, 1)), steps=4, num_samples=2)
    found, truth = inferer(batch["image"], network.eval()) > 0, batch["label"].bool()
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.9
    plain = batch["image"] > 0
    assert dice > 2 * (plain & truth).sum() / (plain.sum() + truth.sum())


def test_labels_and_grids_that_do_not_fit_are_met_with_a_sentence():
    good = {name: value[None] for name, value in Blobs()[0].items()}
    condition, label = LabelBatch()({**good, "image": MetaTensor(good["image"])}, torch.device("cpu"))
    assert type(condition) is torch.Tensor and condition.shape == (1, 3, 16, 16) and label.dtype == condition.dtype
    assert LabelBatch(convention=None)(good, torch.device("cpu"))[0].shape == (1, 1, 16, 16)
    with pytest.raises(InputError, match="from 0 to 1, got 0 to 4"):
        LabelBatch()({**good, "label": good["label"] * 4}, torch.device("cpu"))
    with pytest.raises(InputError, match="'coords' must lie on the label's grid"):
        LabelBatch()({**good, "coords": good["coords"][..., :8]}, torch.device("cpu"))
    with pytest.raises(InputError, match="must hold the key 'coords'"):
        LabelBatch()({k: v for k, v in good.items() if k != "coords"}, torch.device("cpu"))
    for name, wrong in (("max_epochs", {"max_epochs": 0}), ("iterations", {"epoch_length": 0})):
        with pytest.raises(InputError, match=f"{name} must be a whole number from 1 on"):
            make_trainer(**wrong)
    with pytest.raises(InputError, match="label_range must be"):
        make_trainer(label_range=[1, -1])
    with pytest.raises(InputError, match="accumulation_steps must be"):
        make_trainer(accumulation_steps=0)
