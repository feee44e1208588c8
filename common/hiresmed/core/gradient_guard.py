"""No step on a gradient that cannot be right: not finite, or a thousand times as long as those before it.

Lightning's and NeMo's guards stop or skip only at NaN; a broken kernel's 1e30 is finite, and Adam would take the step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import ignite.distributed as idist
from torch import Tensor, nn

from .errors import InputError

logger = logging.getLogger(__name__)

FACTOR = 1e3
FACTOR_AT_FIRST = 1e9  # the first gradients of a generative adversarial network differ widely
WARM_UP = 100  # steps that it counts for, and that the running norm is the mean of
MOST_SKIPPED = 10  # steps in a row


class GradientGuard:
    """Decides for each step of one network whether its gradient may be used.

    The running norm is the mean of the norms over the first 100 steps, then an exponential one over about 100 steps.
    Norms above 1000 times it (1e9 times in the first 100 steps) are not used; neither they nor those below a thousandth
    change it, so that a pause (a hinge loss of 0) does not make the next ordinary gradient look too long. All processes
    of a group see the averaged gradient, and so decide alike. It costs one norm a step, and on a GPU one
    synchronisation.

    Args:
        network: its name, for messages.
    """

    optional = True  # a checkpoint of a version without it resumes; see training.Checkpoint

    def __init__(self, network: str) -> None:
        self.network = network
        self.norm = 0.0
        self.steps = 0
        self.skipped = 0
        self.in_a_row = 0

    def allows(self, norm: Tensor, iteration: int) -> bool:
        """Whether to take a step whose gradient has this Euclidean norm (0-dim); skipped steps are counted and logged.

        Raises:
            InputError: for the last of `MOST_SKIPPED` steps in a row that may not be taken.
        """
        value = float(norm)
        if self._ordinary(value):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        wrong = "is far above its running norm" if math.isfinite(value) else "is not finite"
        if self.in_a_row == MOST_SKIPPED:
            raise InputError(
                f"The gradient of the {self.network} must be of the size of those before it, but {wrong} at "
                f"{MOST_SKIPPED} steps in a row (norm {value:.3g}, running norm {self.norm:.3g}, iteration "
                f"{iteration}); resume from the last checkpoint with a lower learning rate, with max_grad_norm, or "
                "with amp false."
            )
        if idist.get_rank() == 0:
            logger.warning(
                "Iteration %d: the gradient of the %s %s (norm %.3g, running norm %.3g); step not taken, %d so far.",
                iteration, self.network, wrong, value, self.norm, self.skipped,
            )  # fmt: skip
        return False

    def _ordinary(self, norm: float) -> bool:
        """Whether a norm may be used; if so the running norm follows it."""
        if not math.isfinite(norm):
            return False
        warm = self.steps >= WARM_UP
        if self.norm > 0 and norm > self.norm * (FACTOR if warm else FACTOR_AT_FIRST):
            return False
        if not warm or self.norm == 0:
            self.steps += 1
            self.norm += (norm - self.norm) / min(self.steps, WARM_UP)
        elif norm >= self.norm / FACTOR:
            self.norm += (norm - self.norm) / WARM_UP
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"norm": self.norm, "steps": self.steps, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.norm = state["norm"]
        self.steps = state["steps"]
        self.skipped = state["skipped"]
        self.in_a_row = state["in_a_row"]


def gradient_norm(parameters: Iterable[nn.Parameter], max_norm: float | None = None) -> Tensor:
    """Euclidean norm (0-dim) of all gradients together, which are clipped to `max_norm` where it is given."""
    parameters = list(parameters)
    if max_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
