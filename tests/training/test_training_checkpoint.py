"""A training killed at any moment and resumed ends as one left alone; damaged files are met with a sentence."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import programs
import pytest
import tiny_gan
import torch
from hiresmed.core.errors import InputError
from hiresmed.training.checkpoint import BestModel, Checkpoint, flat_weights, load_safely, save_atomically
from ignite.engine import Engine, Events
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(output_dir, epochs=4) -> dict[str, torch.Tensor]:
    trainer = tiny_gan.make_resumable(output_dir, epochs)
    trainer.run()
    return tiny_gan.weights(trainer)


def assert_bit_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_killed_in_mid_epoch_and_resumed_ends_with_the_same_weights_bit_for_bit(tmp_path):
    """8 epochs of 4 iterations: killed somewhere from the third epoch on, in another process."""
    command = [tiny_gan.__file__, str(tmp_path / "killed"), "8"]
    kill_at = random.Random().choice([9, 10, 11, 13, 14, 15])
    program = programs.Program(command)
    said = Path(program.folder, "stdout")
    while f"iteration {kill_at}\n" not in said.read_text():
        assert program.poll() is None, "it ended before it could be killed"
        time.sleep(random.Random().uniform(0, 0.005))
    program.kill()
    assert program.returncode == -signal.SIGKILL
    done = load_safely(tmp_path / "killed/checkpoints/latest.pt")["epoch"]
    assert 2 <= done <= 8
    again = programs.run(command)
    assert again.returncode == 0, again.stderr
    resumed = again.stdout.split("\n")
    assert "iteration 1" not in resumed, "it went on rather than began anew"
    assert_bit_equal(load_safely(tmp_path / "killed/final.pt"), trained(tmp_path / "alone", 8))


def test_a_run_in_two_halves_equals_one_and_a_finished_one_stays_as_it_is(tmp_path):
    trained(tmp_path / "halves", 2)
    halves = trained(tmp_path / "halves", 4)
    assert_bit_equal(halves, trained(tmp_path / "alone"))
    assert_bit_equal(trained(tmp_path / "halves", 4), halves)


def test_without_seeding_the_checkpoints_random_state_continues_the_run(tmp_path):
    def run(folder, epochs):
        prepare_batch = tiny_gan.RandomSketch(["sketch"])
        handlers = [Checkpoint(folder, resume=True)]
        trainer = tiny_gan.make_trainer(max_epochs=epochs, prepare_batch=prepare_batch, train_handlers=handlers)
        trainer.run()
        return tiny_gan.weights(trainer)

    run(tmp_path / "halves", 1)
    torch.manual_seed(99)
    halves = run(tmp_path / "halves", 2)
    # one run, whose initialisation seeds torch as the first half's did
    assert_bit_equal(halves, run(tmp_path / "alone", 2))


def test_schedulers_and_the_best_metric_come_back_and_later_handlers_are_waited_for(tmp_path):
    def build(epochs):
        generator = tiny_gan.make_generator()
        optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.1)
        best = BestModel(tmp_path, generator, metric="score")
        checkpoint = Checkpoint(tmp_path, resume=True, also={"scheduler": scheduler, "best": best})
        trainer = tiny_gan.make_trainer(
            generator=generator, g_optimizer=optimizer, max_epochs=epochs, train_handlers=[checkpoint]
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(score=-e.state.epoch))
        best.attach(trainer)
        return trainer, optimizer, best

    build(2)[0].run()
    assert load_safely(tmp_path / "checkpoints/latest.pt")["objects"]["scheduler"]["last_epoch"] == 2
    trainer, optimizer, best = build(3)
    trainer.run()
    assert best.best == -1, "the first epoch was the best, and the second run knows"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_it_saves_every_n_epochs_and_the_last(tmp_path):
    saved = []
    checkpoint = Checkpoint(tmp_path, every=2)
    checkpoint.save = lambda engine: saved.append(engine.state.epoch)
    tiny_gan.make_trainer(max_epochs=5, epoch_length=1, train_handlers=[checkpoint]).run()
    assert saved == [2, 4, 5]


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "latest.pt"
    save_atomically({"a": torch.ones(3)}, path)

    def half(value, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": torch.zeros(3)}, path)
    assert torch.equal(load_safely(path)["a"], torch.ones(3))


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_truncated_checkpoint_is_an_input_error(tmp_path, size):
    trained(tmp_path, 1)
    path = tmp_path / "checkpoints/latest.pt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"latest\.pt .*damaged.*delete it"):
        trained(tmp_path, 2)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_code_ran",)


def test_a_hostile_checkpoint_is_refused_and_its_code_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": Hostile()}, tmp_path / "latest.pt")
    with pytest.raises(InputError, match="got a damaged or other file"):
        load_safely(tmp_path / "latest.pt")
    assert not (tmp_path / "hostile_code_ran").exists()


def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path):
    trained(tmp_path, 1)
    cases = {
        "The 'generator' .*another output_dir": {"generator": nn.Conv2d(1, 1, 3, padding=1)},
        "must hold .* got": {"ema": None},
        "iterations per epoch as this run, got": {
            "loader": torch.utils.data.DataLoader(tiny_gan.Patches(16, torch.float64), 8)
        },
    }
    for words, changes in cases.items():
        ema = torch.optim.swa_utils.AveragedModel(tiny_gan.make_generator())
        handlers = [Checkpoint(tmp_path, resume=True)]
        loader = torch.utils.data.DataLoader(tiny_gan.Patches(16, torch.float64), 4)
        trainer = tiny_gan.make_trainer(**{"ema": ema, "loader": loader, "train_handlers": handlers, **changes})
        with pytest.raises(InputError, match=words):
            trainer.run()


def test_an_old_checkpoint_is_neither_overwritten_nor_resumed_unasked(tmp_path):
    trained(tmp_path, 1)
    before = (tmp_path / "checkpoints/latest.pt").read_bytes()
    for off in (False, "false"):
        with pytest.raises(InputError, match="resume to true"):
            tiny_gan.make_trainer(train_handlers=[Checkpoint(tmp_path, resume=off)]).run()
    assert (tmp_path / "checkpoints/latest.pt").read_bytes() == before
    trainer = tiny_gan.make_trainer(max_epochs=1, train_handlers=[Checkpoint(tmp_path, overwrite="true")])
    trainer.run()
    assert trainer.state.iteration == 2
    assert (tmp_path / "checkpoints/latest.pt").read_bytes() != before


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another output_dir"):
        tiny_gan.make_trainer(train_handlers=[Checkpoint(tmp_path / "file" / "run")]).run()


@pytest.mark.parametrize(("mode", "kept"), [("max", 3.0), ("min", 1.0)])
def test_model_pt_holds_the_flat_weights_of_the_best_epoch(tmp_path, mode, kept):
    network = nn.Linear(1, 1)
    best = BestModel(tmp_path, torch.optim.swa_utils.AveragedModel(network), metric="score", mode=mode)
    for score in (2.0, 3.0, float("nan"), 1.0, 2.5):
        best.network.module.weight.data.fill_(score)
        best(SimpleNamespace(state=SimpleNamespace(metrics={"score": score})))
    state = load_safely(tmp_path / "model.pt")
    assert state.keys() == {"weight", "bias"}, "flat, without wrappers' prefixes"
    assert state["weight"].item() == kept
    nn.Linear(1, 1).load_state_dict(state)


def test_without_a_metric_the_newest_model_is_kept_and_a_missing_metric_is_named(tmp_path):
    network = nn.Linear(1, 1)
    engine = Engine(lambda *_: None)
    BestModel(tmp_path, network).attach(engine)
    engine.run([0], max_epochs=1)
    network.weight.data.fill_(9.0)
    engine.run([0], max_epochs=2)
    assert load_safely(tmp_path / "model.pt")["weight"].item() == 9.0
    with pytest.raises(InputError, match=r"must be one of .*, got 'psnr'"):
        BestModel(tmp_path, network, metric="psnr")(engine)


def test_weights_are_written_in_float32_and_counters_as_they_are():
    network = nn.BatchNorm1d(2).to(torch.bfloat16)
    state = flat_weights(network)
    assert state["weight"].dtype == torch.float32
    assert state["num_batches_tracked"].dtype == torch.int64
