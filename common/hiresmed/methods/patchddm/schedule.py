"""How much noise at which time, what a network predicts, and at which times a sampler asks it.

MONAI's Scheduler builds its schedules in float32 and at whole times only; second-order solvers need times in between,
and their convergence is tested to 1e-12.

Letters: B = batch, C = channels, S = spatial shape, T = training steps, t = time, x_0 = clean image, eps = noise,
    x_t = alpha_t x_0 + sigma_t eps,  alpha_t = sqrt(alpha_bar_t),  sigma_t = sqrt(1 - alpha_bar_t)  (Ho 2020, eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.knobs import parse_int

PREDICTIONS = ("eps", "v", "x0")
SPACINGS = ("trailing", "leading", "linspace", "log_snr", "karras")
CLEAN = -1.0
"""The time without noise: alpha_bar = 1. Time 0 is the first noised one, T - 1 the last."""
RHO = 7.0  # Karras 2022, table 1
BETAS = (1e-4, 0.02)  # the first and the last, linear between them (Ho 2020)


class NoiseSchedule:
    """A variance-preserving diffusion, and what its network predicts; one object for the training and the sampler.

    alpha_bar is a table in float64 at whole times 0 .. T-1; between them, and down to CLEAN, log alpha_bar is linear
    in time, which is the continuous process of Song 2021 (eq. 11) with a beta constant from one time to the next.

    Args:
        steps: T.
        prediction: what the network returns: "eps" (MONAI's "epsilon"; Ho 2020), "x0" ("sample"), or
            "v" ("v_prediction"), v = alpha eps - sigma x_0 (Salimans & Ho 2022, app. D).
        first: the time at which samplers begin, with noise alone; None: T - 1. An earlier one suits eps: an error of
            the noise weighs sigma / alpha times as much in x_0, 157 times at 999 of the linear kind, 12 times at 699,
            where still less than a hundredth of x_t's variance would be the image's.

    Raises:
        InputError: an unknown prediction, a first time that is none.

    >>> schedule = NoiseSchedule(prediction="v")
    >>> x0, eps = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    >>> t = torch.tensor([10, 900])
    >>> found = schedule.split(schedule.target(x0, eps, t), schedule.noised(x0, eps, t), t)
    >>> bool(torch.allclose(found[0], x0, atol=1e-5)), bool(torch.allclose(found[1], eps, atol=1e-5))
    (True, True)
    """

    def __init__(self, steps: int = 1000, prediction: str = "eps", first: int | None = None) -> None:
        self.prediction = _one_of(prediction, PREDICTIONS, "prediction")
        self.steps = parse_int(steps, "steps", 1)
        self.first = self.steps - 1 if first is None else parse_int(first, "first")
        if self.first >= self.steps:
            raise InputError(f"first must be a time below the {self.steps} of the training, got {first}; lower it.")
        self.betas = np.linspace(*BETAS, self.steps)
        self._times = np.arange(CLEAN, self.steps)
        self._log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas))])

    def log_alpha_bar(self, t):
        """log alpha_bar at times t (a number or an array, whole or not, CLEAN .. T-1), in float64."""
        return np.interp(t, self._times, self._log_alpha_bar)

    def alpha(self, t):
        """What is left of the image: sqrt(alpha_bar)."""
        return np.exp(self.log_alpha_bar(t) / 2)

    def sigma(self, t):
        """Standard deviation of the noise in x_t: sqrt(1 - alpha_bar), without cancellation near CLEAN."""
        return np.sqrt(-np.expm1(self.log_alpha_bar(t)))

    def ratio(self, t):
        """sigma / alpha: the noise level of Karras 2022, in units of the image."""
        return np.sqrt(np.expm1(-self.log_alpha_bar(t)))

    def log_snr(self, t):
        """lambda = log(alpha / sigma) of Lu 2022; infinite at CLEAN."""
        with np.errstate(divide="ignore"):
            return -np.log(self.ratio(t))

    def time_of(self, ratio):
        """The time at which sigma / alpha has this value, clipped to CLEAN .. T-1: the inverse of `ratio`."""
        return np.interp(-np.log1p(np.square(ratio)), self._log_alpha_bar[::-1], self._times[::-1])

    def times(self, steps: int, spacing: str = "trailing") -> list[float]:
        """The n = `steps` falling times at which a sampler asks, and CLEAN at the end: n + 1 numbers.

        trailing   T-1 first, then every T/n-th time (Lin 2024, table 2): starts where x_t is noise alone, for any n
        leading    0, T/n, 2T/n ... rounded down (Song 2021, the published DDIM); starts below T-1
        linspace   T-1 .. 0, both included, rounded
        log_snr    not rounded: log(alpha / sigma) in equal steps from T-1 to 0 (Lu 2022)
        karras     not rounded: (sigma / alpha)^(1/7) in equal steps from T-1 to 0 (Karras 2022, eq. 5)

        T is `first` + 1 here.

        >>> NoiseSchedule().times(4), NoiseSchedule().times(4, "leading")
        ([999.0, 749.0, 499.0, 249.0, -1.0], [750.0, 500.0, 250.0, 0.0, -1.0])
        """
        n = parse_int(steps, "steps", 1)
        T = self.first + 1
        if _one_of(spacing, SPACINGS, "spacing") in ("trailing", "leading", "linspace") and n > T:
            raise InputError(f"steps must be at most the {T} times up to the first one for {spacing} spacing, got {n}.")
        if spacing == "trailing":
            times = np.floor(T - np.arange(n) * T / n + 0.5) - 1
        elif spacing == "leading":
            times = np.floor(np.arange(n)[::-1] * T / n)
        elif spacing == "linspace":
            times = np.floor(np.linspace(T - 1, 0, n) + 0.5)
        elif spacing == "log_snr":
            times = self.time_of(np.exp(-np.linspace(self.log_snr(T - 1), self.log_snr(0), n)))
        else:
            times = self.time_of(np.linspace(self.ratio(T - 1) ** (1 / RHO), self.ratio(0) ** (1 / RHO), n) ** RHO)
        return [*map(float, times.clip(0, T - 1)), CLEAN]

    def noised(self, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
        """x_t, shape (B, C, *S); t is one time, or (B,) times."""
        alpha, sigma = self._levels(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
        """What the network should return for x_t: eps, x_0 or v."""
        alpha, sigma = self._levels(t, x0)
        return {"eps": lambda: eps, "x0": lambda: x0, "v": lambda: alpha * eps - sigma * x0}[self.prediction]()

    def clean(self, output: Tensor, x_t: Tensor, t: float | Tensor, clip: Sequence[float] | None = None) -> Tensor:
        """x_0 as the network's output implies it, limited to `clip`: a new tensor of x_t's dtype."""
        alpha, sigma = self._levels(t, x_t)
        x0 = output.to(x_t.dtype, copy=True)  # the output may be a buffer that the network uses again
        if self.prediction == "eps":
            x0.mul_(-sigma).add_(x_t).div_(alpha)
        elif self.prediction == "v":
            x0.mul_(-sigma).add_(alpha * x_t)
        return x0 if clip is None else x0.clamp_(*clip)

    def split(self, output: Tensor, x_t: Tensor, t: float | Tensor, clip: Sequence[float] | None = None):
        """(x_0, eps) as the network's output implies them; eps is derived from the clipped x_0, so both make x_t."""
        alpha, sigma = self._levels(t, x_t)
        x0 = self.clean(output, x_t, t, clip)
        return x0, (x_t - alpha * x0).div_(sigma)

    def advance_(self, x: Tensor, x0: Tensor, t: float, s: float, fresh: float = 0.0) -> Tensor:
        """x_t becomes, in place, x_s of the same x_0 and the same noise (DDIM, Song 2021, eq. 12).

        Args:
            fresh: standard deviation of the new noise that the caller will add; the old noise makes room for it.
        """
        rate = np.sqrt(self.sigma(s) ** 2 - fresh**2) / self.sigma(t)
        return x.mul_(float(rate)).add_(x0, alpha=float(self.alpha(s) - rate * self.alpha(t)))

    def _levels(self, t: float | Tensor, like: Tensor):
        """alpha and sigma as numbers, or for (B,) times as tensors (B, 1, ...)."""
        if not isinstance(t, Tensor):
            return float(self.alpha(t)), float(self.sigma(t))
        times = t.detach().cpu().numpy()
        shape = (-1, *[1] * (like.ndim - 1))
        return tuple(torch.from_numpy(f(times)).to(like).view(shape) for f in (self.alpha, self.sigma))


def checked_range(limits: Sequence[float] | None, name: str) -> tuple[float, float] | None:
    """A pair of rising numbers, or None; InputError for anything else.

    >>> checked_range([-1, 1], "clip")
    (-1.0, 1.0)
    """
    if limits is None:
        return None
    try:
        low, high = (float(value) for value in limits)
    except (TypeError, ValueError):
        low = 0.0
        high = 0.0
    if not low < high:
        raise InputError(f"{name} must be two rising numbers such as [-1, 1], got {limits!r}; change it.")
    return low, high


def _one_of(value: str, known: Sequence[str], name: str) -> str:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}; choose one of these.")
    return value
