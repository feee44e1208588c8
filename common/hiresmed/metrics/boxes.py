"""Reading images box by box, so that a metric of a 1024^3 store needs no more memory than one of a 128^3 array.

Letters: S = spatial shape (D, H, W) or (H, W), in array order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..core.errors import InputError
from ..core.tiles import box_index


class Readable(Protocol):
    """What a metric needs of an image: its shape S and the values of any box inside it."""

    shape: tuple[int, ...]

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Values of the box `start`, `shape`, both in voxels."""


class _Array:
    def __init__(self, values) -> None:
        self.values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        self.shape = tuple(self.values.shape)

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        return self.values[box_index(start, shape)]


def as_readable(image) -> Readable:
    """The image itself if it can be read box by box, else a view of the array or tensor of shape S.

    Raises InputError unless S has two or three axes, none of them empty.
    """
    readable = image if hasattr(image, "read") and hasattr(image, "shape") else _Array(image)
    if len(readable.shape) not in (2, 3) or min(readable.shape) < 1:
        raise InputError(
            f"A metric must have an image of two or three axes without a channel axis, got shape "
            f"{tuple(readable.shape)}; take one channel and one case."
        )
    return readable


def as_readable_pair(a, b) -> tuple[Readable, Readable]:
    """Two images of one shape S; raises InputError where their shapes differ."""
    a = as_readable(a)
    b = as_readable(b)
    if tuple(a.shape) != tuple(b.shape):
        raise InputError(
            f"Two images to be compared voxel by voxel must have one shape, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}; resample one onto the grid of the other."
        )
    return a, b


def grid_boxes(shape: Sequence[int], size: int = 128) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, shape) of boxes of at most `size` voxels an axis that cover S exactly once, in array order."""
    starts = [range(0, n, size) for n in shape]
    for start in itertools.product(*starts):
        yield start, tuple(min(size, n - s) for s, n in zip(start, shape))


def read_float64(image: Readable, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """The box as float64, so that differences of unsigned or half values neither wrap nor lose digits."""
    values = image.read(start, shape)
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, dtype=np.float64)
