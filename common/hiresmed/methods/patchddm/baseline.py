"""A segmentation network in a diffusion network's place, to be trained and measured by the same configs."""

from __future__ import annotations

import torch
from torch import nn


class ImageOnly(nn.Module):
    """network(x without x_t), whatever the time, with tanh: (B, C + K, *S), (B,) -> (B, K, *S) in [-1, 1].

    With a schedule that predicts x0, one step of DDIM is then this network's own segmentation: the peer (SegResNet,
    say) gets the diffusion's data, trainer, inferers and scores.

    Args:
        network: C channels in, K out (logits).
        label_channels: K, how many channels of x_t to leave out.

    >>> ImageOnly(nn.Conv2d(3, 1, 1))(torch.zeros(1, 4, 8, 8), torch.zeros(1)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(self, network: nn.Module, label_channels: int = 1) -> None:
        super().__init__()
        self.network = network
        self.label_channels = label_channels

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.network(x[:, : -self.label_channels]) / 2)
