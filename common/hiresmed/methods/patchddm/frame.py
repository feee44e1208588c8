"""What segmentation by diffusion starts from and comes to: an image's place in the reference grid, an ensemble.

Letters: B = batch, K = label channels, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...core.tiles import box_index


@dataclass
class Ensemble:
    """What several draws agree on.

    Attributes:
        mean: (B, K, *S).
        variance: (B, K, *S), unbiased; zeros where there is one draw.
        count: how many draws.
    """

    mean: Tensor
    variance: Tensor
    count: int


@dataclass(frozen=True)
class Frame:
    """Where an image lies: in its padded self, and that in the reference grid which coordinates and noise belong to.

    Attributes:
        shape: S of the image.
        padded: S with padding, half on either side.
        start: first padded voxel, in voxels of the reference grid; may be negative.
        reference: shape of the reference grid.
    """

    shape: tuple[int, ...]
    padded: tuple[int, ...]
    start: tuple[int, ...]
    reference: tuple[int, ...]

    @property
    def low(self) -> list[int]:
        """Voxels of padding before the image."""
        return [(p - n) // 2 for p, n in zip(self.padded, self.shape)]

    def pad(self, image: Tensor, value: float) -> Tensor:
        """(B, C, *S) -> (B, C, *padded)."""
        margins = [(a, p - n - a) for a, p, n in zip(self.low, self.padded, self.shape)]
        return F.pad(image, [m for pair in reversed(margins) for m in pair], value=value)

    def cut(self, padded: Tensor) -> Tensor:
        """(B, C, *padded) -> (B, C, *S)."""
        return padded[box_index(self.low, self.shape)]
