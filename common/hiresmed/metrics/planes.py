"""The input of 2-D feature networks from a volume: its three middle planes.

Letters: S = spatial shape, N = number of images.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from ..core.errors import InputError


def middle_planes(images: torch.Tensor, dims: int) -> list[torch.Tensor]:
    """The middle plane of volumes (..., *S) across each axis; of 2-D images (`dims` 2) the images themselves.

    >>> [tuple(p.shape) for p in middle_planes(torch.zeros(1, 4, 6, 8), 3)]
    [(1, 6, 8), (1, 4, 8), (1, 4, 6)]
    """
    if dims not in (2, 3):
        raise InputError(f"Images for a feature network must have 2 or 3 axes, got {dims}; leave the metric out.")
    if dims == 2:
        return [images]
    return [images.select(axis, images.shape[axis] // 2) for axis in (-3, -2, -1)]


class Images(Protocol):
    """Images (C, *S) in [-1, 1] by number: a list of them, or what reads each when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> torch.Tensor: ...


class PlanesOf:
    """A set of N images (C, *S) as planes for a feature network: image n gives those from n x each
    to (n + 1) x each."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.dims = images[0].ndim - 1
        self.each = len(middle_planes(images[0], self.dims))

    def __len__(self) -> int:
        return len(self.images) * self.each

    def groups_of(self, numbers: Sequence[int]) -> list[Hashable]:
        """The patient of each of these planes or, where the images have no `subjects`, its image."""
        subjects = getattr(self.images, "subjects", None) or range(len(self.images))
        return [subjects[n // self.each] for n in numbers]

    def __getitem__(self, index: int) -> torch.Tensor:
        return middle_planes(self.images[index // self.each], self.dims)[index % self.each]
