"""The discriminator of patch GANs (Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator


class PatchCritic(PatchDiscriminator):
    """MONAI's PatchDiscriminator, instance-normalised, returning the logits alone.

    (B, C, *S) -> (B, 1, *S'), one logit for each overlapping patch. MONAI's returns all its features as a list.
    Statistics over space are no harm here: a discriminator is never tiled.

    Args:
        spatial_dims, in_channels, channels, num_layers: as MONAI's.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: int = 32, num_layers: int = 3) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            channels=channels,
            num_layers_d=num_layers,
            norm=("INSTANCE", {"affine": False}),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[-1]
