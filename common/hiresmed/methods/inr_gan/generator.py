"""The generator of implicit GANs: an image is a function of place and latent, each voxel on its own.

CIPS (Anokhin et al., CVPR 2021, arXiv:2011.13775), as Lee et al. 2022 (arXiv:2207.01395) train it by patches. Other
than theirs it adds no noise and interpolates its table alike in training and use: G is a pure function of (x, z).

Letters: B = batch, D = spatial axes, S = spatial shape, N = voxels (product of S), Z = latent size, W = style size,
I, O = channels into and out of a layer, C = image channels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...core.errors import InputError
from ...core.knobs import parse_int


class EqualLinear(nn.Module):
    """Linear layer of equalised learning rate (Karras et al. 2018, 4.1): weights N(0, 1), scaled when used.

    Args:
        bias: what it starts from.
        rate: learning rate multiplier (StyleGAN: .01 in the mapping network).
    """

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), bias / rate))
        self.scale = rate / math.sqrt(in_features)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class MappingNetwork(nn.Module):
    """z (B, Z) -> style (B, W): unit mean square, then leaky linear layers (Karras et al. 2019, figure 1)."""

    def __init__(self, latent_size: int, style_size: int, num_layers: int = 8, rate: float = 0.01) -> None:
        super().__init__()
        sizes = [latent_size] + [style_size] * num_layers
        self.layers = nn.ModuleList(EqualLinear(i, o, rate=rate) for i, o in itertools.pairwise(sizes))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * math.sqrt(2)
        return x


class FourierFeatures(nn.Module):
    """Learned Fourier features sin(A x + b) of places (..., D), shape (..., features): CIPS's first layer.

    Args:
        bandwidth: A starts uniform within +- this many radians per unit of x (half the image); None is CIPS's
            sqrt(9 / D), which leaves fine detail to the table: without one, take about pi/4 times the voxels an axis,
            half the highest frequency that the grid can show.
    """

    def __init__(self, spatial_dims: int, features: int, bandwidth: float | None = None) -> None:
        super().__init__()
        reach = math.sqrt(9 / spatial_dims) if bandwidth is None else float(bandwidth)
        self.frequencies = nn.Parameter(torch.empty(spatial_dims, features).uniform_(-reach, reach))
        self.phases = nn.Parameter(torch.empty(features).uniform_(-math.pi, math.pi))

    def forward(self, places: Tensor) -> Tensor:
        with torch.autocast(places.device.type, enabled=False):  # bfloat16 angles would be off by radians
            return (places @ self.frequencies + self.phases).sin()


class CoordinateTable(nn.Module):
    """Learned coordinate embedding of fixed size: places (..., D) in [-1, 1] -> (..., features), multilinear.

    Its cells lie by the centre convention and its faces go on outside. The size is the table's own, not the image's:
    one entry a voxel costs 43 GB at 2048^2 with the optimiser's state. Not grid_sample: that needs the table once per
    image (a gradient B times its size), gives channels first and knows no 1-D.

    Args:
        size: cells along each axis.
    """

    def __init__(self, size: Sequence[int], features: int) -> None:
        super().__init__()
        self.size = tuple(size)
        self.weight = nn.Parameter(torch.randn(math.prod(self.size), features))

    def forward(self, places: Tensor) -> Tensor:
        flat = places.reshape(-1, len(self.size))
        cells = []
        shares = []
        for axis, n in enumerate(self.size):
            where = ((flat[:, axis] + 1) * (n / 2) - 0.5).clamp(0, n - 1)
            low = where.floor().clamp(max=max(n - 2, 0))
            cells.append((low.long(), (low.long() + 1).clamp(max=n - 1)))
            shares.append((1 - (where - low), where - low))
        index = []
        share = []
        for corner in itertools.product((0, 1), repeat=len(self.size)):
            number = torch.zeros_like(cells[0][0])
            part = torch.ones_like(flat[:, 0])
            for axis, side in enumerate(corner):
                number = number * self.size[axis] + cells[axis][side]
                part = part * shares[axis][side]
            index.append(number)
            share.append(part)
        weights = torch.stack(share, 1).to(self.weight.dtype)
        features = F.embedding_bag(torch.stack(index, 1), self.weight, mode="sum", per_sample_weights=weights)
        return features.reshape(*places.shape[:-1], -1)


class _Scaled(torch.autograd.Function):
    """weight (I, O) -> (B, I, O), times rows (B, I) and columns (B, O); keeps no (B, I, O) for the backward pass.

    Autograd would keep one more such product a layer, a fifteenth of all memory at 15 layers of 512 and 32 images.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(weight, rows, columns)
        return (weight * rows[:, :, None]).mul_(columns[:, None, :])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, rows, columns = ctx.saved_tensors
        weighed = gradient * weight
        by_rows = torch.bmm(weighed, columns[:, :, None])[:, :, 0]
        by_columns = torch.bmm(rows[:, None, :], weighed)[:, 0]
        by_weight = torch.mul(gradient, rows[:, :, None], out=weighed).mul_(columns[:, None, :]).sum(0)
        return by_weight, by_rows, by_columns


