"""A segmentation with its uncertainty, out of an ensemble of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.memory import out_of_memory
from ...core.weights import check_output
from .inferer import DiffusionInferer

CURE = (
    "set inference to sliding and lower tile_size, set amp to true or offload to cpu, enlarge spacing, or take another "
    "device"
)


class SegmentationInferer(Inferer):
    """(B, C, *S) -> (B, 2 R, *S): for each of R regions the probability, then the variance over the draws.

    A draw is brought from `label_range` to [0, 1] (values beyond are limited after averaging); the probability is the
    draws' mean, the variance is the unbiased one.

    Args:
        diffusion: the DiffusionInferer that draws.
        label_range: what the labels 0 and 1 were in training.

    Raises:
        InputError: out of memory.
    """

    def __init__(self, diffusion: DiffusionInferer, label_range: Sequence[float] = (-1.0, 1.0)) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.low, self.high = (float(v) for v in label_range)
        if not self.low < self.high:
            raise InputError(f"label_range must be [0, 1] or [-1, 1], got {list(label_range)}; change it.")

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        with out_of_memory(CURE):
            ensemble = self.diffusion.sample(inputs, cast(nn.Module, network))
            check_output(ensemble.mean)
            size = self.high - self.low
            return torch.cat([((ensemble.mean - self.low) / size).clamp(0, 1), ensemble.variance / size**2], 1)
