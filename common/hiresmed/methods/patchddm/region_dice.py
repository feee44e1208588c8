"""Dice loss for regions in a diffusion's range of labels: what segmentation networks are usually trained with."""

from __future__ import annotations

from collections.abc import Sequence

from monai.losses import DiceLoss
from torch import Tensor, nn


class RegionDiceLoss(nn.Module):
    """1 - Dice of (B, R, *S) within `label_range` (MONAI's DiceLoss takes [0, 1] or logits alone), mean over regions.

    Args:
        label_range: what the labels 0 and 1 became.

    >>> import torch
    >>> same = torch.tensor([-1.0, 1, 1]).view(1, 1, 3)
    >>> RegionDiceLoss()(same, same).item() < 1e-4
    True
    """

    def __init__(self, label_range: Sequence[float] = (-1.0, 1.0)) -> None:
        super().__init__()
        self.low, self.high = (float(v) for v in label_range)
        self.dice = DiceLoss(batch=True)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        prediction, truth = ((v - self.low) / (self.high - self.low) for v in (output, target))
        return self.dice(prediction.clamp(0, 1), truth)
