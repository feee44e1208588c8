"""What every training does around its steps: one handler of the trainer, whatever the method."""

from __future__ import annotations

import pytest
import tiny_gan
import torch
from hiresmed.core.errors import InputError
from hiresmed.training import SampleGrid, TrainingRoutine
from ignite.engine import Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import StatsHandler
from torch import nn


class Given(Metric):
    """A key metric whose value at each validation is given."""

    def __init__(self, values):
        self.values = list(values)
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return self.values.pop(0)


def train(folder, mode: str, values, epochs: int = 4, **knobs) -> tuple[list, TrainingRoutine]:
    """The last layer's weights after each epoch, and the routine, of a tiny GAN that is validated as given."""
    trainer = tiny_gan.make_trainer(max_epochs=epochs, epoch_length=1)
    validator = SupervisedEvaluator(
        "cpu", [{"image": torch.zeros(1, 1, 16, 16), "label": torch.zeros(1)}], nn.Identity(),
        key_val_metric={"score": Given(values)},
    )  # fmt: skip
    routine = TrainingRoutine(folder, validator, trainer.generator, mode, **knobs)
    routine.attach(trainer)
    weights = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: weights.append(trainer.generator[-1].bias.clone()))
    trainer.run()
    return weights, routine


@pytest.mark.parametrize(("mode", "values", "best"), [("min", [5, 3, 4, 9], 1), ("max", [5, 3, 9, 4], 2)])
def test_model_pt_is_that_of_the_best_validation(tmp_path, mode, values, best):
    weights, routine = train(tmp_path, mode, values)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["2.bias"], weights[best])
    assert routine.validator.state.best_metric == values[best], "the log's best is the same one"


def test_validations_pictures_checkpoints_and_best_models_come_at_their_intervals(tmp_path):
    data = tiny_gan.Patches(2)
    network = tiny_gan.make_generator()
    grid = SampleGrid(data, network, count=1)
    train(tmp_path, "min", [2, 1], val_interval=2, save_interval=3, best_models=1, pictures=grid)
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["generator_epoch_0004_score_-1.0000.pt"]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["epoch_0002.png", "epoch_0004.png"]
    assert torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)["epoch"] == 4, "the last epoch always"
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_supervised_trainer_of_monai_is_resumed_with_network_and_optimizer(tmp_path):
    def run(epochs: int) -> dict:
        torch.manual_seed(0)
        network = nn.Conv2d(1, 1, 1)
        data = [{"image": torch.ones(1, 1, 4, 4), "label": torch.zeros(1, 1, 4, 4)}] * 2
        validator = SupervisedEvaluator("cpu", data, network, key_val_metric={"score": Given([3, 2, 1])})
        routine = TrainingRoutine(tmp_path, validator, network, "min", resume=True)
        optimizer = torch.optim.Adam(network.parameters(), 0.1)
        trainer = SupervisedTrainer(
            "cpu", epochs, data, network, optimizer, nn.MSELoss(), decollate=False, train_handlers=[routine]
        )
        trainer.run()
        return network.state_dict()

    run(1)
    assert {"network", "optimizer", "best"} == set(
        torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)["objects"]
    )
    resumed = run(3)
    for file in tmp_path.rglob("*.pt"):
        file.unlink()
    assert all(torch.equal(value, resumed[name]) for name, value in run(3).items())


@pytest.mark.parametrize("knobs", [{"val_interval": 0}, {"save_interval": 0}, {"best_models": -1}])
def test_an_interval_or_number_that_is_none_is_refused_in_words(tmp_path, knobs):
    (name,) = knobs
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        train(tmp_path, "min", [1], **knobs)


def test_the_log_has_the_first_iteration_and_every_so_manieth(tmp_path, monkeypatch):
    iterations = []
    monkeypatch.setattr(
        StatsHandler, "_default_iteration_print", lambda self, engine: iterations.append(engine.state.iteration)
    )
    train(tmp_path, "min", [4, 3, 2, 1], epochs=4, log_interval=3)
    assert iterations == [1, 3]
