"""What a volume that fits into memory would be: tests compare patches with it."""

from collections.abc import Sequence

import torch
from hiresmed.core.coordinates import patch_coordinates


def volume_coordinates(shape: Sequence[int], convention: str = "centre") -> torch.Tensor:
    """Coordinate channels (D, *S) of a whole volume of spatial shape S."""
    return patch_coordinates([0] * len(shape), shape, shape, convention)
