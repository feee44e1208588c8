"""Noise by position: a voxel's random number is a function of (seed, stream, absolute position).

So a volume, a tile of it, a region, another order of tiles, another number of processes or a resumed run all get the
same noise. The lattice is divided into cubes of BLOCK voxels; each has its own counter-based generator (Philox,
Salmon et al. 2011) keyed by seed, stream and the cube's index. Positions may be negative.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

BLOCK = 32


def _block_key(seed: int, stream: int, index: Sequence[int]) -> np.ndarray:
    """128-bit Philox key: 40 bits of seed and 24 of stream, then 21 bits for each axis of the block's index."""
    place = 0
    for i in index:
        place = (place << 21) | (i & 0x1FFFFF)
    mixed = ((seed & 0xFFFFFFFFFF) << 24) | (stream & 0xFFFFFF)
    return np.array([mixed, (len(index) << 63 | place) & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


@lru_cache(maxsize=1)
def _quantiles() -> np.ndarray:
    """The standard normal quantiles of (k + 1/2) / 2^16, float32: within 4.33, variance .99998."""
    return torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float().numpy()


def place_noise(seed: int, start: Sequence[int], shape: Sequence[int], stream: int = 0) -> np.ndarray:
    """Standard normal noise in one box of an infinite lattice.

    Sixteen random bits choose one of 65536 quantiles: 4 times faster than NumPy's standard_normal, which took a
    twentieth of a cascade's time; and NumPy promises that the stream of Philox's raw bits never changes, unlike that of
    standard_normal.

    Args:
        seed: any integer (its lowest 40 bits count).
        start: first voxel of the box, absolute, may be negative; within +-2**25 per axis.
        shape: shape S of the box in voxels, one to three axes.
        stream: which of many independent lattices (a cascade uses one per scale).

    Returns:
        float32 array of shape S, values N(0, 1), within 4.33.

    >>> whole = place_noise(7, (0, 0), (50, 70))
    >>> bool((place_noise(7, (33, 5), (9, 40)) == whole[33:42, 5:45]).all())
    True
    """
    bits = np.empty(tuple(shape), dtype=np.uint16)
    spans = [range(s // BLOCK, -(-(s + n) // BLOCK)) for s, n in zip(start, shape)]
    for index in itertools.product(*spans):
        words = np.random.Philox(key=_block_key(seed, stream, index)).random_raw(BLOCK ** len(index) // 4)
        block = words.astype("<u8", copy=False).view("<u2").reshape((BLOCK,) * len(index))
        source = []
        target = []
        for i, s, n in zip(index, start, shape):
            low = max(i * BLOCK, s)
            high = min((i + 1) * BLOCK, s + n)
            source.append(slice(low - i * BLOCK, high - i * BLOCK))
            target.append(slice(low - s, high - s))
        bits[tuple(target)] = block[tuple(source)]
    return _quantiles().take(bits)
