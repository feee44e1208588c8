"""An image whose masked voxels are filled in from around: what inpainting draws its sketch and coarse levels from.

Pull-push (Gortler et al. 1996, The lumigraph): coarser levels are means of the known voxels; from the coarsest on, what
a cell lacks is taken from the enlarged level above it. Nothing under the mask is read.

Letters: S = spatial shape, P = side of the blocks whose means are held in memory, in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ...core.tiles import box_index
from ...core.volumes import Volume, iter_boxes
from .conditions import mean_pool
from .generator import crop
from .stage_inputs import enlarge

_ENOUGH = 4  # a cell of which one part in so many is known has a mean of its own


class FilledView(Volume):
    """The image where the mask is 0, elsewhere a smooth continuation of it; the same whatever box is read.

    The means of blocks of P voxels a side are made at the first reading that meets the mask, in one pass over image and
    mask, and held: at most `held` blocks an axis. A reading takes P voxels more on each side.

    Args:
        image: S.
        mask: S, on the same grid; not 0 where the image is to be filled.
        nothing: the value where all is masked.
        held: blocks an axis at most.
    """

    def __init__(self, image: Volume, mask: Volume, nothing: float, held: int = 64) -> None:
        self.image = image
        self.mask = mask
        self.nothing = nothing
        self.halvings = max(0, math.ceil(math.log2(max(image.shape) / held)))
        self.block = 2**self.halvings
        self.shape = image.shape
        self.affine = image.affine
        self.dtype = image.dtype if np.issubdtype(image.dtype, np.floating) else np.dtype(np.float32)
        self.name = image.name
        self._blocks: torch.Tensor | None = None

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        hidden = self.mask.read(start, shape) > 0
        image = self.image.read(start, shape).astype(self.dtype, copy=False)
        if not hidden.any():
            return image
        low = [s // self.block - 1 for s in start]
        high = [-(-(s + n) // self.block) + 1 for s, n in zip(start, shape)]
        known = self._known([a * self.block for a in low], [(b - a) * self.block for a, b in zip(low, high)])
        blocks = self._held()
        for axis, (a, b) in enumerate(zip(low, high), start=2):
            at = torch.arange(a - 1, b + 1).clamp(0, blocks.shape[axis] - 1)
            blocks = blocks.index_select(axis, at)
        filled = _push(known, self.halvings, blocks)
        offset = [s - a * self.block for s, a in zip(start, low)]
        inner = filled[0, 0][tuple(slice(o, o + n) for o, n in zip(offset, shape))].numpy()
        return np.where(hidden, inner.astype(self.dtype), image)

    def _known(self, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """(1, 3, *shape) float64: the image, where it is known, and where there is any; 0 elsewhere."""
        known = np.zeros((3, *shape))
        low = [max(0, s) for s in start]
        high = [min(s + m, n) for s, m, n in zip(start, shape, self.shape)]
        size = [b - a for a, b in zip(low, high)]
        place = box_index([a - s for a, s in zip(low, start)], size)
        visible = self.mask.read(low, size) == 0
        known[0][place] = np.where(visible, self.image.read(low, size), 0)
        known[1][place] = visible
        known[2][place] = 1
        return torch.from_numpy(known)[None]

    def _held(self) -> torch.Tensor:
        """(1, 1, *ceil(S / P)) float64: the filled means of all blocks."""
        if self._blocks is None:
            blocks = torch.zeros(1, 3, *(-(-n // self.block) for n in self.shape), dtype=torch.float64)
            for start, shape in iter_boxes(self.shape, max(1, 128 // self.block) * self.block):
                cells = [-(-n // self.block) for n in shape]
                part = mean_pool(self._known(start, [n * self.block for n in cells]), self.block)
                blocks[box_index([s // self.block for s in start], cells)] = part
            halvings = math.ceil(math.log2(max(blocks.shape[2:]))) + 1
            whole = F.pad(blocks, _up_to_multiple(blocks.shape[2:], 2**halvings))
            top = torch.full((1, 1, *[3] * len(self.shape)), self.nothing, dtype=torch.float64)
            filled = _push(whole, halvings, top)
            self._blocks = filled[box_index([0] * len(self.shape), blocks.shape[2:])]
        return self._blocks


def _push(finest: torch.Tensor, halvings: int, coarser: torch.Tensor) -> torch.Tensor:
    """Fills `finest` (1, 3, *n 2^halvings), see FilledView._known, from `coarser` (1, 1, *n + 2): one cell of margin.

    At each level a cell is its own mean where a quarter of it is known; where less is, the rest comes from above.
    Without a margin of their own the outer cells of the finer levels are wrong, altogether less than 2^halvings voxels.
    """
    levels = [finest]
    for _ in range(halvings):
        levels.append(mean_pool(levels[-1], 2))
    filled = crop(coarser, 1) if halvings == 0 else coarser
    for number, level in enumerate(reversed(levels[:-1])):
        filled = enlarge(filled, 2)
        if number == 0:
            filled = crop(filled, 2)
        value, known, there = level.split(1, 1)
        share = (_ENOUGH * known / there.clamp_min(1e-12)).clamp(max=1)
        filled = share * value / known.clamp_min(1e-12) + (1 - share) * filled
    return filled


def _up_to_multiple(shape: Sequence[int], step: int) -> list[int]:
    """F.pad's widths behind each axis."""
    return [width for n in reversed(shape) for width in (0, -n % step)]
