"""The generator and the critic of DCGAN and WGAN-GP for brain MR slices (Cepa, Brito and Sousa 2024, 256 x 256).

The paper's code runs its networks in inference mode while it trains: its batch statistics never move and its dropout
drops nothing. These follow `train()` and `eval()`, so both are on in training. MONAI's Generator and Discriminator
enlarge by interpolation and residual units; they are other networks.

Letters: B = batch, C = image channels, Z = latent size, N = image side in pixels, W = channels on the 4 x 4 grid,
L = channels at full size, before the last layer.
"""

from __future__ import annotations

import itertools
import math
from typing import Self

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from ...core.errors import InputError
from ...core.knobs import parse_int, parse_share
from ...training.minibatch import minibatch_deviation

NORMS = ("batch", "sync_batch", "frozen_batch", "instance", "group", "none")
GRID = 4  # pixels a side where the generator begins and the critic ends
_GROUPS = 32


class _FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its initial statistics (mean 0, variance 1) for ever, of (B, C) and (B, C, *S)."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass  # the dense units come without a spatial axis


def norm_layer(norm: str, channels: int, spatial_dims: int = 2) -> nn.Module:
    """The normalisation of that name over (B, channels, *S), always with scale and shift.

    `sync_batch` takes its statistics over all processes, on GPUs alone. `frozen_batch` never takes any, which is what
    the published DCGAN does. `group` has 32 groups, or the most that divide the channels.
    """
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}; choose one of them.")
    if norm == "none":
        return nn.Identity()
    if norm == "frozen_batch":
        return _FrozenBatchNorm(channels).eval()
    if norm == "group":
        return get_norm_layer(("group", {"num_groups": math.gcd(_GROUPS, channels)}), channels=channels)
    options = {"affine": True} if norm == "instance" else {}
    name = "syncbatch" if norm == "sync_batch" else norm
    return get_norm_layer((name, options), spatial_dims=spatial_dims, channels=channels)


