"""Kernel distance ("KID" for Inception's features): unbiased at any N, so it suits small medical sets.

Letters: M, N = number of images of either side, D = feature dimension, G = number of groups.
Binkowski et al., Demystifying MMD GANs, ICLR 2018, arXiv 1801.01401, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch

from ..core.errors import InputError


def cubic_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x.y / D + 1)^3 for all pairs, (M, D) and (N, D) -> (M, N)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


_ROWS = 1024  # of a table of kernel values in memory at a time


def _check(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(
            f"A kernel distance must have two sets of at least two features of one dimension, got the shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}; give more images, or smaller patches."
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise InputError("A kernel distance must have finite features, got NaN or infinity; check the images.")


def kernel_distance(
    real: torch.Tensor,
    generated: torch.Tensor,
    real_groups: Sequence[Hashable] | None = None,
    generated_groups: Sequence[Hashable] | None = None,
) -> dict:
    """MMD^2_u (eq. 4) of all images, and its standard error by a jackknife over independent groups of them.

    The mean over random subsets, as KID is usually given, estimates the same value; but its spread over subsets that
    share their images is several times too small, so each group is left out in turn instead (Arvesen 1969).

    Args:
        real: features (M, D).
        generated: features (N, D).
        real_groups: of each real image its patient, say, for slices of one patient are not independent; None: each
            image is a group of its own.
        generated_groups: the same of each generated image.

    Returns:
        dict: `value`, may be negative; `standard_error`, None where a side has one group, for images of one patient say
        nothing about other patients; `n_real`, `n_generated`, `groups_real`, `groups_generated` (their numbers).

    Raises:
        InputError: fewer than two features of a side, unequal dimensions, or features that are not finite.
    """
    _check(real, generated)
    x = real.detach().cpu().double()
    y = generated.detach().cpu().double()
    groups_x = _group_numbers(real_groups, len(x))
    groups_y = _group_numbers(generated_groups, len(y))
    within_x = _WithinSet(x, groups_x)
    within_y = _WithinSet(y, groups_y)
    between_x, between_y = _between_sets(x, y, groups_x, groups_y)
    between = between_x.sum()
    value = within_x.mean + within_y.mean - 2 * between / (len(x) * len(y))
    without_x = within_x.means_without + within_y.mean - 2 * (between - between_x) / (within_x.left * len(y))
    without_y = within_x.mean + within_y.means_without - 2 * (between - between_y) / (len(x) * within_y.left)
    variance = _jackknife_variance(without_x) + _jackknife_variance(without_y)
    return {
        "value": value.item(),
        "standard_error": math.sqrt(variance) if math.isfinite(variance) else None,
        "n_real": len(x),
        "n_generated": len(y),
        "groups_real": len(without_x),
        "groups_generated": len(without_y),
    }


def _group_numbers(groups: Sequence[Hashable] | None, n: int) -> torch.Tensor:
    """(n,): the number of each image's group, from 0 on."""
    if groups is None:
        return torch.arange(n)
    if len(groups) != n:
        raise InputError(f"groups must name one group for each of {n} images, got {len(groups)} names; give as many.")
    numbers = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([numbers[group] for group in groups])


class _WithinSet:
    """Mean kernel value over pairs i != j of a set (M, D), and that mean without each of its groups.

    Attributes:
        mean: a scalar.
        means_without: (G,).
        left: (G,), the number of images without each group.
    """

    def __init__(self, x: torch.Tensor, groups: torch.Tensor) -> None:
        counts = torch.bincount(groups).double()
        sums = torch.zeros_like(counts)  # of the pairs that begin in a group
        own = torch.zeros_like(counts)  # of those that also end in it
        for first in range(0, len(x), _ROWS):
            rows = slice(first, first + _ROWS)
            k = cubic_kernel(x[rows], x)
            k[torch.arange(len(k)), torch.arange(first, first + len(k))] = 0
            sums.index_add_(0, groups[rows], k.sum(1))
            own.index_add_(0, groups[rows], (k * (groups[rows, None] == groups)).sum(1))
        self.mean = sums.sum() / (len(x) * (len(x) - 1))
        self.left = len(x) - counts
        self.means_without = (sums.sum() - 2 * sums + own) / (self.left * (self.left - 1))


def _between_sets(
    x: torch.Tensor, y: torch.Tensor, groups_x: torch.Tensor, groups_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the kernel values between two sets, of each group of the first set and of each of the second."""
    sums_x = torch.zeros(len(groups_x.unique()), dtype=torch.float64)
    sums_y = torch.zeros(len(groups_y.unique()), dtype=torch.float64)
    for first in range(0, len(x), _ROWS):
        rows = slice(first, first + _ROWS)
        k = cubic_kernel(x[rows], y)
        sums_x.index_add_(0, groups_x[rows], k.sum(1))
        sums_y.index_add_(0, groups_y, k.sum(0))
    return sums_x, sums_y


def _jackknife_variance(values: torch.Tensor) -> float:
    """Variance of a figure from its values (G,) without each group; NaN for one group."""
    return ((len(values) - 1) * values.var(correction=0)).item() if len(values) > 1 else math.nan
