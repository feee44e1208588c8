"""Kernel distance ("KID" for Inception's features): unbiased at any N, so it suits small medical sets.

Letters: M, N = number of images of either side, D = feature dimension.
Binkowski et al., Demystifying MMD GANs, ICLR 2018, arXiv 1801.01401, section 4.
"""

from __future__ import annotations

import math

import torch

from ..core.errors import InputError


def cubic_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x.y / D + 1)^3 for all pairs, (M, D) and (N, D) -> (M, N)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2_unbiased(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """MMD^2_u (eq. 4 of the paper), a scalar in float64, may be negative; features (M, D), (N, D), M, N >= 2.

    Means over pairs i != j within each set, minus twice the mean over all pairs between the sets.
    """
    x = x.double()
    y = y.double()

    def within(z: torch.Tensor) -> torch.Tensor:
        k = cubic_kernel(z, z)
        return (k.sum() - k.diagonal().sum()) / (len(z) * (len(z) - 1))

    return within(x) + within(y) - 2 * cubic_kernel(x, y).mean()


def _check(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(
            f"A kernel distance must have two sets of at least two features of one dimension, got the shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}; give more images, or smaller patches."
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise InputError("A kernel distance must have finite features, got NaN or infinity; check the images.")


def kernel_distance(
    real: torch.Tensor, generated: torch.Tensor, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> dict:
    """Mean and standard error of MMD^2_u over random subsets, drawn without replacement by a seeded generator.

    Args:
        real: features (M, D).
        generated: features (N, D).
        subsets: number of subsets.
        subset_size: images of each side in a subset; default min(1000, half the smaller set), so that subsets differ.
        seed: of the subsets.

    Returns:
        dict: `value` (mean), `standard_error` (over subsets; these overlap, so for small sets it is too small),
        `n_real`, `n_generated`, `subsets`, `subset_size`, `seed`.

    Raises InputError for fewer than two features, unequal dimensions, or a subset larger than a set.
    """
    _check(real, generated)
    smaller = min(len(real), len(generated))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= size <= smaller or subsets < 1:
        raise InputError(
            f"The kernel distance must have subsets of 2 to {smaller} images (the smaller set), at least one of them, "
            f"got subset_size={size}, subsets={subsets}; lower subset_size."
        )
    # subsets of both sides, drawn on the CPU, so that every device draws the same
    random = torch.Generator().manual_seed(seed)
    real = real.detach().cpu().double()
    generated = generated.detach().cpu().double()
    values = torch.empty(subsets, dtype=torch.float64)
    for i in range(subsets):
        x = real[torch.randperm(len(real), generator=random)[:size]]
        y = generated[torch.randperm(len(generated), generator=random)[:size]]
        values[i] = mmd2_unbiased(x, y)
    return {
        "value": values.mean().item(),
        "standard_error": (values.std() / math.sqrt(subsets)).item() if subsets > 1 else None,
        "n_real": len(real),
        "n_generated": len(generated),
        "subsets": subsets,
        "subset_size": size,
        "seed": seed,
    }
