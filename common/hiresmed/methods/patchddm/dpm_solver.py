"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, one network evaluation a step.

MONAI has no such solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from .sampler import Sampler
from .schedule import CLEAN, NoiseSchedule


class DPMSolver(Sampler):
    """Two-step solver of the probability-flow equation in x_0 and lambda = log(alpha / sigma).

    The first step has no history, and the last ends at infinite lambda: both are DDIM steps.

    Memory: two volumes of x_t's size while the network runs (x_t and the previous x_0), three to four in between.

    Args:
        schedule, clip: see Sampler.
        spacing: see NoiseSchedule.times; "log_snr" is the paper's.

    >>> import torch
    >>> image = torch.rand(1, 1, 8, 8)
    >>> sampler = DPMSolver(NoiseSchedule(prediction="x0"))
    >>> torch.equal(sampler(lambda x, t: image, torch.randn(1, 1, 8, 8), steps=1), image)
    True
    """

    def __init__(self, schedule: NoiseSchedule, spacing: str = "log_snr", clip: Sequence[float] | None = None) -> None:
        super().__init__(schedule, spacing, clip)

    def __call__(
        self,
        denoise: Callable[[Tensor, float], Tensor],
        x_T: Tensor,
        steps: int,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """x_0, shape (B, C, *S); arguments as of Sampler, `noise` is not needed."""
        x = x_T
        times = self.schedule.times(steps, self.spacing)
        before = None
        h_before = np.inf
        for t, s in pairwise(times):
            x0 = self.schedule.clean(denoise(x, t), x, t, self.clip)
            h = float(self.schedule.log_snr(s) - self.schedule.log_snr(t))
            if before is None or s == CLEAN:
                direction = x0
            else:
                weight = h / (2 * h_before)  # 1 / (2 r) in the paper
                direction = before.mul_(-weight).add_(x0, alpha=1 + weight)
            x = self.schedule.advance_(x, direction, t, s)
            before = x0
            h_before = h
            del x0, direction  # or two would lie beside the network's next pass
        return x
