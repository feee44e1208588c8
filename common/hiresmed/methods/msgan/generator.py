"""The networks of the multi-scale patch GAN (Uzunova et al., MICCAI 2019, arXiv:1907.01376).

A base stage makes the whole image small from its sketch; each finer stage sees the previous image enlarged and the
sketch at its own scale. The paper's generators are ResNets with instance norm, whose statistics differ from tile to
tile; these have none, only valid convolutions, so a tile is exactly a crop of the whole.

Letters: B = batch, D = spatial axes, S = spatial shape, f = lattice factor, m = margin in voxels per side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.networks.layers.factories import Conv
from monai.networks.utils import pixelunshuffle
from monai.utils import convert_to_dst_type
from torch import nn

from ...core.errors import InputError
from ...core.knobs import parse_int
from ...core.views import canonical_turn
from .sketch import sketcher_of
from .stage_inputs import StageBox, stage_conditions, stage_input

_SIGNED = "signed_sketch"


def crop(x: torch.Tensor, margin: int) -> torch.Tensor:
    """Cut `margin` voxels off each side of every spatial axis of (B, C, *S)."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, margin, x.shape[axis] - 2 * margin)
    return x


def extend(x: torch.Tensor, widths: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Repeat the faces of (B, C, *S) by (before, after) voxels per axis: the endless image that tiles are cut from.

    By index, not F.pad: that refuses widths beyond the image and has no 4-D float64 kernel everywhere.
    """
    for axis, (before, after) in enumerate(widths, start=2):
        n = x.shape[axis]
        x = x.index_select(axis, torch.arange(-before, n + after, device=x.device).clamp(0, n - 1))
    return x


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))) with valid 3^D convolutions: consumes 2 voxels a side."""

    def __init__(self, spatial_dims: int, width: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.first = conv(width, width, 3)
        self.second = conv(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(F.leaky_relu(x, 0.2))
        y = self.second(F.leaky_relu(y, 0.2, inplace=True))
        return y + crop(x, 2)


class PatchGenerator(nn.Module):
    """One stage: most of the work on a lattice f times coarser, the last two layers on the voxels themselves.

    (B, C, *S) -> (B, 1, *S - 2m) with m = f (1 + 2 num_blocks) + 2 rounded up to f; S a multiple of f. With `residual`,
    channel 0 is the enlarged coarser image and the stage adds detail to it.

    Args:
        spatial_dims: D.
        in_channels: C.
        width: channels on the coarse lattice; multiples of 16 are fast.
        fine_width: channels on the voxels.
        num_blocks: residual blocks.
        factor: f; 2 for a doubling stage, 4 for a base that must see far.
        residual: add channel 0 to the output.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int = 48,
        fine_width: int = 16,
        num_blocks: int = 3,
        factor: int = 2,
        residual: bool = True,
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.in_channels = in_channels
        self.factor = factor
        self.residual = residual
        self.coarse_margin = factor * (1 + 2 * num_blocks)
        self.margin = -(-(self.coarse_margin + 2) // factor) * factor
        # 1^D first: a cell's f^D voxels are many channels, and few of them are worth a 3^D kernel of their own
        self.stem = conv(in_channels * factor**spatial_dims, width, 1)
        self.head = conv(width, width, 3)
        self.blocks = nn.Sequential(*[ResidualBlock(spatial_dims, width) for _ in range(num_blocks)])
        self.to_fine = conv(width, fine_width, 1)
        self.fine = conv(fine_width + in_channels, fine_width, 3)
        self.last = conv(fine_width, fine_width, 3)
        self.out = conv(fine_width, 1, 1)
        self._initialise()

    def _initialise(self) -> None:
        """He et al. 2015 for leaky ReLU 0.2, branches and output damped: without norms torch's default starves depth.

        On the base stage at rate 1e-3, L1 falls to .22 in 300 steps; with the default at 4e-4 it was .30 after 200.
        """
        for name, module in self.named_modules():
            if hasattr(module, "weight"):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)
                if name == "out" or name.endswith("second"):
                    module.weight.data *= 0.3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(pixelunshuffle(x, x.ndim - 2, self.factor))
        y = self.head(F.leaky_relu(y, 0.2, inplace=True))
        y = F.leaky_relu(self.blocks(y), 0.2)
        y = F.interpolate(self.to_fine(y), scale_factor=float(self.factor), mode="nearest")
        context = self.margin - 2
        y = torch.cat([crop(y, context - self.coarse_margin), crop(x, context)], 1)
        y = F.leaky_relu(self.fine(y), 0.2, inplace=True)
        y = self.out(F.leaky_relu(self.last(y), 0.2, inplace=True))
        return y + crop(x[:, :1], self.margin) if self.residual else y


class MultiScaleGenerator(nn.Module):
    """The cascade: one base stage and its doubling stages, in one module with one state dict.

    Stage 0 is the base, fed [sketch, noise, D coordinates]; stage s > 0 enlarges the image of stage s-1 and is fed
    [enlarged image, sketch, noise].

    Args:
        spatial_dims: D.
        num_stages: doubling stages with weights of their own (`weights="per_scale"`); further scales reuse the last.
        weights: "shared" (one doubling stage serves every scale, so a cascade grows without retraining) or "per_scale".
        factor: how much finer each stage is than the one before: 2, 4 or 8.
        coordinates: whether the base is told where its voxels lie.
        sketch_kind: of the sketches it is trained with: edges or signed, see sketcher_of. Weights of a network for
            signed sketches say so by an entry of their own, `signed_sketch`; others have none.
        base, stage: further arguments of PatchGenerator.
    """

    def __init__(
        self,
        spatial_dims: int,
        num_stages: int = 3,
        weights: str = "shared",
        factor: int = 2,
        coordinates: bool = True,
        sketch_kind: str = "edges",
        base: dict | None = None,
        stage: dict | None = None,
    ) -> None:
        super().__init__()
        if weights not in ("shared", "per_scale"):
            raise InputError(f"weights must be shared or per_scale, got {weights!r}; choose one of the two.")
        self.spatial_dims = spatial_dims
        self.factor = factor = parse_int(factor, "factor", least=2)
        self.coordinates = coordinates
        self.num_stages = num_stages
        self.sketch_kind = sketch_kind
        self.empty = sketcher_of(sketch_kind).empty
        if sketch_kind == "signed":
            self.register_buffer(_SIGNED, torch.ones((), dtype=torch.uint8))
        base_channels = 2 + (spatial_dims if coordinates else 0)
        self.base = PatchGenerator(spatial_dims, base_channels, residual=False, **{"factor": 4, **(base or {})})
        copies = 1 if weights == "shared" else num_stages
        stage = {"factor": factor, **(stage or {})}
        self.stages = nn.ModuleList(PatchGenerator(spatial_dims, 3, **stage) for _ in range(copies))

    def stage(self, number: int) -> PatchGenerator:
        """The network of stage `number`: 0 the base, 1 the first doubling."""
        return self.base if number == 0 else cast(PatchGenerator, self.stages[min(number, len(self.stages)) - 1])

    def check_weights(self, names: Iterable[str]) -> None:
        """Refuses the weights (names of a state_dict) of a network trained with the other kind of sketches.

        Raises:
            InputError: they are.
        """
        kind = "signed" if _SIGNED in names else "edges"
        if kind != self.sketch_kind:
            raise InputError(
                f"sketch_kind must be what the weights were trained with, {kind}, got {self.sketch_kind}; set "
                f"--sketch_kind {kind}, or give other weights."
            )

    def forward(self, image: torch.Tensor, stage: int = -1) -> torch.Tensor:
        """One stage on its prepared input, or (stage -1) the whole cascade from a sketch, untiled and without noise.

        Args:
            image: stage input (B, C, *S); for the cascade a sketch (B, 1, *S) in [0, 1]. A MetaTensor's affine says
                where its axes run in the patient; the axes of a plain tensor are taken as RAS+.

        Returns:
            (B, 1, *S - 2m) for a stage, (B, 1, *S) for the cascade: the image in [-1, 1].
        """
        if stage >= 0:
            return self.stage(stage)(image)
        if not isinstance(image, MetaTensor):
            return self._cascade(image)
        images = []
        for item in image:  # each may be stored in another order
            upright, axes, flipped = _upright(item)
            images.append(_stored(self._cascade(upright[None])[0], axes, flipped))
        return convert_to_dst_type(torch.stack(images), image)[0]

    def _cascade(self, sketch: torch.Tensor) -> torch.Tensor:
        """(B, 1, *S) sketches on RAS+ axes -> images, stage by stage."""
        sketches = [sketch]
        for _ in range(self.num_stages):
            sketches.append(coarser_sketch(sketches[-1], self.factor, self.empty))
        result = sketches[-1]
        for number in range(self.num_stages + 1):
            result = self._untiled(number, sketches[-1 - number], result)
        return result

    def _untiled(self, number: int, sketch: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
        """One stage over the whole image: extended by its faces, as the tiles of a streamed run are."""
        network = self.stage(number)
        size = sketch.shape[2:]
        start = [-network.margin] * len(size)
        shape = [n + 2 * network.margin + -n % network.factor for n in size]
        conditions = []
        box = StageBox(number, start, shape, size, np.eye(4))
        for index in range(len(sketch)):
            outer = _read_extended(sketch[index], start, shape)
            read_coarser = partial(_read_extended, coarser[index])
            silence = torch.zeros_like(outer)
            conditions.append(
                stage_conditions(box, outer, silence, read_coarser, self.factor, self.coordinates, sketch.dtype)
            )
        batch = {name: torch.stack([item[name] for item in conditions]) for name in conditions[0]}
        image = network(stage_input(batch, self.factor, start))
        return image[(..., *[slice(0, n) for n in size])].clamp(-1, 1)


def _upright(item: MetaTensor) -> tuple[torch.Tensor, list[int], list[int]]:
    """(1, *S) with its spatial axes in RAS+ order, and the axes and flips with which `_stored` undoes that."""
    axes = list(range(1, item.ndim))
    flipped: list[int] = []
    if item.ndim == 4:
        turn, flips = canonical_turn(np.asarray(item.affine))
        axes = [1 + axis for axis in turn]
        flipped = [1 + axis for axis, flip in enumerate(flips) if flip]
    return item.as_tensor().permute(0, *axes).flip(flipped), axes, flipped


def _stored(item: torch.Tensor, axes: list[int], flipped: list[int]) -> torch.Tensor:
    """The inverse of `_upright`."""
    return item.flip(flipped).permute(0, *(1 + axes.index(axis) for axis in range(1, item.ndim)))


def _read_extended(image: torch.Tensor, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """A box of (1, *S) that may reach beyond it: Volume.read_extended of a tensor, so that gradients pass."""
    return extend(image[None], [(-s, s + n - m) for s, n, m in zip(start, shape, image.shape[1:])])[0]


def coarser_sketch(sketch: torch.Tensor, factor: int, empty: float = 0.0) -> torch.Tensor:
    """Sketch on a grid `factor` times coarser, sizes rounded up: each cell's strongest value, for thin edges.

    (B, 1, *S) -> (B, 1, *ceil(S / factor)), values in [0, 1]; the strongest is the furthest from `empty`, and of two
    equally far ones the greater.
    """
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[sketch.ndim - 2]
    most = pool(sketch, factor, ceil_mode=True)
    if empty == 0:
        return most
    least = -pool(-sketch, factor, ceil_mode=True)
    return torch.where(most - empty >= empty - least, most, least)
