"""A picture of fixed samples after each epoch: the generator's images beside the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from monai.engines import Trainer
from torch import Tensor, nn

from ..core.distributed import unwrap
from .pictures import PictureFolder, stack_tiles
from .seeding import random_state, seed_everything, set_random_state


class SampleGrid:
    """Draws a row per sample, columns condition | generated | real, as TrainingRoutine's `pictures`.

    Every channel is a column of its own; a 3-D image is shown by the middle slice of its first axis. The samples and
    their latents are the same in all epochs; the training's random state is not changed.

    Args:
        dataset: its first `count` items are shown; they should not be random.
        network: the generator or the AveragedModel around it; run in eval mode on one sample at a time.
        count: rows.
        value_range: values shown as black and white.
        prepare_batch: as the trainer's, which is the default.
        collate_fn: makes a batch of a list of one item, as the data loader's.
        seed: of the latents.
    """

    def __init__(
        self,
        dataset: Sequence,
        network: nn.Module,
        count: int = 6,
        value_range: Sequence[float] = (-1.0, 1.0),
        prepare_batch: Callable | None = None,
        collate_fn: Callable = list_data_collate,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        # only one process draws, so it must not enter an exchange of gradients
        self.network = unwrap(network)
        self.count = count
        self.low, self.high = value_range
        self.prepare_batch = prepare_batch
        self.collate_fn = collate_fn
        self.seed = seed

    def attach(self, trainer: Trainer, validator: Engine | None, folder: PictureFolder, every: int = 1) -> None:
        """Into the folder after every `every`-th epoch of the trainer."""

        def write() -> None:
            if idist.get_rank() == 0:
                folder.write(self.draw(self.prepare_batch or trainer.prepare_batch), trainer.state.epoch)

        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=every), write)

    def draw(self, prepare_batch: Callable) -> np.ndarray:
        """The picture, uint8 (height, width)."""
        device = next(self.network.parameters()).device
        state = random_state()
        training = self.network.training
        self.network.eval()
        seed_everything(self.seed)
        try:
            with torch.no_grad():
                count = min(self.count, len(self.dataset))
                rows = [self._row(self.dataset[k], prepare_batch, device) for k in range(count)]
        finally:
            set_random_state(state)
            self.network.train(training)
        return stack_tiles([stack_tiles(row, axis=1) for row in rows], axis=0)

    def _row(self, item: Any, prepare_batch: Callable, device: torch.device) -> list[np.ndarray]:
        batch = prepare_batch(self.collate_fn([item]), device, False)
        images = [batch.condition, self.network(*batch.inputs), batch.real]
        return [self._tile(channel) for image in images if image is not None for channel in image[0]]

    def _tile(self, channel: Tensor) -> np.ndarray:
        plane = channel[channel.shape[0] // 2] if channel.ndim == 3 else channel
        grey = (plane.float() - self.low) / (self.high - self.low) * 255
        return grey.nan_to_num(0.0).clamp(0, 255).round().byte().cpu().numpy()
