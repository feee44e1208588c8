"""Three ways from noise to an image along the times of a schedule, one beneath the other, to be compared.

Each takes the network's x_0 at its times and moves on in x_t (schedule.advance_: same x_0, same noise):
    DDIM        Song, Meng & Ermon 2021, arXiv:2010.02502: first order; with fresh noise as much as `eta` asks
    DPMSolver   DPM-Solver++(2M), Lu et al. 2022, arXiv:2211.01095, algorithm 2: second order by the step before
    Heun        Karras et al. 2022, arXiv:2206.00364, algorithm 1: second order by a second look at each step's end

MONAI has the first only: its DDIMScheduler (1.6) lays its times by linspace, but steps back by T // n, so that at 20
steps of 1000 all 19 transitions miss the next time, and it goes on with the noise of the unclipped x_0. Here each step
ends where the next one starts, at any number of steps, and the noise is derived again from the clipped x_0.

Letters: t, s = times before and after a step, r = sigma / alpha (noise level), lambda = -log r.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from ...core.errors import InputError
from ...core.knobs import parse_choice
from .schedule import CLEAN, NoiseSchedule, checked_range

Denoise = Callable[[Tensor, float], Tensor]
"""(x_t, t) -> the network's output, shape of x_t; it may return x_t itself or a buffer of its own."""
Noise = Callable[[int], Tensor]
"""k -> standard normal noise of x_T's shape for the k-th step, from 1 on."""


class Sampler(ABC):
    """From noise to image along the times of a spacing.

    Args:
        schedule: times, levels and the network's kind of prediction.
        spacing: see NoiseSchedule.times; None: that of the sampler's paper, but for DDIM "trailing", which starts where
            x_t is noise alone (the published one is "leading").
        clip: limits of x_0, e.g. the range of the labels; None: none.
    """

    usual_spacing: str

    def __init__(
        self, schedule: NoiseSchedule, spacing: str | None = None, clip: Sequence[float] | None = None
    ) -> None:
        self.schedule = schedule
        self.spacing = self.usual_spacing if spacing is None else spacing
        self.clip = checked_range(clip, "clip")

    def evaluations(self, steps: int) -> int:
        """How often `steps` steps call the network."""
        return len(self.schedule.times(steps, self.spacing)) - 1

    @abstractmethod
    def __call__(self, denoise: Denoise, x_T: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        """x_0, shape (B, C, *S).

        Args:
            denoise: see Denoise.
            x_T: standard normal noise (B, C, *S); overwritten.
            steps: from 1 on.
            noise: see Noise; for samplers that add some.
        """


class DDIM(Sampler):
    """First order, one evaluation a step (eq. 12 and 16). Memory: one volume of x_t's size while the network runs.

    Args:
        schedule, spacing, clip: see Sampler.
        eta: 0 is the deterministic sampler, 1 the ancestral one of Ho 2020; above 0 `noise` is needed.

    >>> import torch
    >>> image = torch.rand(1, 1, 8, 8)
    >>> sampler = DDIM(NoiseSchedule(prediction="x0"))
    >>> torch.equal(sampler(lambda x, t: image, torch.randn(1, 1, 8, 8), steps=1), image)
    True
    """

    usual_spacing = "trailing"

    def __init__(
        self,
        schedule: NoiseSchedule,
        spacing: str | None = None,
        clip: Sequence[float] | None = None,
        eta: float = 0.0,
    ) -> None:
        super().__init__(schedule, spacing, clip)
        self.eta = float(eta)
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta must lie between 0 (DDIM) and 1 (ancestral sampling), got {eta}; change it.")

    def __call__(self, denoise: Denoise, x_T: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
        if self.eta > 0 and noise is None:
            raise InputError("DDIM with eta above 0 must have fresh noise at each step, got none; give `noise`.")
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


class DPMSolver(Sampler):
    """Second order, one evaluation a step: the probability-flow equation in x_0 and lambda, with the last step's x_0.

    The first step has no history, and the last ends at infinite lambda: both are DDIM steps. Memory: two volumes of
    x_t's size while the network runs (x_t and the previous x_0).
    """

    usual_spacing = "log_snr"

    def __call__(self, denoise: Denoise, x_T: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
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


class Heun(Sampler):
    """Second order, two evaluations a step, one in the last: a predictor, which is the DDIM step, and a corrector.

    The paper's equation dy/dr = (y - x_0) / r lives in y = x / alpha; here it is written for x, so that the network's
    input needs no volume of its own. It wants 8 steps or more: at 2 and 3 the corrector overshoots in the first, huge
    steps of r (on data N(.3, .25^2) by 160 and 5, where DDIM is off by .5). Memory: two volumes of x_t's size while the
    network runs (x_t and the predicted x_s).

    >>> Heun(NoiseSchedule(prediction="x0")).evaluations(10)
    19
    """

    usual_spacing = "karras"

    def evaluations(self, steps: int) -> int:
        return 2 * super().evaluations(steps) - 1

    def __call__(self, denoise: Denoise, x_T: Tensor, steps: int, noise: Noise | None = None) -> Tensor:
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


SOLVERS: dict[str, type[Sampler]] = {"ddim": DDIM, "dpm": DPMSolver, "heun": Heun}


def build_sampler(
    solver: str,
    schedule: NoiseSchedule,
    clip: Sequence[float] | None = None,
    spacing: str | None = None,
    eta: float = 0.0,
) -> Sampler:
    """A sampler by the name that a knob gives.

    Args:
        solver: ddim, dpm (DPMSolver) or heun.
        schedule, clip, spacing: see Sampler.
        eta: fresh noise of ddim, 0 to 1; the others have none.

    Raises:
        InputError: an unknown solver or spacing.

    >>> build_sampler("heun", NoiseSchedule(prediction="x0")).evaluations(3)
    5
    """
    kind = parse_choice(SOLVERS, solver, "solver")
    return DDIM(schedule, spacing, clip, eta) if kind is DDIM else kind(schedule, spacing, clip)
