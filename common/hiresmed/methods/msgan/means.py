"""Super-resolution that keeps what was measured: the mean of each block of the result is the input's voxel.

Letters: S = spatial shape, f = side of a block in voxels, D = spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.pyramids import level_affine
from ...core.volumes import Volume

_TAPS = 4  # of Keys' kernel


def with_block_means(
    values: np.ndarray, means: np.ndarray, factor: int, window: Sequence[float], dtype: np.dtype
) -> np.ndarray:
    """The image nearest to `values` (S) inside the window whose blocks have these means (ceil(S / f)).

    Each block is shifted; what the window cuts off, the others of the block take over. For integers the rounding is
    part of it: the sum of a block of f^D voxels is exactly f^D times its (integer) mean. Voxels beyond the image, in
    blocks that reach over its end, count as repetitions of the last ones and are dropped.

    Args:
        dtype: in which the image is stored; integers are rounded.

    Returns:
        S, of the dtype of `values`.
    """
    dims = values.ndim
    padded = np.pad(values, [(0, -n % factor) for n in values.shape], mode="edge")
    blocks = _as_blocks(padded.astype(np.float64), factor)
    low, high = window
    target = means.astype(np.float64).clip(low, high)[..., None]
    blocks = blocks.clip(low, high)
    for _ in range(blocks.shape[-1]):  # each round either ends a block or takes one more of its voxels to the limit
        lacking = target - blocks.mean(-1, keepdims=True)
        free = np.where(lacking > 0, blocks < high, blocks > low)
        share = lacking * blocks.shape[-1] / free.sum(-1, keepdims=True).clip(1)
        blocks = np.where(free, blocks + share, blocks).clip(low, high)
        if np.abs(lacking).max(initial=0) < 1e-14 * (high - low):
            break
    if np.issubdtype(dtype, np.integer):
        blocks = _rounded(blocks, np.rint(target * blocks.shape[-1]))
    return _from_blocks(blocks, factor, dims)[tuple(slice(0, n) for n in values.shape)].astype(values.dtype)


def _rounded(blocks: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Integers with these sums: rounded down, but up where the fractions are the largest."""
    down = np.floor(blocks)
    rank = (blocks - down).argsort(-1, kind="stable").argsort(-1, kind="stable")
    up = sums - down.sum(-1, keepdims=True)
    return down + (rank >= blocks.shape[-1] - up)


def _as_blocks(image: np.ndarray, factor: int) -> np.ndarray:
    """(*S) -> (*S / f, f^D)."""
    split = image.reshape([side for n in image.shape for side in (n // factor, factor)])
    order = [*range(0, split.ndim, 2), *range(1, split.ndim, 2)]
    cells = split.transpose(order)
    return cells.reshape(*cells.shape[: image.ndim], -1)


def _from_blocks(blocks: np.ndarray, factor: int, dims: int) -> np.ndarray:
    """The inverse of `_as_blocks`."""
    cells = blocks.shape[:dims]
    split = blocks.reshape(*cells, *[factor] * dims)
    order = [axis for pair in zip(range(dims), range(dims, 2 * dims)) for axis in pair]
    return split.transpose(order).reshape([n * factor for n in cells])


class EnlargedView(Volume):
    """A volume on a grid f times finer, by cubic convolution (Keys 1981); each block's mean is the voxel it comes from.

    Closer to the finer image than the cubic interpolation alone, whose blocks have other means.

    Args:
        volume: the source, spatial shape S.
        factor: f; the view's shape is f S.
        window: all values are clipped to it.
    """

    def __init__(self, volume: Volume, factor: int, window: Sequence[float]) -> None:
        self.volume = volume
        self.factor = factor
        self.window = window
        self.shape = tuple(n * factor for n in volume.shape)
        self.affine = level_affine(volume.affine, [1 / factor] * len(self.shape))
        self.dtype = volume.dtype
        self.name = volume.name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        low = [s // self.factor for s in start]
        cells = [-(-(s + n) // self.factor) - a for s, n, a in zip(start, shape, low)]
        source = self.volume.read_extended([a - _TAPS // 2 for a in low], [n + _TAPS for n in cells])
        darkest, brightest = self.window
        values = source.astype(np.float64).clip(darkest, brightest)
        means = values[tuple(slice(_TAPS // 2, _TAPS // 2 + n) for n in cells)]
        for axis, n in enumerate(cells):
            values = _cubic(values, axis, n, self.factor)
        values = with_block_means(values, means, self.factor, self.window, self.dtype)
        offset = [s - a * self.factor for s, a in zip(start, low)]
        return values[tuple(slice(o, o + n) for o, n in zip(offset, shape))].astype(self.dtype)


def _cubic(values: np.ndarray, axis: int, cells: int, factor: int) -> np.ndarray:
    """Cubic convolution along one axis: `cells` + 4 values, two of margin a side -> `cells` x factor values."""
    position = (np.arange(cells * factor) + 0.5) / factor - 0.5 + _TAPS // 2
    first = np.floor(position).astype(np.int64) - 1
    total: np.ndarray | float = 0.0
    for tap in range(_TAPS):
        weight = _keys(position - (first + tap))
        total = total + values.take(first + tap, axis) * weight.reshape(
            [-1 if a == axis else 1 for a in range(values.ndim)]
        )
    return np.asarray(total)


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2, |x| <= 2."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
