"""Pictures of a segmentation's validation: image, prediction, truth, side by side in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ...training.pictures import PictureFolder, stack_tiles


class SegmentationPictures:
    """Draws a row per case, columns image | predicted regions | true regions, as TrainingRoutine's `pictures`.

    The slice of the last axis that holds most of the label is shown.

    Args:
        count: rows.
        channel: of the image (3: FLAIR).
    """

    def __init__(self, count: int = 4, channel: int = 3) -> None:
        self.count = count
        self.channel = channel
        self.rows: list[np.ndarray] = []

    def attach(self, trainer: Engine | None, validator: Engine, folder: PictureFolder, every: int = 1) -> None:
        """Into the folder after each run of the validator."""

        def write() -> None:
            if idist.get_rank() == 0 and self.rows:
                folder.write(stack_tiles(self.rows, axis=0), validator.state.epoch)

        validator.add_event_handler(Events.STARTED, lambda: self.rows.clear())
        validator.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        validator.add_event_handler(Events.COMPLETED, write)

    def _add(self, engine: Engine) -> None:
        cases: Any = engine.state.output  # MONAI's, taken apart
        for case in cases:
            if len(self.rows) < self.count:
                self.rows.append(_row(case, self.channel))


def _row(case: Mapping, channel: int) -> np.ndarray:
    """One case, uint8 (height, width); nested regions are drawn brighter the further in they lie."""
    image, prediction, truth = (np.asarray(case[key].float().cpu()) for key in ("image", "pred", "label"))
    k = int(truth.sum(axis=(0, 1, 2)).argmax())
    planes = [(image[channel, ..., k] + 1) / 2, prediction[..., k].mean(0), truth[..., k].mean(0)]
    return stack_tiles([(plane.clip(0, 1) * 255).round().astype(np.uint8).T for plane in planes], axis=1)
