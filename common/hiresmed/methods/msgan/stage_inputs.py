"""What a stage of the multi-scale GAN is fed: its channels, their order, and the place they are read from.

The base stage sees [sketch, noise, D coordinates], a finer stage [enlarged coarser image, sketch, noise], all on one
box of its level's grid, which may reach beyond the volume. Tiled inference, the training patches, the batches made of
them and the network's own forward pass assemble their input here, so that they cannot differ.

Letters: B = batch, D = spatial axes, S = spatial shape of the box, f = factor between levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.coordinates import oriented_coordinates, patch_coordinates
from ...core.tiles import box_index

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class StageBox:
    """A box of one level's grid on which a stage is run; it may reach beyond the volume.

    Attributes:
        stage: number of the stage, 0 the base.
        start: first voxel of the box.
        shape: S.
        level_shape: spatial shape of the whole level.
        affine: (4, 4), voxel to mm in RAS+; its orientation is read, so that of any level will do.
    """

    stage: int
    start: Sequence[int]
    shape: Sequence[int]
    level_shape: Sequence[int]
    affine: np.ndarray


def stage_conditions(
    box: StageBox,
    sketch: Tensor,
    noise: Tensor,
    read_coarser: Callable[[Sequence[int], Sequence[int]], Tensor],
    factor: int,
    coordinates: bool,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """What a stage is told on one box: "sketch", "noise", and "coarse" (finer stages) or "coordinates" (the base).

    Args:
        box: where.
        sketch: (1, *S), edge strengths in [0, 1].
        noise: (1, *S).
        read_coarser: (start, shape) of a box one level coarser -> its image (1, *shape) in [-1, 1]; beyond the volume
            the value of the nearest face. Not called for the base.
        factor: f, as the generator has it.
        coordinates: whether the generator's base is told where its voxels lie.
        dtype: of the coordinates.

    Returns:
        Tensors (1, *S); "coarse" (1, *shape of `coarse_box`), "coordinates" (D, *S) along the patient's axes.
    """
    conditions = {"sketch": sketch, "noise": noise}
    if box.stage > 0:
        conditions["coarse"] = read_coarser(*coarse_box(box.start, box.shape, factor))
    elif coordinates:
        along_axes = patch_coordinates(box.start, box.shape, box.level_shape, dtype=dtype)
        conditions["coordinates"] = oriented_coordinates(along_axes, box.affine).to(sketch.device)
    return conditions


def coarse_box(start: Sequence[int], shape: Sequence[int], factor: int) -> tuple[list[int], list[int]]:
    """Start and shape of the coarser level's box from which a box is enlarged: one coarse voxel of margin a side.

    >>> coarse_box([8, -3], [4, 4], 2)
    ([3, -3], [4, 5])
    """
    low = [s // factor - 1 for s in start]
    high = [-(-(s + n) // factor) + 1 for s, n in zip(start, shape)]
    return low, [b - a for a, b in zip(low, high)]


def stage_input(
    conditions: Mapping[str, Tensor],
    factor: int,
    start: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The input (B, C, *S) of a stage from its conditions, each with a batch axis in front; channels last in memory.

    Args:
        conditions: as `stage_conditions` returns them; other keys are passed over.
        factor: f.
        start: first voxel of the box on the level's grid; None: a multiple of f along each axis.
        dtype: of the result; None: that of the sketch.
    """
    sketch = conditions["sketch"]
    parts = [sketch, conditions["noise"]]
    if "coarse" in conditions:
        fine = enlarge(conditions["coarse"], factor)
        margins = [factor + s % factor for s in start or [0] * (sketch.ndim - 2)]
        parts.insert(0, fine[box_index(margins, sketch.shape[2:])])
    elif "coordinates" in conditions:
        parts.append(conditions["coordinates"])
    # stacked behind the voxels: channels last, as the convolutions want them, in one copy
    channels = [channel.to(dtype or sketch.dtype) for part in parts for channel in part.unbind(1)]
    return torch.stack(channels, -1).movedim(-1, 1)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Linear interpolation of (B, C, *S) to `factor` times the grid, cell centres aligned."""
    return F.interpolate(x, scale_factor=float(factor), mode=_LINEAR[x.ndim - 2], align_corners=False)
