"""The residual discriminator of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), for any number of axes and any shape.

Letters: B = batch, C = channels, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.tiles import check_size
from ...training.minibatch import minibatch_deviation
from .generator import EqualLinear

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class EqualConv(nn.Module):
    """Convolution k^D of equalised learning rate (Karras et al. 2018, 4.1), size kept up to the stride."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *[size] * spatial_dims))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * size**spatial_dims)

    def forward(self, x: Tensor, stride: Sequence[int] | int = 1, padding: Sequence[int] | int | None = None) -> Tensor:
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        return _CONV[x.ndim - 2](x, self.weight * self.scale, self.bias, stride, padding)


class Blur(nn.Module):
    """Low-pass [1 3 3 1] / 8 along the axes that are halved, axis by axis, zero outside."""

    def __init__(self, halved: Sequence[bool]) -> None:
        super().__init__()
        self.halved = tuple(halved)
        self.register_buffer("kernel", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, persistent=False)

    def forward(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        """Each halved axis of n voxels becomes (n + 2 padding - 4) // stride + 1 voxels."""
        dims = len(self.halved)
        channels = x.shape[1]
        for axis in [a for a in range(dims) if self.halved[a]]:
            along = [4 if a == axis else 1 for a in range(dims)]
            kernel = cast(Tensor, self.kernel).view(1, 1, *along).expand(channels, 1, *along)
            strides = [stride if a == axis else 1 for a in range(dims)]
            pads = [padding if a == axis else 0 for a in range(dims)]
            x = _CONV[dims](x, kernel, None, strides, pads, 1, channels)
        return x


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True) * math.sqrt(2)


class ResidualHalving(nn.Module):
    """(conv, blur, strided conv + blurred strided skip) / sqrt 2: the axes in `halved` get half as long (floor)."""

    def __init__(self, in_channels: int, out_channels: int, halved: Sequence[bool]) -> None:
        super().__init__()
        dims = len(halved)
        self.blur = Blur(halved)
        self.first = EqualConv(dims, in_channels, in_channels, 3)
        self.second = EqualConv(dims, in_channels, out_channels, 3)
        self.skip = EqualConv(dims, in_channels, out_channels, 1, bias=False)
        self.stride = [2 if h else 1 for h in halved]
        self.padding = [0 if h else 1 for h in halved]  # the blur has already padded the others

    def forward(self, x: Tensor) -> Tensor:
        y = self.blur(_activate(self.first(x)), padding=2)
        y = _activate(self.second(y, self.stride, self.padding))
        return (y + self.skip(self.blur(x, padding=1, stride=2))) / math.sqrt(2)


class ResidualCritic(nn.Module):
    """StyleGAN2's discriminator: images (B, C, *S) -> logits (B, 1).

    Each axis is halved until it is at most `final_size` long, so flat and oblong images end near a cube. Twice
    differentiable, as R1 needs.

    Args:
        image_size: S, one number per axis; images of another shape are refused.
        in_channels: C, with those of a condition.
        width: channels at full size; doubled at each halving. Lee et al. have 128 on their patches.
        max_width: and at most this many.
        final_size: voxels an axis that the last convolution sees. Lee's, built for 256^2 and fed 64^2, comes to 1.
        group_size: images that minibatch_deviation compares; 1 leaves it out.

    >>> critic = ResidualCritic((16, 24), width=4, max_width=8)
    >>> tuple(critic(torch.zeros(5, 1, 16, 24)).shape)
    (5, 1)
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        width: int = 128,
        max_width: int = 512,
        final_size: int = 4,
        group_size: int = 4,
    ) -> None:
        super().__init__()
        self.image_size = check_size(image_size)
        spatial_dims = len(self.image_size)
        if min(final_size, group_size, width) < 1:
            raise InputError(
                "final_size, group_size and width of ResidualCritic must be from 1 on, got "
                f"{final_size}, {group_size} and {width}; change them."
            )
        self.in_channels = in_channels
        self.group_size = group_size
        width = min(width, max_width)
        self.stem = EqualConv(spatial_dims, in_channels, width, 1)
        blocks = []
        size = list(self.image_size)
        while max(size) > final_size:
            halved = [n > final_size for n in size]
            size = [n // 2 if h else n for n, h in zip(size, halved)]
            blocks.append(ResidualHalving(width, min(2 * width, max_width), halved))
            width = min(2 * width, max_width)
        self.blocks = nn.Sequential(*blocks)
        self.last = EqualConv(spatial_dims, width + (group_size > 1), width, 3)
        self.hidden = EqualLinear(width * math.prod(size), width)
        self.logit = EqualLinear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (self.in_channels, *self.image_size):
            raise InputError(
                f"The discriminator was built for images of {(self.in_channels, *self.image_size)} (channels, voxels), "
                f"but got {tuple(x.shape[1:])}; set image_size to the patch's shape, in_channels to its channels."
            )
        x = self.blocks(_activate(self.stem(x)))
        if self.group_size > 1:
            x = minibatch_deviation(x, self.group_size)
        x = _activate(self.last(x)).flatten(1)
        return self.logit(_activate(self.hidden(x)))
