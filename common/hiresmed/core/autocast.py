"""A whole image in one pass, in bfloat16 where that is asked for and correct."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from .bfloat16 import InferencePrecision
from .knobs import parse_bool
from .memory import out_of_memory
from .weights import check_output


class AutocastInferer(Inferer):
    """network(inputs) as float32, computed under bfloat16 autocast with `amp`.

    MONAI's SimpleInferer leaves that to the evaluator, whose `amp` is float16 on CUDA and nothing on a CPU.

    Args:
        device: where the network is.
        amp: compute in bfloat16, if its results agree with float32's on this machine.

    >>> float(AutocastInferer()(torch.ones(1, 2), torch.nn.Identity()).sum())
    2.0
    """

    def __init__(self, device: torch.device | str = "cpu", amp: bool = False) -> None:
        super().__init__()
        self.precision = InferencePrecision(parse_bool(amp, "amp"), torch.device(device))

    @out_of_memory("lower batch_size, set amp to true, or choose another device")
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Inputs (B, ...) -> the network's output."""

        def example() -> Tensor:
            return network(self.precision.noise(1, *inputs.shape[1:]), *args, **kwargs)

        with self.precision.context(tuple(inputs.shape[1:]), example):
            output = network(inputs, *args, **kwargs).float()
        check_output(output)
        return output
