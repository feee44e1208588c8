"""Slabs for the lean forward: features read a few slices at a time, wherever they are, and layers on such slices.

A slab is `start <= slice < stop` along the first spatial axis. Features are channels-last: their slabs then lie in one
piece and oneDNN reads them in place, while a slab of the plain layout has gaps, and every convolution would copy it.

Letters: B = batch, C = channels, S = spatial shape, N = slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .group_norm import pooled_moments

_LAYOUT = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class Features(Protocol):
    """Something of shape (B, C, N, ...) that hands out slabs."""

    shape: Sequence[int]

    def read(self, start: int, stop: int) -> torch.Tensor: ...


class Stored:
    """A tensor, here or on another device (offloaded): read to `device`."""

    def __init__(self, tensor: torch.Tensor, device: torch.device | None = None) -> None:
        self.tensor, self.device, self.shape = tensor, device or tensor.device, tensor.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor[:, :, start:stop].to(self.device)


class Convolved:
    """conv(x), never stored: the stem's result is the cheapest skip to compute again (2.5 % of the top level)."""

    def __init__(self, conv: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> None:
        self.conv, self.x, self.dtype = conv, x, dtype
        self.shape = (x.shape[0], conv.weight.shape[0], *x.shape[2:])

    def read(self, start: int, stop: int) -> torch.Tensor:
        slab = self.x[:, :, max(start - 1, 0) : stop + 1].to(self.dtype)
        slab = slab.contiguous(memory_format=_LAYOUT[slab.ndim])
        return convolve(self.conv, zero_ends(slab, start == 0, stop == self.shape[2]))


class Joined:
    """Features beside one another along the channels, joined slab by slab only."""

    def __init__(self, *parts: Features) -> None:
        self.parts = parts
        first = parts[0].shape
        self.shape = (first[0], sum(part.shape[1] for part in parts), *first[2:])

    def read(self, start: int, stop: int) -> torch.Tensor:
        return torch.cat([part.read(start, stop) for part in self.parts], 1)


def empty(shape: Sequence[int], like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised channels-last tensor on the device of `like`."""
    return torch.empty(tuple(shape), dtype=dtype, device=like.device, memory_format=_LAYOUT[len(shape)])


def slabs(slices: int, slab: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive slabs.

    >>> list(slabs(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, slices, slab):
        yield start, min(start + slab, slices)


def zero_ends(x: torch.Tensor, before: bool, after: bool) -> torch.Tensor:
    """One slice of zeros where the volume ends: what a padded convolution sees there, after norm and SiLU."""
    if not (before or after):
        return x
    return F.pad(x, [0, 0] * (x.ndim - 3) + [int(before), int(after)])


def convolve(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A 3^D convolution padded on all axes but the first, whose halo x brings along: two slices fewer come back."""
    return _CONV[x.ndim](x, conv.weight, conv.bias, padding=(0, *[1] * (x.ndim - 3)))


class NormSiLU:
    """GroupNorm and SiLU with the statistics of the whole `features`, for any slab of them.

    First the mean, then the mean square deviation from it, of each channel in each slab; slabs and a group's channels
    are put together by their means and deviations (Chan, Golub, LeVeque 1983), so no large squares cancel and every
    slab is read once. Computed in float32 (float64 for float64).
    """

    def __init__(self, norm: nn.GroupNorm, features: Features, slab: int) -> None:
        slices, axes = features.shape[2], tuple(range(2, len(features.shape)))
        means, variances, weights = [], [], []
        for start, stop in slabs(slices, slab):
            part = _widen(features.read(start, stop))
            mean = part.mean(axes, keepdim=True)
            means.append(mean.flatten(1))
            variances.append((part - mean).square_().mean(axes))
            weights.append((stop - start) / slices)
        weight = torch.tensor(weights, dtype=means[0].dtype, device=means[0].device)
        mean, variance = pooled_moments(torch.stack(means, -1), torch.stack(variances, -1), weight)
        grouped, per_channel = (mean.shape[0], norm.num_groups, -1), mean.shape[1] // norm.num_groups
        group_mean, group_variance = pooled_moments(mean.view(grouped), variance.view(grouped), 1 / per_channel)
        scale = _widen(norm.weight) * (group_variance + norm.eps).rsqrt().repeat_interleave(per_channel, 1)
        shift = _widen(norm.bias) - group_mean.repeat_interleave(per_channel, 1) * scale
        ones = (..., *[None] * len(axes))
        self.scale, self.shift = scale[ones], shift[ones]

    def __call__(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return F.silu(torch.addcmul(self.shift, _widen(x), self.scale), inplace=True).to(dtype)


def _widen(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype.itemsize < 4 else x
