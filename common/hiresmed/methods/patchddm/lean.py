"""The PatchDDM U-Net on a whole volume, exactly, in little memory.

Tiling would not be exact: GroupNorm's statistics belong to the whole volume. Here every layer passes over the volume in
slabs instead: once for the statistics, once for norm, SiLU and convolution together. A block's second convolution
overwrites the features it reads, skips are averaged in place, upsampled features exist a slab at a time, and the
stem's skip is computed again where it is needed. At 256^3 in bfloat16 3.8 GiB of tensors live, not 7.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F

from .lean_slabs import Convolved, Features, Joined, NormSiLU, Stored, convolve, empty, slabs, zero_ends
from .unet import ConvNd, Downsample, PatchDDMUNet, ResidualBlock, Upsample


@torch.no_grad()
def lean_forward(
    network: PatchDDMUNet,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    slab: int | None = None,
    offload: str | torch.device | None = None,
    threshold: int = 2**23,
) -> torch.Tensor:
    """network(x, timesteps) without gradients, equal but for rounding.

    Args:
        network: a PatchDDMUNet, as it is, in bfloat16 or under autocast.
        x: (B, C, *S), every side a multiple of network.factor.
        timesteps: (B,).
        slab: slices at a time; None: as many as half a million voxels, but at least 16. Fewer need less memory, but
            below 16 each convolution has too little to do, and torch takes its slow one for slabs of few channels and
            short columns.
        offload: where large skips wait for the decoder, such as "cpu"; None leaves them where they are.
        threshold: features of no more elements (B times channels times voxels) are computed whole, which is faster.

    Returns:
        (B, K, *S).

    Raises:
        InputError: as the network's own forward.
    """
    network.check(x)
    if slab is None:
        slab = max(16, 2**19 // math.prod(x.shape[3:]))
    return _LeanForward(network, x, slab, offload, threshold)(timesteps)


class _LeanForward:
    """One forward; its settings live here so that the layers below take only what they work on."""

    def __init__(
        self, network: PatchDDMUNet, x: torch.Tensor, slab: int, offload: str | torch.device | None, threshold: int
    ) -> None:
        self.network = network
        self.x = x
        self.slab = slab
        self.offload = offload
        self.threshold = threshold
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        self.dtype = torch.get_autocast_dtype(kind) if autocast else network.stem.weight.dtype

    def __call__(self, timesteps: torch.Tensor) -> torch.Tensor:
        network = self.network
        time = network.embed_time(timesteps)
        stem = Convolved(network.stem, self.x, self.dtype)
        skips: list[Features] = [stem if self._large(stem.shape) else Stored(_whole(stem))]
        before = skips[0]
        for step in network.encoder:
            downsample = isinstance(step, Downsample)
            h = Stored(step(_whole(before))) if downsample else self.block(cast(ResidualBlock, step), before, time)
            skips.append(self.kept(h))
            before = h
        del before  # or it would lie on the device although its skip was offloaded
        for step in network.middle:
            h = self.block(cast(ResidualBlock, step), h, time)
        for step in network.decoder:
            if isinstance(step, Upsample):
                h = self.upsample(step, h)
            else:
                h = self.block(cast(ResidualBlock, step), self.merge(h, skips.pop()), time)
        return self.head(h)

    def _large(self, shape: Sequence[int]) -> bool:
        return math.prod(shape) > self.threshold

    def _slabs(self, features: Features):
        return slabs(features.shape[2], self.slab)

    def kept(self, h: Stored) -> Stored:
        """The same features as a skip: elsewhere if they are large."""
        if self.offload is None or not self._large(h.shape):
            return h
        return Stored(h.tensor.to(self.offload), self.x.device)

    def block(self, block: ResidualBlock, features: Features, time: torch.Tensor) -> Stored:
        """A residual block in one new buffer: the first convolution fills it, the second overwrites it."""
        shape = (features.shape[0], block.conv1.weight.shape[0], *features.shape[2:])
        if not self._large(shape) and not self._large(features.shape):
            return Stored(block(_whole(features), time))
        y = empty(shape, self.x, self.dtype)
        self.first_convolution(block.norm1, block.conv1, features, y)
        # the shift by time is added within the norm, not to all of y
        activate = NormSiLU(block.norm2, Stored(y), self.slab, block.time_shift(time, y.ndim - 2).flatten(1))
        before = y[:, :, :0]
        for start, stop in self._slabs(features):
            wider = torch.cat([before, y[:, :, start : stop + 1]], 2)
            before = y[:, :, stop - 1 : stop].clone()  # the next slab's halo, before it is overwritten
            wider = zero_ends(activate(wider, self.dtype), start == 0, stop == y.shape[2])
            y[:, :, start:stop] = convolve(block.conv2, wider) + block.shortcut(features.read(start, stop))
        return Stored(y)

    def first_convolution(self, norm: torch.nn.GroupNorm, conv: ConvNd, features: Features, y: torch.Tensor):
        """y = conv(SiLU(norm(features)))."""
        activate = NormSiLU(norm, features, self.slab)
        slices = features.shape[2]
        for start, stop in self._slabs(features):
            wider = activate(features.read(max(start - 1, 0), min(stop + 1, slices)), self.dtype)
            y[:, :, start:stop] = convolve(conv, zero_ends(wider, start == 0, stop == slices))

    def merge(self, h: Stored, skip: Features) -> Features:
        """Features and skip together; averaged or added in place."""
        if self.network.skip == "concatenate":
            return Joined(h, skip)
        for start, stop in self._slabs(h) if self._large(h.shape) else [(0, h.shape[2])]:
            part = h.tensor[:, :, start:stop]
            other = skip.read(start, stop)
            part.lerp_(other, 0.5) if self.network.skip == "average" else part.add_(other)
        return h

    def upsample(self, step: Upsample, h: Stored) -> Stored:
        """Nearest + convolution, of which only a slab of the enlarged features exists."""
        shape = (*h.shape[:2], *[2 * side for side in h.shape[2:]])
        if not self._large(shape):
            return Stored(step(h.tensor))
        y = empty(shape, self.x, self.dtype)
        for start, stop in slabs(h.shape[2], max(self.slab // 2, 1)):
            first = start == 0
            last = stop == h.shape[2]
            enlarged = F.interpolate(h.tensor[:, :, max(start - 1, 0) : stop + 1], scale_factor=2.0, mode="nearest")
            # a source slice is two enlarged ones, of which the halo is one
            wider = enlarged[:, :, (0 if first else 1) : enlarged.shape[2] - (0 if last else 1)]
            y[:, :, 2 * start : 2 * stop] = convolve(step.conv, zero_ends(wider, first, last))
        return Stored(y)

    def head(self, h: Stored) -> torch.Tensor:
        if not self._large(h.shape):
            return self.network.head(h.tensor)
        norm = cast(torch.nn.GroupNorm, self.network.head[0])
        conv = cast(ConvNd, self.network.head[-1])
        y = empty((h.shape[0], conv.weight.shape[0], *h.shape[2:]), self.x, self.dtype)
        self.first_convolution(norm, conv, h, y)
        return y


def _whole(features: Features) -> torch.Tensor:
    return features.read(0, features.shape[2])
