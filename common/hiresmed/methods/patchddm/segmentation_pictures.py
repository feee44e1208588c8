"""Pictures of a segmentation's validation: image, what was found, the truth, side by side in each epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from ...training.sample_grid import _stack


class SegmentationPictures:
    """Writes output_dir/samples/epoch_0001.png ...: a row per case, columns image | found regions | true regions.

    Attached to the validating evaluator; the slice of the last axis that holds most of the label is shown.

    Args:
        output_dir: the training's folder.
        count: rows.
        channel: of the image (3: FLAIR).
        summary_writer: a TensorBoard SummaryWriter that gets the picture, too.
    """

    def __init__(self, output_dir: str | Path, count: int = 4, channel: int = 3, summary_writer: Any = None) -> None:
        self.folder = Path(output_dir) / "samples"
        self.count = count
        self.channel = channel
        self.summary_writer = summary_writer
        self.rows = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _case(self, engine: Engine) -> None:
        for case in engine.state.output:
            if len(self.rows) < self.count:
                self.rows.append(_row(case, self.channel))

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0 or not self.rows:
            return
        picture = _stack(self.rows, axis=0)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch_{engine.state.epoch:04d}.png"
        Image.fromarray(picture).save(path.with_suffix(".tmp"), format="PNG")
        os.replace(path.with_suffix(".tmp"), path)
        if self.summary_writer is not None:
            self.summary_writer.add_image("samples", picture, engine.state.epoch, dataformats="HW")


def _row(case: Mapping, channel: int) -> np.ndarray:
    """One case, uint8 (height, width); nested regions are drawn brighter the further in they lie."""
    image, found, truth = (np.asarray(case[key].float().cpu()) for key in ("image", "pred", "label"))
    k = int(truth.sum(axis=(0, 1, 2)).argmax())
    planes = [(image[channel, ..., k] + 1) / 2, found[..., k].mean(0), truth[..., k].mean(0)]
    return _stack([(plane.clip(0, 1) * 255).round().astype(np.uint8).T for plane in planes], axis=1)
