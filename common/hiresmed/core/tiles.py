"""Boxes of voxels, and the grid of tiles that covers a volume: where each tile is, which tiles a region needs.

MONAI's iter_patch_position gives positions, but neither an absolute grid that a region shares with its volume nor one
tile shape for all tiles; both are what makes a region, a resumed and a parallel run byte-identical.

Letters: S = spatial shape of the volume, T = tile shape.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

from .errors import InputError

Box = tuple[tuple[int, int], ...]
"""One (first, one-past-last) pair of voxels per axis."""


def full_box(shape: Sequence[int]) -> Box:
    """The box of a whole volume.

    >>> full_box((4, 5))
    ((0, 4), (0, 5))
    """
    return tuple((0, n) for n in shape)


def dilate_box(box: Box, margin: int, shape: Sequence[int] | None = None) -> Box:
    """The box with `margin` voxels more on each side, clipped to the volume's shape if one is given."""
    limits = full_box(shape) if shape is not None else [(a - margin, b + margin) for a, b in box]
    return tuple((max(a - margin, lo), min(b + margin, hi)) for (a, b), (lo, hi) in zip(box, limits))


def coarsen_box(box: Box, factor: int) -> Box:
    """The coarse cells that a box touches on a grid `factor` times coarser.

    >>> coarsen_box(((3, 9),), 2)
    ((1, 5),)
    """
    return tuple((a // factor, -(-b // factor)) for a, b in box)


def refine_box(box: Box, factor: int) -> Box:
    """The fine voxels inside a box of coarse cells."""
    return tuple((a * factor, b * factor) for a, b in box)


def box_index(start: Sequence[int], shape: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Where an array whose last axes are S holds the box of `shape` voxels from `start` on.

    >>> box_index((1, 2), (1, 2))
    (Ellipsis, slice(1, 2, None), slice(2, 4, None))
    """
    return (..., *(slice(first, first + n) for first, n in zip(start, shape)))


def bounding_box(first: Box | None, second: Box) -> Box:
    """The smallest box around both."""
    if first is None:
        return second
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second))


def check_tile_size(tile_size: int | Sequence[int]) -> int | tuple[int, ...]:
    """The tile size as one positive whole number, or one per axis; InputError for anything else."""
    sizes: tuple = (tile_size,)
    if isinstance(tile_size, Sequence) and not isinstance(tile_size, str):
        sizes = tuple(tile_size)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise InputError(
            f"tile_size must be a positive number of voxels, or one per axis, got {tile_size!r}; change it."
        )
    return sizes if isinstance(tile_size, Sequence) else sizes[0]


def check_region(region: Sequence[Sequence[int]] | None, shape: Sequence[int]) -> Box:
    """The region as a box inside the volume; None: the whole volume.

    Its axes are those of the file: i, j, k of a NIfTI; columns, rows, slices of a DICOM series; the stored order of an
    OME-Zarr. Of a 2-D image they are rows and columns, whatever the file.

    Raises:
        InputError: a wrong number of axes, an empty box, or one outside the volume.
    """
    if region is None:
        return full_box(shape)
    try:
        box = tuple((operator.index(a), operator.index(b)) for a, b in region)
    except (TypeError, ValueError):
        box = ()
    if len(box) != len(shape) or any(not 0 <= a < b <= n for (a, b), n in zip(box, shape)):
        axes = {2: "rows, columns", 3: "i, j, k of the file"}.get(len(shape), f"{len(shape)} axes")
        raise InputError(
            f"region must be [first, one-past-last] for each axis ({axes}) inside {tuple(shape)} voxels, got {region}; "
            "change it."
        )
    return box


def check_size(size: Sequence[int], dims: int | None = None) -> tuple[int, ...]:
    """The output grid's shape; InputError unless it is one positive whole number per axis."""
    try:
        shape = tuple(operator.index(n) for n in size)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1 or len(shape) != (dims or len(shape)):
        axes = "each axis" if dims is None else f"each of {dims} axes"
        raise InputError(f"size must give a positive number of voxels for {axes}, got {size}; change it.")
    return shape


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one shape T that start at multiples of T and cover a volume of shape S.

    The last tile of an axis may extend beyond the volume; it is computed in full (the input is extended) and only the
    part inside is written, since kernels give the same bits only for the same tile shape.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]

    @classmethod
    def fit(cls, shape: Sequence[int], tile_size: int | Sequence[int], alignment: int = 1) -> TileGrid:
        """Grid of as few tiles as `tile_size` allows, balanced; a function of shape, tile size and lattice alone.

        T is at most `tile_size`, and as small as the same number of tiles allows, for a tile's voxels beyond the volume
        cost as much as those inside.

        >>> TileGrid.fit((512, 300, 30), 128, alignment=4).tile
        (128, 100, 32)
        """
        sizes = [tile_size] * len(shape) if isinstance(tile_size, int) else tile_size
        if len(sizes) != len(shape):
            raise InputError(f"tile_size must give {len(shape)} numbers, one per axis, got {list(sizes)}; change it.")
        tile = []
        for n, size in zip(shape, sizes):
            cells = -(-n // alignment)  # the axis in steps of the lattice
            count = -(-cells // max(1, size // alignment))
            tile.append(-(-cells // count) * alignment)
        return cls(tuple(shape), tuple(tile))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile))

    def __len__(self) -> int:
        total = 1
        for n in self.counts:
            total *= n
        return total

    def touching(self, box: Box) -> list[int]:
        """Numbers of the tiles that a box touches, in C order."""
        spans = [range(max(a // t, 0), min(-(-b // t), n)) for (a, b), t, n in zip(box, self.tile, self.counts)]
        return [self._number(index) for index in itertools.product(*spans)]

    def _number(self, index: Sequence[int]) -> int:
        number = 0
        for i, n in zip(index, self.counts):
            number = number * n + i
        return number

    def start(self, number: int) -> tuple[int, ...]:
        """First voxel of a tile."""
        index = []
        for n in reversed(self.counts):
            number, i = divmod(number, n)
            index.append(i)
        return tuple(i * t for i, t in zip(reversed(index), self.tile))

    def inside(self, number: int) -> tuple[int, ...]:
        """Shape of the part of a tile that lies in the volume."""
        return tuple(min(t, n - s) for s, t, n in zip(self.start(number), self.tile, self.shape))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))
