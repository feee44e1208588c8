"""What a 2-D feature network sees of a volume: its three middle planes.

Letters: S = spatial shape, N = number of images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.errors import InputError


def middle_planes(images: torch.Tensor, dims: int) -> list[torch.Tensor]:
    """Of (..., *S) with `dims` spatial axes the images themselves; of volumes the middle plane across each axis.

    >>> [tuple(p.shape) for p in middle_planes(torch.zeros(1, 4, 6, 8), 3)]
    [(1, 6, 8), (1, 4, 8), (1, 4, 6)]
    """
    if dims not in (2, 3):
        raise InputError(
            f"Feature networks see 2-D and 3-D images, but got images of {dims} axes; leave the metric out."
        )
    if dims == 2:
        return [images]
    return [images.select(axis, images.shape[axis] // 2) for axis in (-3, -2, -1)]


class PlanesOf(Sequence):
    """A set of N images (C, *S) as the planes that a feature network sees: image n gives `each` from n x each on."""

    def __init__(self, images: Sequence[torch.Tensor]) -> None:
        self.images = images
        self.dims = images[0].ndim - 1
        self.each = len(middle_planes(images[0], self.dims))

    def __len__(self) -> int:
        return len(self.images) * self.each

    def __getitem__(self, index: int) -> torch.Tensor:
        return middle_planes(self.images[index // self.each], self.dims)[index % self.each]