class ModulatedPointwise(nn.Module):
    """Modulated linear layer of StyleGAN2 (Karras et al. 2020, eq. 1 and 3): its matrices (B, I, O) for styles (B, W).

    Args:
        demodulate: bring each output channel to unit expected size.
        gain: folded into the matrix: leaky_relu(a x) = a leaky_relu(x).
    """

    def __init__(self, in_channels: int, out_channels: int, style_size: int, demodulate: bool, gain: float) -> None:
        super().__init__()
        self.style = EqualLinear(style_size, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.demodulate = demodulate
        self.gain = gain

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """(matrix (B, I, O), bias (1, 1, O)), both with the gain."""
        with torch.autocast(style.device.type, enabled=False):
            rows = self.style(style.to(self.weight.dtype)) / math.sqrt(len(self.weight))
            if self.demodulate:
                columns = self.gain * torch.rsqrt(rows.square() @ self.weight.square() + 1e-8)
            else:
                columns = self.weight.new_full((len(rows), self.weight.shape[1]), self.gain)
            bias = (self.bias * self.gain)[None, None]
            if torch.jit.is_tracing():  # a gradient of our own cannot be exported, nor is it needed there
                return self.weight * rows[:, :, None] * columns[:, None, :], bias
            return _Scaled.apply(self.weight, rows, columns), bias


@dataclass(frozen=True)
class Modulation:
    """What a latent makes of the layers; made once for each z, used for all its voxels.

    Attributes:
        layers: (matrix (B, I, O), bias (1, 1, O)) of each hidden layer.
        heads: (matrix (B, I, C), bias (1, 1, C)) of each sum-up of the image, one for every two layers after the first.
    """

    layers: list[tuple[Tensor, Tensor]]
    heads: list[tuple[Tensor, Tensor]]


class ImplicitGenerator(nn.Module):
    """Image values at places: (coordinates (B or 1, D, *S), z (B, Z)) -> (B, C, *S), in about [-1, 1].

    S may be any shape at all: a whole image, a patch, a list of places. Voxels lie one after the other in memory (pixel
    major), so that a layer is one product: twice as fast as CIPS's grouped 1x1 convolution at 64 channels. It can be
    differentiated once, so there is no path length penalty.

    Args:
        spatial_dims: D.
        out_channels: C.
        latent_size, style_size: Z, W.
        channels: of each pair of layers; a single layer of channels[0] comes before them. The paper's at 256^2.
        mapping_layers: depth of the mapping network.
        features: Fourier features; None: channels[0].
        bandwidth: see FourierFeatures.
        table_size: cells an axis of the learned coordinate embedding, a number or one per axis; None: no embedding.

    >>> generator = ImplicitGenerator(2, latent_size=8, style_size=8, channels=(16, 8), mapping_layers=2)
    >>> tuple(generator(torch.zeros(1, 2, 5, 7), torch.randn(3, 8)).shape)
    (3, 1, 5, 7)
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        out_channels: int = 1,
        latent_size: int = 512,
        style_size: int = 512,
        channels: Sequence[int] = (512, 512, 512, 512, 512, 256, 128),
        mapping_layers: int = 8,
        features: int | None = None,
        bandwidth: float | None = None,
        table_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.out_channels = parse_int(out_channels, "image_channels", least=1)
        self.latent_size = parse_int(latent_size, "latent_size", least=1)
        features = channels[0] if features is None else features
        self.mapping = MappingNetwork(latent_size, style_size, mapping_layers)
        self.fourier = FourierFeatures(spatial_dims, features, bandwidth)
        self.table = None
        if table_size is not None:
            size = [table_size] * spatial_dims if isinstance(table_size, int) else table_size
            self.table = CoordinateTable(size, features)
        widths = [channels[0], *[c for c in channels for _ in range(2)]]
        inputs = [features * (1 if self.table is None else 2), *widths[:-1]]
        gain = math.sqrt(2)
        self.layers = nn.ModuleList(ModulatedPointwise(i, o, style_size, True, gain) for i, o in zip(inputs, widths))
        self.heads = nn.ModuleList(ModulatedPointwise(c, out_channels, style_size, False, 1.0) for c in channels)

    def forward(self, coordinates: Tensor, z: Tensor | None = None) -> Tensor:
        """z None is zeros, for programs that know networks of one input."""
        if z is None:
            z = coordinates.new_zeros(len(coordinates), self.latent_size)
        return self.synthesise(coordinates, self.modulate(self.mapping(z)))

    def modulate(self, style: Tensor) -> Modulation:
        """All matrices for styles (B, W) = mapping(z)."""
        return Modulation([layer(style) for layer in self.layers], [head(style) for head in self.heads])

    def synthesise(self, coordinates: Tensor, modulation: Modulation) -> Tensor:
        """The image (B, C, *S) at coordinates (B or 1, D, *S) for what `modulate` made."""
        batch = len(modulation.layers[0][0])
        self._check(coordinates, batch)
        places = coordinates.flatten(2).transpose(1, 2)
        features = [self.fourier(places)] if self.table is None else [self.fourier(places), self.table(places)]
        matrix, bias = modulation.layers[0]
        matrices = matrix.split(matrix.shape[1] // len(features), 1)
        x = torch.bmm(features[0].expand(batch, -1, -1), matrices[0])
        if self.table is not None:  # a concatenation of the features would be kept in memory too
            x = torch.baddbmm(x, features[1].expand(batch, -1, -1), matrices[1])
        x = F.leaky_relu_(x.add_(bias), 0.2)
        image = functools.reduce(torch.add, [bias for _, bias in modulation.heads])
        for number, (matrix, bias) in enumerate(modulation.layers[1:], start=1):
            # baddbmm would first write the bias to all of x, which takes longer on a CPU
            x = F.leaky_relu_(torch.bmm(x, matrix).add_(bias), 0.2)
            if number % 2 == 0:
                image = torch.baddbmm(image, x, modulation.heads[number // 2 - 1][0])
        return image.transpose(1, 2).reshape(batch, self.out_channels, *coordinates.shape[2:])

    def _check(self, coordinates: Tensor, batch: int) -> None:
        if coordinates.ndim < 3 or coordinates.shape[1] != self.spatial_dims or len(coordinates) not in (1, batch):
            raise InputError(
                f"The generator must get coordinates of shape ({batch} or 1, {self.spatial_dims}, spatial shape), got "
                f"{tuple(coordinates.shape)}; give one channel per axis, for all latents together or for each its own."
            )
