"""Slabs for the lean forward: features read a few slices at a time, wherever they are, and layers on such slices.

A slab is `start <= slice < stop` along the first spatial axis. Features are channels-last: their slabs then lie in one
piece and oneDNN reads them in place, while a slab of the plain layout has gaps, and every convolution would copy it.

Letters: B = batch, C = channels, S = spatial shape, N = slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .group_norm import channel_moments, group_moments, is_channels_last, pooled_moments, scaled_and_shifted
from .unet import ConvNd

_LAYOUT = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
_CONV: dict[int, Callable[..., torch.Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class Features(Protocol):
    """Something of shape (B, C, N, ...) that hands out slabs."""

    @property
    def shape(self) -> Sequence[int]: ...

    def read(self, start: int, stop: int) -> torch.Tensor: ...


class Stored:
    """A tensor, here or on another device (offloaded): read to `device`."""

    def __init__(self, tensor: torch.Tensor, device: torch.device | None = None) -> None:
        self.tensor = tensor
        self.device = device or tensor.device
        self.shape = tensor.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor[:, :, start:stop].to(self.device)


class Convolved:
    """conv(x), never stored: the stem's result is the cheapest skip to compute again (2.5 % of the top level)."""

    def __init__(self, conv: ConvNd, x: torch.Tensor, dtype: torch.dtype) -> None:
        self.conv = conv
        self.x = x
        self.dtype = dtype
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


def convolve(conv: ConvNd, x: torch.Tensor) -> torch.Tensor:
    """A 3^D convolution padded on all axes but the first, whose halo x brings along: two slices fewer come back."""
    return _CONV[x.ndim](x, conv.weight, conv.bias, padding=(0, *[1] * (x.ndim - 3)))


class NormSiLU:
    """GroupNorm and SiLU with the statistics of the whole `features`, for any slab of them.

    First the mean and the mean square deviation from it, of each channel in each slab; slabs and a group's channels are
    put together by them (Chan, Golub, LeVeque 1983), so no large squares cancel and every slab is read once. Computed
    in float32 (float64 for float64), on a CPU by the kernels of group_norm.Norm.

    Args:
        norm: whose weights and groups.
        features: to take the statistics of.
        slab: slices at a time.
        offset: (B, C) that belongs to the features but was not added to them.
    """

    def __init__(self, norm: nn.GroupNorm, features: Features, slab: int, offset: torch.Tensor | None = None) -> None:
        slices = features.shape[2]
        moments = [_channel_moments(features.read(start, stop)) for start, stop in slabs(slices, slab)]
        means, variances = (torch.stack(values, -1) for values in zip(*moments))
        shares = [(stop - start) / slices for start, stop in slabs(slices, slab)]
        mean, variance = pooled_moments(means, variances, means.new_tensor(shares))
        offset = torch.zeros_like(mean) if offset is None else offset.to(mean.dtype)
        mean, variance = group_moments(mean + offset, variance, norm.num_groups)
        self.scale = norm.weight * (variance + norm.eps).rsqrt()
        self.shift = norm.bias + (offset - mean) * self.scale

    def __call__(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        scale = self.scale.to(exact)
        shift = self.shift.to(exact)
        if _has_kernels(x):
            images = [scaled_and_shifted(*image) for image in zip(x.split(1), scale, shift)]
            normed = images[0] if len(images) == 1 else torch.cat(images)
        else:
            ones = (..., *[None] * (x.ndim - 2))
            normed = torch.addcmul(shift[ones], x.to(exact), scale[ones])
        return F.silu(normed, inplace=True).to(dtype)


def _has_kernels(x: torch.Tensor) -> bool:
    """Whether each image of a slab lies as group_norm's kernels want it; between several images there are gaps."""
    return all(is_channels_last(image) for image in x.split(1))


def _channel_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel of each image (B, C, *S): (B, C)."""
    if _has_kernels(x):
        means, variances = zip(*(channel_moments(image) for image in x.split(1)))
        return torch.stack(means), torch.stack(variances)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = tuple(range(2, x.ndim))
    mean = exact.mean(axes, keepdim=True)
    return mean.flatten(1), (exact - mean).square_().mean(axes)
