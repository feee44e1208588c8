"""The picture shows condition | generated | real of fixed samples and leaves the training untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.memory import release_heap, reset_peak_rss
from hiresmed.training.batches import LatentBatch
from hiresmed.training.output_scalars import scalars
from hiresmed.training.peak_memory import PeakMemory
from hiresmed.training.pictures import GAP, PictureFolder
from hiresmed.training.sample_grid import SampleGrid
from ignite.engine import Engine, Events
from PIL import Image
from tiny_gan import ConditionalBatch
from torch import nn


class Negative(nn.Module):
    """-x, in eval mode only."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, image):
        assert not self.training
        return self.anchor - image


class Decoder(nn.Linear):
    def forward(self, latent):
        return super().forward(latent).reshape(-1, 1, 4, 4)


def engine_with(prepare_batch) -> Engine:
    engine = Engine(lambda *_: torch.rand(1))
    engine.prepare_batch = prepare_batch
    return engine


def test_columns_are_condition_generated_and_real_and_rows_are_samples(tmp_path):
    data = [{"sketch": torch.full((1, 5, 6), v), "image": torch.full((1, 5, 6), 1.0)} for v in (-1.0, 0.5, 0.0)]
    network = Negative().train()
    engine = engine_with(ConditionalBatch(["sketch"]))
    SampleGrid(data, network, count=2).attach(engine, None, PictureFolder(tmp_path))
    engine.run([0], max_epochs=1)
    picture = np.asarray(Image.open(tmp_path / "samples/epoch_0001.png"))
    assert picture.shape == (2 * 5 + GAP, 3 * 6 + 2 * GAP)
    # -1 -> 0, -0.5 -> 63.75, 0.5 -> 191.25, 1 -> 255
    assert [picture[2, x] for x in (2, 6 + GAP + 2, 12 + 2 * GAP + 2)] == [0, 255, 255]
    assert [picture[5 + GAP + 2, x] for x in (2, 6 + GAP + 2, 12 + 2 * GAP + 2)] == [191, 64, 255]
    assert network.training, "the mode is put back"
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["epoch_0001.png"]


def test_of_a_volume_the_middle_slice_is_shown(tmp_path):
    volume = torch.arange(5.0).reshape(1, 5, 1, 1).expand(1, 5, 4, 3)
    grid = SampleGrid([{"sketch": volume, "image": volume}], Negative(), value_range=(0, 4))
    picture = grid.draw(ConditionalBatch(["sketch"], condition=[]))
    assert picture.shape == (4, 3 + GAP + 3)
    assert (picture[:, -3:] == 128).all(), "slice 2 of 0 .. 4"


def test_latents_are_the_same_in_all_epochs_and_the_trainings_random_numbers_go_on_undisturbed(tmp_path):
    data = [{"image": torch.zeros(1, 4, 4)}] * 2

    def run(with_grid):
        torch.manual_seed(3)
        engine = engine_with(LatentBatch(8))
        drawn = []
        network = Decoder(8, 16)
        if with_grid:
            SampleGrid(data, network).attach(engine, None, PictureFolder(tmp_path))
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: drawn.append(e.state.output.item()))
        engine.run([0, 1], max_epochs=3)
        return drawn

    assert run(True) == run(False)
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "samples").iterdir())]
    assert len(pictures) == 3
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert len(np.unique(pictures[0])) > 10
    assert (pictures[0][:4] != pictures[0][-4:]).any(), "each row has its own latent"


def test_scalars_are_the_numbers_of_an_output_and_nothing_else():
    output = {"loss_g": torch.tensor(0.5), "lr": 0.25, "pred": torch.zeros(1, 1, 2), "name": "x"}
    assert scalars(output, prefix="train/") == {"train/loss_g": 0.5, "train/lr": 0.25}
    assert scalars({"pred": torch.zeros(2)}) == {}


def test_peak_memory_grows_by_what_an_epoch_needs():
    release_heap()  # tests before this one may have left a hole in the heap, and a higher peak
    if not reset_peak_rss():
        pytest.skip("this system does not permit to reset the peak")
    engine = Engine(lambda *_: torch.ones(64 << 20, dtype=torch.uint8)[0].item())
    engine.state.device = torch.device("cpu")
    seen = []
    PeakMemory().attach(engine)
    engine.add_event_handler(Events.STARTED, PeakMemory())
    for event in (Events.STARTED, Events.EPOCH_COMPLETED):
        engine.add_event_handler(event, lambda e: seen.append(e.state.metrics["peak_rss_bytes"]))
    engine.run([0], max_epochs=1)
    assert (60 << 20) < seen[1] - seen[0] < (200 << 20)
    assert "peak_device_bytes" not in engine.state.metrics
