"""Where a training's pictures go, and how tiles become one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.output_files import write_then_rename

GAP = 2  # pixels between tiles


class PictureFolder:
    """output_dir/samples/epoch_0001.png ...: a grey picture after each epoch, also shown by TensorBoard.

    Args:
        output_dir: the training's folder.
        summary_writer: of TensorBoard; None: files only.
    """

    def __init__(self, output_dir: str | Path, summary_writer: Any = None) -> None:
        self.folder = Path(output_dir) / "samples"
        self.summary_writer = summary_writer

    def write(self, picture: np.ndarray, epoch: int) -> None:
        """uint8 (height, width), written aside and renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with write_then_rename(self.folder / f"epoch_{epoch:04d}.png") as aside:
            Image.fromarray(picture).save(aside, format="PNG")
        if self.summary_writer is not None:
            self.summary_writer.add_image("samples", picture, epoch, dataformats="HW")


def stack_tiles(tiles: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Tiles (height, width) one after the other along `axis`, with gaps, padded with black across it to the largest."""
    across = max(tile.shape[1 - axis] for tile in tiles)
    parts = []
    for k, tile in enumerate(tiles):
        pad = [(0, 0), (0, 0)]
        pad[1 - axis] = (0, across - tile.shape[1 - axis])
        pad[axis] = (GAP if k else 0, 0)
        parts.append(np.pad(tile, pad))
    return np.concatenate(parts, axis)
