"""Volumes derived from others when read: a region, another grid, other axes; nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import nibabel
import numpy as np

from .volumes import Volume


class RegionView(Volume):
    """A box of a volume, with its own affine, as if it had been cropped.

    Args:
        volume: the whole.
        box: one (first, one-past-last) pair of voxels per axis.
    """

    def __init__(self, volume: Volume, box: Sequence[tuple[int, int]]) -> None:
        self.volume = volume
        self.start = tuple(a for a, _ in box)
        self.shape = tuple(b - a for a, b in box)
        shift = np.eye(4)
        shift[: len(self.start), 3] = self.start
        self.affine = volume.affine @ shift
        self.dtype = volume.dtype
        self.name = volume.name

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
        self.volume = volume
        self.shape = tuple(int(n) for n in shape)
        step = np.eye(4)
        for axis, (n, m) in enumerate(zip(volume.shape, self.shape)):
            step[axis, axis], step[axis, 3] = n / m, (n / m - 1) / 2
        self.affine = volume.affine @ step
        self.dtype = volume.dtype
        self.name = volume.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        plans = [self._axis(axis, s, n) for axis, (s, n) in enumerate(zip(start, shape))]
        low = [int(p[0].min()) for p in plans]
        high = [int(p[1].max()) + 1 for p in plans]
        values = self.volume.read(low, [b - a for a, b in zip(low, high)]).astype(np.float32)
        for axis, (lower, upper, weight, samples) in enumerate(plans):
            w = weight.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
            values = values.take(lower - low[axis], axis) * (1 - w) + values.take(upper - low[axis], axis) * w
            if samples > 1:
                parts = list(values.shape)
                parts[axis : axis + 1] = [-1, samples]
                values = values.reshape(parts).mean(axis + 1)
        return values

    def _axis(self, axis: int, start: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Source voxels below and above each sample, the weight of the upper one, and samples per voxel."""
        n = self.volume.shape[axis]
        ratio = self.volume.shape[axis] / self.shape[axis]
        samples = max(1, math.ceil(ratio))
        cells = np.arange(start * samples, (start + length) * samples)
        position = ((cells + 0.5) / samples * ratio - 0.5).clip(0, n - 1)
        lower = np.floor(position).astype(np.int64)
        return lower, np.minimum(lower + 1, n - 1), position - lower, samples


class TurnedView(Volume):
    """A volume with its axes in another order, some of them backwards; voxels stay where they are in mm.

    Args:
        volume: the source.
        axes: which axis of the source each axis of the view is.
        flips: which axes of the view run backwards along theirs.

    >>> from hiresmed.core.volumes import ArrayVolume
    >>> view = TurnedView(ArrayVolume([[1, 2, 3], [4, 5, 6]]), axes=(1, 0), flips=(True, False))
    >>> view.read((0, 0), view.shape).tolist()
    [[3, 6], [2, 5], [1, 4]]
    """

    def __init__(self, volume: Volume, axes: Sequence[int], flips: Sequence[bool]) -> None:
        self.volume = volume
        self.axes = tuple(axes)
        self.flips = tuple(flips)
        self.shape = tuple(volume.shape[axis] for axis in axes)
        index = np.eye(4)
        for axis, (source, flip) in enumerate(zip(axes, flips)):
            index[:, axis] = 0
            index[source, axis] = -1 if flip else 1
            index[source, 3] = volume.shape[source] - 1 if flip else 0
        self.affine = volume.affine @ index
        self.dtype = volume.dtype
        self.name = volume.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        source_start = [0] * len(self.axes)
        source_shape = [0] * len(self.axes)
        for axis, flip, first, count, size in zip(self.axes, self.flips, start, shape, self.shape):
            source_start[axis] = size - first - count if flip else first
            source_shape[axis] = count
        values = self.volume.read(source_start, source_shape).transpose(self.axes)
        # a copy, as torch takes no negative strides
        return np.ascontiguousarray(values[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)])

    def turned_box(self, box: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """A box on a grid of `shape` with the source's axes, (first, one-past-last) per axis, on this view's axes."""
        pairs = [(box[axis], shape[axis]) for axis in self.axes]
        return tuple((n - b, n - a) if flip else (a, b) for ((a, b), n), flip in zip(pairs, self.flips))

    def back(self, volume: Volume) -> TurnedView:
        """A volume on this view's axes (or a region of it) with the axes of the source."""
        axes = [self.axes.index(axis) for axis in range(len(self.axes))]
        return TurnedView(volume, axes, [self.flips[axis] for axis in axes])


class SliceView(Volume):
    """A 2-D image as a volume of one slice, (*S, 1)."""

    def __init__(self, image: Volume) -> None:
        self.image = image
        self.shape = (*image.shape, 1)
        self.affine = image.affine
        self.dtype = image.dtype
        self.name = image.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        return self.image.read(start[:2], shape[:2])[..., None]


def picture_turn(affine: np.ndarray, undirected: bool = True) -> tuple[tuple[int, int], tuple[bool, bool]]:
    """Axes and flips that turn a 2-D image into rows and columns, as a viewer shows that plane of a volume.

    Rows run to the back or the feet, columns to the left or the back. ITK writes a picture's columns as the first axis
    of a NIfTI, and a slice keeps the axes of its volume.

    Args:
        affine: (4, 4), voxel to mm in RAS+.
        undirected: axes that run exactly along +R and +A, as those of an image without direction, are taken for rows
            and columns as they are.

    >>> picture_turn(np.diag([-1.0, -1.0, 1.0, 1.0]))
    ((1, 0), (False, False))
    """
    direction = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    if undirected and np.allclose(direction, np.eye(3)[:, :2]):
        return (0, 1), (False, False)
    plane = np.eye(4)
    plane[:3, :3] = np.column_stack([direction, np.cross(direction[:, 0], direction[:, 1])])
    orientation = nibabel.io_orientation(plane)
    rows = 0 if orientation[0, 0] > orientation[1, 0] else 1  # of R, A, S the later one points up
    columns = 1 - rows
    return (rows, columns), (bool(orientation[rows, 1] > 0), bool(orientation[columns, 1] > 0))


def canonical_turn(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Axes and flips of a TurnedView that turn a volume to RAS+: its axes run most nearly right, forward and up.

    Args:
        affine: (4, 4), voxel to mm in RAS+.

    >>> canonical_turn(np.diag([-1.0, -1.0, 1.0, 1.0]))
    ((0, 1, 2), (True, True, False))
    """
    orientation = nibabel.io_orientation(affine)
    axes = tuple(int(np.flatnonzero(orientation[:, 0] == direction)[0]) for direction in range(3))
    return axes, tuple(bool(orientation[axis, 1] < 0) for axis in axes)


def as_canonical(volume: Volume) -> Volume:
    """A 3-D volume with its axes in RAS+ order; one that has them so, or a 2-D image, as it is."""
    if len(volume.shape) != 3:
        return volume
    axes, flips = canonical_turn(volume.affine)
    return volume if axes == (0, 1, 2) and not any(flips) else TurnedView(volume, axes, flips)


def as_picture(image: Volume) -> Volume:
    """A 2-D image as rows and columns; any other volume as it is."""
    if len(image.shape) != 2:
        return image
    axes, flips = picture_turn(image.affine)
    return image if axes == (0, 1) and not any(flips) else TurnedView(image, axes, flips)
