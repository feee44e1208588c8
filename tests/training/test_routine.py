"""What every training does around its steps: one handler of the trainer, whatever the method."""

from __future__ import annotations

import logging
import math
import re

import pytest
import tiny_gan
import torch
from hiresmed.core.errors import InputError
from hiresmed.training import SampleGrid, TrainingRoutine
from hiresmed.training.history import History
from hiresmed.training.progress import TrainingProgress
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from PIL import Image
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
    assert {"network", "optimizer", "best", "history"} == set(
        torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)["objects"]
    )
    resumed = run(3)
    for file in tmp_path.rglob("*.pt"):
        file.unlink()
    assert all(torch.equal(value, resumed[name]) for name, value in run(3).items())


@pytest.mark.parametrize("knobs", [{"val_interval": 0}, {"save_interval": 0}, {"best_models": -1}, {"log_interval": 0}])
def test_an_interval_or_number_that_is_none_is_refused_in_words(tmp_path, knobs):
    (name,) = knobs
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        train(tmp_path, "min", [1], **knobs)


def test_each_epoch_is_a_line_of_mean_losses_metric_and_time_left_and_the_last_says_what_came_of_it(
    tmp_path, caplog, capsys
):
    with caplog.at_level(logging.INFO):
        _, routine = train(tmp_path, "min", [5, 3], epochs=3, val_interval=2)
    first, *epochs = [record.getMessage() for record in caplog.records if record.name == "train"]
    assert first == f"epochs 1 to 3 of 1 iteration on cpu; results in {tmp_path}"
    words = r"epoch {} of 3, [\d.]+ s: loss_d [\d.e-]+, loss_g [\d.e-]+, [^;]+"
    assert re.fullmatch(words.format(1) + r"; about [\d.]+ s left", epochs[0])
    assert re.fullmatch(words.format(2) + r"; validation score 5 \(the best so far\); about [\d.]+ s left", epochs[1])
    assert re.fullmatch(words.format(3), epochs[2])
    (last,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Trained 3 epochs in [\d.]+ s and [\d.]+ [MG]B of memory: best score 5 .*", last)
    assert str(tmp_path / "model.pt") in last and str(tmp_path / "training.png") in last
    assert f"loss_d {routine.history.losses['loss_d'][0][1]:.4g}, " in epochs[0]


def test_an_epochs_losses_are_the_mean_of_its_iterations_and_survive_a_resumption(tmp_path):
    losses = []
    trainer = tiny_gan.make_trainer(max_epochs=1, epoch_length=3)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(float(trainer.state.output["loss_g"])))
    validator = SupervisedEvaluator(
        "cpu", [{"image": torch.zeros(1, 1, 16, 16), "label": torch.zeros(1)}], nn.Identity(),
        key_val_metric={"score": Given([4, 7, 2])},
    )  # fmt: skip
    routine = TrainingRoutine(tmp_path, validator, trainer.generator, "max")
    routine.attach(trainer)
    trainer.run()
    assert routine.history.losses["loss_g"] == [(1, pytest.approx(sum(losses) / 3))]
    resumed = tiny_gan.make_trainer(max_epochs=3, epoch_length=3)
    following = TrainingRoutine(tmp_path, validator, resumed.generator, "max", resume=True)
    following.attach(resumed)
    resumed.run()
    assert following.history.losses["loss_g"][0] == routine.history.losses["loss_g"][0]
    assert following.history.metrics == {"score": [(1, 4.0), (2, 7.0), (3, 2.0)]}
    assert following.history.best == (2, 7.0)


def test_the_picture_of_the_training_shows_each_validations_samples(tmp_path):
    data = tiny_gan.Patches(2)
    grid = SampleGrid(data, tiny_gan.make_generator(), count=1)
    _, routine = train(tmp_path, "min", [2, 1], epochs=4, val_interval=2, pictures=grid)
    with Image.open(tmp_path / "training.png") as file:
        size = file.size
    assert [number for number, _ in routine.training_picture._strips(4)] == [2, 4]
    assert [number for number, _ in routine.training_picture._strips(3)] == [2], "none of an earlier training's"
    assert routine.training_picture.draw(4).size == size
    without = routine.training_picture.draw(1)
    assert without.height < size[1], "before the first samples there are curves alone"


def test_without_tensorboard_a_training_says_one_sentence_and_runs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("hiresmed.training.tensorboard.find_spec", lambda name: None)
    train(tmp_path, "min", [4], epochs=1)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "TensorBoard is not installed, so losses and metrics are in the log and in training.png only; for its curves "
        "run: pip install tensorboard."
    ]
    assert (tmp_path / "model.pt").is_file() and not (tmp_path / "tensorboard").exists()


def test_the_log_has_every_so_manieth_iteration_where_a_number_is_asked_for(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer = tiny_gan.make_trainer(max_epochs=1, epoch_length=5)
        validator = SupervisedEvaluator("cpu", [], nn.Identity())
        TrainingProgress(tmp_path, validator, History(validator, 9, "min"), 2).attach(trainer)
        trainer.run()
    said = [record.getMessage() for record in caplog.records if record.name == "train"]
    assert [line.split(", ")[1] for line in said[1:3]] == ["2 of 5", "4 of 5"]


@pytest.mark.parametrize(("mode", "best"), [("min", (2, 0.5)), ("max", (1, 3.0))])
def test_the_best_validation_is_the_lowest_or_the_highest_whatever_came_last_or_was_no_number(mode, best):
    history = History(Engine(lambda *_: None), 1, mode)
    values = [(1, 3.0), (2, 0.5), (3, math.nan), (4, 0.5), (5, 2.0)]
    history.load_state_dict({"losses": {}, "metrics": {"mae": values}, "key": "mae"})
    assert history.best == best
