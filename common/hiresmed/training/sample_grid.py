"""A picture of fixed samples after each epoch: the generator's images beside the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .seeding import random_state, seed_everything, set_random_state

GAP = 2  # pixels between tiles


class SampleGrid:
    """Writes output_dir/samples/epoch_0001.png ...: a row per sample, columns condition | generated | real.

    Every channel is a column of its own; a 3-D image is shown by the middle slice of its first axis. The samples and
    their latents are the same in all epochs; the training's random state is not changed.

    Args:
        output_dir: the training's folder.
        dataset: its first `count` items are shown; they should not be random.
        network: the generator or the AveragedModel around it; run in eval mode on one sample at a time.
        count: rows.
        every: epochs between two pictures.
        value_range: values shown as black and white.
        prepare_batch: as the trainer's, which is the default.
        collate_fn: makes a batch of a list of one item, as the data loader's.
        summary_writer: a TensorBoard SummaryWriter that also gets the picture.
        seed: of the latents.
    """

    def __init__(
        self,
        output_dir: str | Path,
        dataset: Sequence,
        network: nn.Module,
        count: int = 4,
        every: int = 1,
        value_range: Sequence[float] = (-1.0, 1.0),
        prepare_batch: Callable | None = None,
        collate_fn: Callable = list_data_collate,
        summary_writer: Any = None,
        seed: int = 0,
    ) -> None:
        self.folder = Path(output_dir) / "samples"
        self.dataset = dataset
        # only one process draws, so it must not enter an exchange of gradients
        self.network = network.module if isinstance(network, DistributedDataParallel) else network
        self.count = count
        self.every = every
        self.low, self.high = value_range
        self.prepare_batch = prepare_batch
        self.collate_fn = collate_fn
        self.summary_writer = summary_writer
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        picture = self.draw(self.prepare_batch or engine.prepare_batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch_{engine.state.epoch:04d}.png"
        aside = path.with_suffix(".tmp")
        Image.fromarray(picture).save(aside, format="PNG")
        os.replace(aside, path)
        if self.summary_writer is not None:
            self.summary_writer.add_image("samples", picture, engine.state.epoch, dataformats="HW")

    def draw(self, prepare_batch: Callable) -> np.ndarray:
        """The picture, uint8 (height, width)."""
        device = next(self.network.parameters()).device
        state = random_state()
        training = self.network.training
        self.network.eval()
        seed_everything(self.seed)
        try:
            with torch.no_grad():
                rows = [self._row(self.dataset[k], prepare_batch, device) for k in range(self._rows())]
        finally:
            set_random_state(state)
            self.network.train(training)
        return _stack([_stack(row, axis=1) for row in rows], axis=0)

    def _rows(self) -> int:
        return min(self.count, len(self.dataset))

    def _row(self, item: Any, prepare_batch: Callable, device: torch.device) -> list[np.ndarray]:
        batch = prepare_batch(self.collate_fn([item]), device, False)
        images = [batch.condition, self.network(*batch.inputs), batch.real]
        return [self._tile(channel) for image in images if image is not None for channel in image[0]]

    def _tile(self, channel: Tensor) -> np.ndarray:
        plane = channel[channel.shape[0] // 2] if channel.ndim == 3 else channel
        grey = (plane.float() - self.low) / (self.high - self.low) * 255
        return grey.nan_to_num(0.0).clamp(0, 255).round().byte().cpu().numpy()


def _stack(tiles: list[np.ndarray], axis: int) -> np.ndarray:
    """Tiles one after the other along `axis`, with gaps, padded with black across it to the largest."""
    across = max(tile.shape[1 - axis] for tile in tiles)
    parts = []
    for k, tile in enumerate(tiles):
        pad = [(0, 0), (0, 0)]
        pad[1 - axis] = (0, across - tile.shape[1 - axis])
        pad[axis] = (GAP if k else 0, 0)
        parts.append(np.pad(tile, pad))
    return np.concatenate(parts, axis)
