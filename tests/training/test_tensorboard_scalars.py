"""MONAI's TensorBoardStatsHandler writes the trainer's losses under their names, through `scalars`."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_gan
from hiresmed.training.output_scalars import scalars
from hiresmed.training.peak_memory import PeakMemory
from hiresmed.training.pictures import PictureFolder
from hiresmed.training.sample_grid import SampleGrid
from monai.handlers import TensorBoardStatsHandler

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def test_losses_memory_and_samples_are_in_the_event_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    trainer = tiny_gan.make_trainer()
    stats = TensorBoardStatsHandler(writer, output_transform=partial(scalars, prefix="train/"))
    for handler in (PeakMemory(), stats):
        handler.attach(trainer)
    SampleGrid(tiny_gan.Patches(2), trainer.generator).attach(trainer, None, PictureFolder(tmp_path, writer))
    trainer.run()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = {"train/loss_d", "train/loss_g", "train/l1", "train/adversarial", "peak_rss_bytes"}
    assert set(events.Tags()["scalars"]) == names
    assert events.Scalars("train/loss_g")[-1].value == pytest.approx(trainer.state.output["loss_g"].item())
    assert [event.step for event in events.Scalars("train/loss_g")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples")] == [1, 2]
