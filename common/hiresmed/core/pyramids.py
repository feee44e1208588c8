"""Levels of a pyramid: arrays written tile by tile, with a journal of finished tiles; in memory or given by a store.

The stores on disk are in io.stores; those in memory are here, since an inferer that is called with a tensor needs them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from .tiles import box_index
from .volumes import Volume


def level_affine(affine: np.ndarray, scale: Sequence[float]) -> np.ndarray:
    """Affine of a grid whose cells are `scale` voxels wide and share the first voxel's outer corner."""
    step = np.eye(4)
    for axis, s in enumerate(scale):
        step[axis, axis], step[axis, 3] = s, (s - 1) / 2
    return affine @ step


class Level(Volume):
    """One array of a pyramid: values = slope x stored numbers, with a journal of finished tiles.

    Args:
        array: zarr or NumPy array of spatial shape S.
        slope: value of one stored unit (1 for HU, 1/255 for a sketch stored as uint8).
        journal: file with one byte per tile, or None for a journal in memory.
    """

    def __init__(self, array, affine: np.ndarray, name: str, slope: float = 1.0, journal: pathlib.Path | None = None):
        self.array = array
        self.affine = affine
        self.name = name
        self.slope = slope
        self.shape = tuple(array.shape)
        self._stored = np.dtype(array.dtype)
        self.dtype = self._stored if slope == 1.0 else np.dtype(np.float32)
        self._journal_path = journal
        self._journal = bytearray()

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        values = self.array[box_index(start, shape)]
        if self.slope == 1.0 or np.issubdtype(self._stored, np.floating):
            return values
        return values * np.float32(self.slope)

    def write(self, start: Sequence[int], values: np.ndarray) -> None:
        """Stores one box; integers are rounded to the nearest stored unit and clipped to the dtype."""
        if np.issubdtype(self._stored, np.integer) and (self.slope != 1.0 or values.dtype != self._stored):
            limits = np.iinfo(self._stored)
            values = values / self.slope  # a copy, worked on in place
            np.rint(values, out=values)
            np.clip(values, limits.min, limits.max, out=values)
        self.array[box_index(start, values.shape)] = values.astype(self._stored)

    def done(self, number: int) -> bool:
        """Whether tile `number` is complete on disk; a tile is marked only after it is written."""
        if self._journal_path is not None and self._journal_path.exists():
            self._journal = bytearray(self._journal_path.read_bytes()) if not self._journal else self._journal
        return number < len(self._journal) and self._journal[number] == 1

    def mark(self, number: int) -> None:
        """Marks tile `number` as complete: one byte per tile at its own offset, so that processes do not collide."""
        self._journal.extend(b"\0" * (number + 1 - len(self._journal)))
        self._journal[number] = 1
        if self._journal_path is not None:
            handle = os.open(self._journal_path, os.O_CREAT | os.O_WRONLY)
            os.pwrite(handle, b"\1", number)
            os.close(handle)


class MemoryStores:
    """Pyramids in memory: for tensors in a notebook, under MONAI Label and in tests."""

    def __init__(self, dtype: str | None = "float32") -> None:
        self.dtype = dtype

    def stores(self, case, recipe) -> MemoryStores:
        """These serve any case."""
        return self

    def pyramid(self, name: str, shapes, scales, affine, dtype: str, slope: float, tiles) -> list[Level]:
        """Empty levels of the given shapes, in this object's dtype, so that nothing is rounded."""
        stored_dtype = np.dtype(self.dtype or dtype)
        return [
            Level(np.zeros(tuple(shape), stored_dtype), level_affine(affine, [scale] * len(shape)), name, slope)
            for shape, scale in zip(shapes, scales)
        ]

    def finish(self) -> None:
        """Does nothing: a store in memory needs no tidying."""