def initialise(network: nn.Module, std: float = 0.02) -> None:
    """Weights of convolutions and dense layers N(0, std), biases 0 (Radford et al. 2016); norms stay at 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _doublings(size: int, width: int) -> int:
    steps = int(size).bit_length() - 1
    if size < 2 * GRID or size != 2**steps:
        raise InputError(f"size must be a power of two from {2 * GRID} on, got {size}; give 64, 128, 256 or so.")
    steps -= GRID.bit_length() - 1
    if width < 1 or width % 2 ** (steps - 1):
        raise InputError(
            f"width must be a multiple of {2 ** (steps - 1)} for images of {size} pixels, as it is halved with each "
            f"doubling, got {width}; change it."
        )
    return steps


class DcganGenerator(nn.Module):
    """Latents (B, Z), N(0, 1) -> images (B, C, N, N) in [-1, 1].

    A dense layer to 4 x 4 with its own norm; transposed convolutions (4, stride 2), each with norm, dropout and
    LeakyReLU(.2), down to L channels at full size; one more (3, stride 1), and tanh. At 256 pixels and C = L = 3 it
    has the paper's 13,324,797 parameters.

    Args:
        out_channels: C.
        size: N, a power of two.
        latent_size: Z.
        width: W, halved with each doubling of the grid.
        norm: batch, sync_batch, frozen_batch, instance, group or none. As in the paper, the batch norms see each of the
            16 W dense units apart; instance and group norm see W channels of 4 x 4.
        dropout: probability with which each value is dropped, in training alone.
        last_width: L; None: C, as in the paper. A grey image then passes through one channel, whose values of the four
            phases of the last doubling no layer can set right: a checkered noise stays.

    Raises InputError for a size, a width or a norm that it cannot have; in training, for one latent with batch norm.

    Example:
        >>> DcganGenerator(size=16, width=8)(torch.randn(2, 128)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        out_channels: int = 1,
        size: int = 256,
        latent_size: int = 128,
        width: int = 1024,
        norm: str = "batch",
        dropout: float = 0.2,
        last_width: int | None = None,
    ) -> None:
        super().__init__()
        steps = _doublings(size, width)
        out_channels = parse_int(out_channels, "channels", least=1)
        dropout = parse_share(dropout, "dropout")
        last_width = out_channels if last_width is None else parse_int(last_width, "last_width", least=1)
        self.latent_size = parse_int(latent_size, "latent_size", least=1)
        by_unit = norm in ("batch", "sync_batch", "frozen_batch")
        self.dense = nn.Linear(latent_size, width * GRID**2)
        self.dense_norm = norm_layer(norm, width * GRID**2, 1) if by_unit else nn.Identity()
        self.unflatten = nn.Unflatten(1, (width, GRID, GRID))
        self.grid_norm = nn.Identity() if by_unit else norm_layer(norm, width)
        widths = [width // 2**k for k in range(steps)] + [last_width]
        self.blocks = nn.Sequential(*[self._block(i, o, norm, dropout) for i, o in itertools.pairwise(widths)])
        self.last = nn.ConvTranspose2d(last_width, out_channels, 3, padding=1)
        initialise(self)

    @staticmethod
    def _block(inputs: int, outputs: int, norm: str, dropout: float) -> nn.Sequential:
        enlarge = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        return nn.Sequential(enlarge, norm_layer(norm, outputs), nn.Dropout(dropout), nn.LeakyReLU(0.2))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            self._check_batch(len(latents))
        x = self.grid_norm(self.unflatten(self.dense_norm(self.dense(latents))))
        return self.last(self.blocks(x)).tanh()

    @torch.jit.unused
    def _check_batch(self, size: int) -> None:
        if size == 1 and self.training and isinstance(self.dense_norm, nn.BatchNorm1d):
            raise InputError(
                "batch_size must be at least 2 in each process and micro-batch: batch norm takes the variance of each "
                "dense unit over the batch, got 1; raise batch_size, or set norm to group or instance."
            )


class DcganCritic(nn.Module):
    """Images (B, C, N, N) -> logits (B, 1), unbounded: the discriminator of DCGAN, the critic of WGAN-GP.

    Convolutions (4, stride 2) halve the grid down to 4 x 4; on the last three grids one more (3, stride 1) follows.
    All but the first have a norm, all LeakyReLU(.2). At 256 pixels and C = 3 it has the paper's 23,589,473 parameters,
    with norm batch. A gradient penalty is one of each image alone: it wants instance, group or none.

    Args:
        in_channels: C.
        size: N, a power of two.
        width: W, halved with each doubling of the grid.
        norm: batch, sync_batch, frozen_batch, instance, group or none.
        group_size: images of the batch that minibatch_deviation compares before the dense layer, so that images which
            are too much alike are told (Karras et al. 2018, section 3); 1, as in the paper: none.

    Raises InputError for a size, a width or a norm that it cannot have, and for images of another size.

    Example:
        >>> DcganCritic(size=16, width=8)(torch.randn(2, 1, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self, in_channels: int = 1, size: int = 256, width: int = 1024, norm: str = "instance", group_size: int = 1
    ) -> None:
        super().__init__()
        steps = _doublings(size, width)
        self.group_size = parse_int(group_size, "group_size", least=1)
        self.shape = (in_channels, size, size)
        widths = [in_channels] + [width // 2**k for k in reversed(range(steps))]
        layers: list[nn.Module] = []
        for k, (i, o) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(i, o, 4, stride=2, padding=1)]
            layers += [norm_layer(norm if k > 0 else "none", o), nn.LeakyReLU(0.2)]
            if k >= steps - 3:
                layers += [nn.Conv2d(o, o, 3, padding=1), norm_layer(norm, o), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.judge = nn.Linear((width + (self.group_size > 1)) * GRID**2, 1)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if tuple(images.shape[1:]) != self.shape:
            raise InputError(
                f"The critic must get images (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}; "
                "give it the size and channels of the data."
            )
        x = self.features(images)
        if self.group_size > 1:
            x = minibatch_deviation(x, self.group_size)
        return self.judge(x.flatten(1))
