"""Volumes seen through other volumes: a region of one, or one on another grid; nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .volumes import Volume


class RegionView(Volume):
    """A box of a volume, with its own affine, as if it had been cropped.

    Args:
        volume: the whole.
        box: one (first, one-past-last) pair of voxels per axis.
    """

    def __init__(self, volume: Volume, box: Sequence[tuple[int, int]]) -> None:
        self.volume, self.start = volume, tuple(a for a, _ in box)
        self.shape = tuple(b - a for a, b in box)
        shift = np.eye(4)
        shift[: len(self.start), 3] = self.start
        self.affine = volume.affine @ shift
        self.dtype, self.name = volume.dtype, volume.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        return self.volume.read([s + o for s, o in zip(start, self.start)], shape)


class ResampledView(Volume):
    """A volume on a grid of another shape over the same field of view; linear between cell centres.

    Where the new grid is coarser, each voxel is the mean of enough samples to cover its cell.

    Args:
        volume: the source, spatial shape S.
        shape: the new shape.
    """

    def __init__(self, volume: Volume, shape: Sequence[int]) -> None:
        self.volume, self.shape = volume, tuple(int(n) for n in shape)
        step = np.eye(4)
        for axis, (n, m) in enumerate(zip(volume.shape, self.shape)):
            step[axis, axis], step[axis, 3] = n / m, (n / m - 1) / 2
        self.affine = volume.affine @ step
        self.dtype, self.name = volume.dtype, volume.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        plans = [self._axis(axis, s, n) for axis, (s, n) in enumerate(zip(start, shape))]
        low = [int(p[0].min()) for p in plans]
        high = [int(p[1].max()) + 1 for p in plans]
        values = self.volume.read(low, [b - a for a, b in zip(low, high)]).astype(np.float32)
        for axis, (left, right, weight, samples) in enumerate(plans):
            w = weight.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
            values = values.take(left - low[axis], axis) * (1 - w) + values.take(right - low[axis], axis) * w
            if samples > 1:
                parts = list(values.shape)
                parts[axis : axis + 1] = [-1, samples]
                values = values.reshape(parts).mean(axis + 1)
        return values

    def _axis(self, axis: int, start: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Source voxels left and right of each sample, the weight of the right one, and samples a voxel."""
        n, ratio = self.volume.shape[axis], self.volume.shape[axis] / self.shape[axis]
        samples = max(1, math.ceil(ratio))
        cells = np.arange(start * samples, (start + length) * samples)
        at = ((cells + 0.5) / samples * ratio - 0.5).clip(0, n - 1)
        left = np.floor(at).astype(np.int64)
        return left, np.minimum(left + 1, n - 1), at - left, samples
