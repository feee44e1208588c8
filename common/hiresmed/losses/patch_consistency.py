"""The patch regularisation of multi-stage training (Lee et al. 2022, arXiv:2207.01395, eq. 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
NORMS = ("mean_square", "norm")


class PatchConsistency:
    """Distance of a patch, made coarser, from the same place as the stage before drew it.

    Called with (pred, target): pred (N, C, *P) of the stage in training, target (N, C, *P/r) of the frozen one before,
    at the same latents and on the r times coarser grid. Each coarse value is compared with the mean of its cell, which
    at r = 2 is bilinear resizing, too. Returns a scalar, without weight (the paper's lambda is .1, .01 for churches).

    Args:
        norm: "mean_square" over all values, as the authors' program has it (the default), or "norm", eq. 4 as printed:
            the Euclidean norm of each patch's difference, mean over the batch. The latter grows with the patch.
    """

    name = "patch_consistency"

    def __init__(self, norm: str = "mean_square") -> None:
        if norm not in NORMS:
            raise InputError(
                f"PatchConsistency's norm should be one of {', '.join(NORMS)}, but is {norm!r}; change it."
            )
        self.norm = norm

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        difference = coarser(pred, target.shape[2:]) - target
        if self.norm == "mean_square":
            return difference.square().mean()
        return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean()


def coarser(image: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Means of the cells of (N, C, *S) on a grid of `shape`, whole voxels a cell.

    Raises:
        InputError: where the shape does not divide the image's.
    """
    fine = image.shape[2:]
    if len(fine) != len(shape) or any(n % m for n, m in zip(fine, shape)):
        raise InputError(
            f"A patch of {tuple(fine)} voxels should be a whole multiple of the coarser stage's {tuple(shape)}; "
            "choose grids and patches that double from stage to stage."
        )
    return _POOL[len(fine)](image, [n // m for n, m in zip(fine, shape)])
