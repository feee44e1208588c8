"""DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502): first order, one network evaluation a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from ...core.errors import InputError
from .sampler import Sampler
from .schedule import NoiseSchedule


class DDIM(Sampler):
    """From noise to image along the times of a spacing, with as much fresh noise as `eta` asks (eq. 12 and 16).

    MONAI 1.6's DDIMScheduler lays its times by linspace, but steps back by T // n: at 20 steps of 1000 all 19
    transitions miss the next time. It also goes on with the noise of the unclipped x_0. Here each step ends where the
    next one starts, at any number of steps, and the noise is derived again from the clipped x_0.

    Memory: one volume of x_t's size while the network runs, three in between.

    Args:
        schedule, clip: see Sampler.
        spacing: see NoiseSchedule.times; "leading" is the published one.
        eta: 0 is the deterministic sampler, 1 the ancestral one of Ho 2020.

    >>> import torch
    >>> image = torch.rand(1, 1, 8, 8)
    >>> sampler = DDIM(NoiseSchedule(prediction="x0"))
    >>> torch.equal(sampler(lambda x, t: image, torch.randn(1, 1, 8, 8), steps=1), image)
    True
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        spacing: str = "trailing",
        clip: Sequence[float] | None = None,
        eta: float = 0.0,
    ) -> None:
        super().__init__(schedule, spacing, clip)
        self.eta = float(eta)
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta should lie between 0 (DDIM) and 1 (ancestral sampling), but is {eta}; change it.")

    def __call__(
        self,
        denoise: Callable[[Tensor, float], Tensor],
        x_T: Tensor,
        steps: int,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """x_0, shape (B, C, *S); arguments as of Sampler, `noise` is needed where eta > 0."""
        if self.eta > 0 and noise is None:
            raise InputError("DDIM with eta above 0 needs fresh noise at each step, but none came; give `noise`.")
        x = x_T
        times = self.schedule.times(steps, self.spacing)
        for k, (t, s) in enumerate(pairwise(times), start=1):
            x0 = self.schedule.clean(denoise(x, t), x, t, self.clip)
            fresh = self._fresh(t, s)
            x = self.schedule.advance_(x, x0, t, s, fresh)
            del x0  # or it would lie beside the network's next pass
            if fresh > 0 and noise is not None:
                x.add_(noise(k), alpha=fresh)
        return x

    def _fresh(self, t: float, s: float) -> float:
        """Standard deviation of the fresh noise from t to s: eq. 16."""
        beta = -np.expm1(self.schedule.log_alpha_bar(t) - self.schedule.log_alpha_bar(s))
        return float(self.eta * self.schedule.sigma(s) / self.schedule.sigma(t) * np.sqrt(beta))
