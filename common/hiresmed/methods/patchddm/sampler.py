"""What all samplers share: their schedule, when they ask the network, and what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from .schedule import NoiseSchedule, checked_range


class Sampler(ABC):
    """From noise to image along the times of a spacing.

    Args:
        schedule: times, levels and the network's kind of prediction.
        spacing: see NoiseSchedule.times.
        clip: limits of x_0, e.g. the range of the labels; None: none.
    """

    def __init__(self, schedule: NoiseSchedule, spacing: str, clip: Sequence[float] | None = None) -> None:
        self.schedule = schedule
        self.spacing = spacing
        self.clip = checked_range(clip, "clip")

    def evaluations(self, steps: int) -> int:
        """How often `steps` steps call the network."""
        return len(self.schedule.times(steps, self.spacing)) - 1

    @abstractmethod
    def __call__(
        self,
        denoise: Callable[[Tensor, float], Tensor],
        x_T: Tensor,
        steps: int,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """x_0, shape (B, C, *S).

        Args:
            denoise: (x_t, t) -> the network's output, shape of x_t; it may return x_t itself or a buffer of its own.
            x_T: standard normal noise (B, C, *S); overwritten.
            steps: from 1 on.
            noise: k -> standard normal noise of x_T's shape for the k-th step, from 1 on, for samplers that add some.
        """
