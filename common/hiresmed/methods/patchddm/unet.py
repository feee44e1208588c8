"""The denoising U-Net of PatchDDM (Bieder et al., MIDL 2023, arXiv:2303.15288).

The usual diffusion U-Net, with two changes that make 3-D fit: no attention, and skips that are averaged with the
decoder's features instead of concatenated to them, (h + skip) / 2. So features and skip must be equally wide: each
decoder block puts out the width of the skip that its successor takes, and there are no blocks of double width; at equal
memory the network can be 29 / 18 = 1.6 times wider.

Layers, w = channels * multiplier of the level, of 7 levels:
    stem        3^D convolution to w_0
    encoder     level by level num_res_blocks blocks, then (not at the last level) a strided 3^D convolution w -> w
    middle      two blocks
    decoder     from the deepest level up num_res_blocks + 1 blocks, each taking one skip (stem, blocks, strided
                convolutions in reverse), then (not at level 0) nearest + 3^D convolution
    head        norm, SiLU, 3^D convolution (zero at first)
    block       norm, SiLU, 3^D convolution, + linear(SiLU(time)), norm, SiLU, 3^D convolution (zero at first), + input
                (through a 1^D convolution where the width changes)
    time        sinusoid of `channels` values, linear to 4 * channels, SiLU, linear
Eight channels in and one out (4 MR, 3 coordinates, x_t -> noise) make the paper's 24,260,299 parameters.

MONAI's DiffusionModelUNet can only concatenate, has attention in the middle, and takes 1.7 times the time.

Letters: B = batch, C = channels in, K = channels out, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...core.errors import InputError
from .group_norm import Norm

ConvNd = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = TypeVar("Layer", bound=nn.Module)
SKIPS = ("average", "add", "concatenate")


def _zeroed(layer: Layer) -> Layer:
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class ResidualBlock(nn.Module):
    """shortcut(x) + conv(act(norm(conv(act(norm(x))) + time))): (B, in_channels, *S) -> (B, out_channels, *S)."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, time_channels: int, groups: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.norm1 = Norm(groups, in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm2 = Norm(groups, out_channels)
        self.conv2 = _zeroed(conv(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)

    def time_shift(self, time: torch.Tensor, dims: int) -> torch.Tensor:
        """What the time embedding (B, 4 channels) adds to each channel, (B, out_channels, 1, ...)."""
        return self.time(F.silu(time))[(..., *[None] * dims)]

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_shift(time, x.ndim - 2)
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class Downsample(nn.Module):
    """Strided 3^D convolution to half the grid; the time is not looked at."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour to twice the grid, then a 3^D convolution."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PatchDDMUNet(nn.Module):
    """(B, C, *S) and one timestep per image (B,) -> (B, K, *S): noise, image or velocity, as it was trained.

    Any S whose sides are multiples of 2 ** (levels - 1), 64 for the paper's seven levels: it is trained on patches and
    may be run on whole volumes (see networks.lean for how these fit).

    Runs as it is, under autocast, in bfloat16, and with memory_format=torch.channels_last_3d for network and input,
    which on a CPU is 1.3 times faster: oneDNN's convolutions read channels-last tensors as they lie, while plain ones
    are copied there and back at every layer. Every operation here hands the layout on.

    Args:
        spatial_dims: D, 1 to 3.
        in_channels: C: condition, coordinates and x_t together.
        out_channels: K.
        channels: width of the first level.
        channel_multipliers: width of each level in `channels`.
        num_res_blocks: residual blocks a level (one more in the decoder).
        norm_groups: groups of the norms, a divisor of `channels`; None means `channels`: instance norm at level 0.
        skip: "average" (the paper), "add" or "concatenate".
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again, same gradients.
        float32_norms: under AMP, norms on float32 copies as in the paper's code: a third more memory in training.

    Raises:
        InputError: an unknown skip, groups that do not divide, a grid that the levels do not divide, other channels.

    >>> network = PatchDDMUNet(2, in_channels=2, channels=8, channel_multipliers=(1, 2))
    >>> network(torch.zeros(1, 2, 8, 6), torch.tensor([999])).shape
    torch.Size([1, 1, 8, 6])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 8,
        out_channels: int = 1,
        channels: int = 29,
        channel_multipliers: Sequence[int] = (1, 3, 4, 4, 4, 4, 4),
        num_res_blocks: int = 2,
        norm_groups: int | None = None,
        skip: str = "average",
        checkpointing: bool = False,
        float32_norms: bool = False,
    ) -> None:
        super().__init__()
        groups = channels if norm_groups is None else norm_groups
        if skip not in SKIPS:
            raise InputError(f"skip must be one of {', '.join(SKIPS)}, got '{skip}'; choose one of these.")
        if groups < 1 or channels % groups:
            raise InputError(f"norm_groups must divide the {channels} channels, got {groups}; choose a divisor.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.channels = channels
        self.skip = skip
        self.checkpointing = checkpointing
        self.factor = 2 ** (len(channel_multipliers) - 1)
        conv = Conv[Conv.CONV, spatial_dims]
        self.time = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))
        self.stem = conv(in_channels, channels, 3, padding=1)

        widths = [channels * multiplier for multiplier in channel_multipliers]

        def block(wide_in: int, wide_out: int) -> ResidualBlock:
            return ResidualBlock(spatial_dims, wide_in, wide_out, 4 * channels, groups)

        encoder: list[nn.Module] = []
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                encoder.append(block(skips[-1], width))
                skips.append(width)
            if level + 1 < len(widths):
                encoder.append(Downsample(spatial_dims, width))
                skips.append(width)
        self.encoder = nn.ModuleList(encoder)
        self.middle = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))

        decoder: list[nn.Module] = []
        width = widths[-1]
        for level in reversed(range(len(widths))):
            for _ in range(num_res_blocks + 1):
                wide_in = width + skips.pop() if skip == "concatenate" else skips.pop()
                if skip == "concatenate":
                    width = widths[level]
                else:
                    width = skips[-1] if skips else channels  # as wide as the skip that the next block takes
                decoder.append(block(wide_in, width))
            if level:
                decoder.append(Upsample(spatial_dims, width))
        self.decoder = nn.ModuleList(decoder)
        self.head = nn.Sequential(Norm(groups, width), nn.SiLU(), _zeroed(conv(width, out_channels, 3, padding=1)))
        for module in self.modules():
            if isinstance(module, Norm):
                module.in_float32 = float32_norms

    def embed_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, 4 channels); the sinusoid in float32, whatever the network's dtype."""
        wave = get_timestep_embedding(timesteps, self.channels)
        return self.time(wave.to(cast(nn.Linear, self.time[0]).weight.dtype))

    def check(self, x: torch.Tensor) -> None:
        """Raises InputError if x does not suit the network."""
        shape = tuple(x.shape[2:])
        if x.shape[1] != self.in_channels:
            raise InputError(
                f"The network's input must have {self.in_channels} channels (condition, coordinates and noisy image "
                f"together), got {x.shape[1]}; change in_channels or what is concatenated."
            )
        if any(side == 0 or side % self.factor for side in shape):
            padded = tuple(max(-(-side // self.factor), 1) * self.factor for side in shape)
            raise InputError(f"Every side must be a multiple of {self.factor}, got {shape}; pad it to {padded}.")

    def merge(self, h: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Decoder features and skip together, by the network's kind of skip."""
        if self.skip == "concatenate":
            return torch.cat([h, skip], 1)
        return (h + skip) / 2 if self.skip == "average" else h + skip

    def _block(self, block: nn.Module, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, time, use_reentrant=False)  # this kind restores autocast when it recomputes
        return block(h, time)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        """timesteps None is zeros, for programs that know networks of one input."""
        self.check(x)
        if timesteps is None:
            timesteps = x.new_zeros(len(x))
        time = self.embed_time(timesteps)
        h = self.stem(x)
        skips = [h]
        for step in self.encoder:
            h = self._block(step, h, time)
            skips.append(h)
        for block in self.middle:
            h = self._block(block, h, time)
        for step in self.decoder:
            if isinstance(step, Upsample):
                h = step(h)
            else:
                h = self._block(step, self.merge(h, skips.pop()), time)
        return self.head(h)
