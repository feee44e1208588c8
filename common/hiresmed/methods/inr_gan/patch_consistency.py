"""The patch regularisation of multi-stage training (Lee et al. 2022, arXiv:2207.01395, eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import InputError

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
NORMS = ("mean_square", "norm")


class PatchConsistency:
    """Distance of a patch, made coarser, from the same place as the stage before drew it.

    Called with (pred, target): pred (N, C, *P) of the stage in training, target (N, C, *P/r) of the frozen one before,
    at the same latents and on the r times coarser grid. Each coarse value is compared with the mean of its cell, which
    at r = 2 is bilinear resizing, too. Returns a scalar, without weight (the paper's lambda is .1, .01 for churches).

    Softer than eq. 4, which holds each coarse pixel and so keeps the finer stages from correcting it: `blocks` above 1
    holds only the means of blocks of coarse pixels, `tolerance` lets each stray so far for nothing.

    Args:
        norm: "mean_square" over all values, as the authors' program has it (the default), or "norm", eq. 4 as printed:
            the Euclidean norm of each patch's difference, mean over the batch. The latter grows with the patch.
        blocks: coarse pixels an axis whose mean is compared; 1 is eq. 4.
        tolerance: a difference up to which nothing is to be paid, in the images' [-1, 1] units; 0 is eq. 4.
    """

    name = "patch_consistency"
    needs_target = True  # a first stage has none

    def __init__(self, norm: str = "mean_square", blocks: int = 1, tolerance: float = 0.0) -> None:
        if norm not in NORMS:
            raise InputError(f"PatchConsistency's norm must be one of {', '.join(NORMS)}, got {norm!r}; change it.")
        if not (isinstance(blocks, int) and blocks >= 1 and tolerance >= 0):
            raise InputError(
                f"PatchConsistency must have blocks of 1 or more pixels and a tolerance from 0 on, got {blocks} and "
                f"{tolerance}; change them."
            )
        self.norm = norm
        self.blocks = blocks
        self.tolerance = tolerance

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        difference = coarser(pred, target.shape[2:]) - target
        if self.blocks > 1:
            difference = coarser(difference, [max(1, n // self.blocks) for n in difference.shape[2:]])
        if self.tolerance > 0:
            difference = F.softshrink(difference, self.tolerance)
        if self.norm == "mean_square":
            return difference.square().mean()
        return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean()


def coarser(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Means of the cells of (N, C, *S) on a grid of `shape`, whole voxels a cell.

    Raises:
        InputError: where the shape does not divide the image's.
    """
    fine = image.shape[2:]
    if len(fine) != len(shape) or any(n % m for n, m in zip(fine, shape)):
        raise InputError(
            f"A patch of {tuple(fine)} voxels must be a whole multiple of the coarser stage's {tuple(shape)}; "
            "choose grids and patches that double from stage to stage."
        )
    return _POOL[len(fine)](image, [n // m for n, m in zip(fine, shape)])
