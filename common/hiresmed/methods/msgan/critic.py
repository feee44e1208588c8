"""The discriminator of patch GANs (Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator


class PatchCritic(PatchDiscriminator):
    """MONAI's PatchDiscriminator, instance-normalised, returning the logits alone, and shown a stage's detail enlarged.

    (B, C, *S) -> (B, 1, *S'), one logit for each overlapping patch. MONAI's returns all its features as a list.
    Statistics over space are no harm here: a discriminator is never tiled.

    Args:
        spatial_dims, in_channels, channels, num_layers: as MONAI's.
        detail_gain: g; with g > 0 the network sees one channel more, tanh(g (image - coarse)), from the last channel of
            x and the first, both in [-1, 1]. What a finer stage adds to the coarse image is a few hundredths: without
            this the discriminator of X-rays stayed at chance (LSGAN loss .25 to .26 for 3000 steps) and the stages
            added little. At the base stage coarse is 0, and the channel tanh(g image). 0: as published.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int = 32,
        num_layers: int = 3,
        detail_gain: float = 16.0,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels + (detail_gain > 0),
            channels=channels,
            num_layers_d=num_layers,
            norm=("INSTANCE", {"affine": False}),
        )
        self.detail_gain = detail_gain

    # the logits alone: MONAI's also returns the features that lead to them
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self.detail_gain > 0:
            x = torch.cat([x, torch.tanh(self.detail_gain * (x[:, -1:] - x[:, :1]))], 1)
        return super().forward(x)[-1]
