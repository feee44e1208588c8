"""Heun's method on Karras' noise levels (Karras et al. 2022, arXiv:2206.00364, algorithm 1): second order.

MONAI has no such solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from .sampler import Sampler
from .schedule import CLEAN, NoiseSchedule


class Heun(Sampler):
    """A predictor and a corrector: two network evaluations a step, one in the last.

    The paper's equation dy/dr = (y - x_0) / r lives in y = x / alpha, with noise level r = sigma / alpha; written for x
    itself, so that the network's input needs no volume of its own. Its Euler step is then the DDIM step.

    It wants 8 steps or more: at 2 and 3 the corrector overshoots in the first, huge steps of r (on data N(.3, .25^2)
    by 160 and 5, where DDIM is off by .5).

    Memory: two volumes of x_t's size while the network runs (x_t and the predicted x_s), four in between.

    Args:
        schedule, clip: see Sampler.
        spacing: see NoiseSchedule.times; "karras" is the paper's.

    >>> import torch
    >>> image = torch.rand(1, 1, 8, 8)
    >>> sampler = Heun(NoiseSchedule(prediction="x0"))
    >>> torch.equal(sampler(lambda x, t: image, torch.randn(1, 1, 8, 8), steps=1), image)
    True
    >>> sampler.evaluations(10)
    19
    """

    def __init__(self, schedule: NoiseSchedule, spacing: str = "karras", clip: Sequence[float] | None = None) -> None:
        super().__init__(schedule, spacing, clip)

    def evaluations(self, steps: int) -> int:
        """How often `steps` steps call the network."""
        return 2 * super().evaluations(steps) - 1

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
        for t, s in pairwise(times):
            x0 = self.schedule.clean(denoise(x, t), x, t, self.clip)
            if s == CLEAN:
                return self.schedule.advance_(x, x0, t, s)
            predicted = self.schedule.advance_(x.clone(), x0, t, s)
            del x0
            x = self._correct_(x, predicted, self.schedule.clean(denoise(predicted, s), predicted, s, self.clip), t, s)
        return x

    def _correct_(self, x: Tensor, predicted: Tensor, x0: Tensor, t: float, s: float) -> Tensor:
        """x_s by the mean of both slopes: y_s = (y_t + y_p) / 2 + (r_s - r_t) / 2 * (y_p - x_0) / r_s."""
        alpha_t = self.schedule.alpha(t)
        alpha_s = self.schedule.alpha(s)
        half = float((1 - self.schedule.ratio(t) / self.schedule.ratio(s)) / 2)
        x.mul_(float(alpha_s / (2 * alpha_t)))
        return x.add_(predicted, alpha=0.5 + half).add_(x0, alpha=-half * float(alpha_s))
