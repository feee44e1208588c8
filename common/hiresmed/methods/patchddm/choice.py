"""A solver by its name, as a knob gives it."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.knobs import parse_choice
from .ddim import DDIM
from .dpm_solver import DPMSolver
from .heun import Heun
from .sampler import Sampler
from .schedule import NoiseSchedule

SOLVERS = {"ddim": DDIM, "dpm": DPMSolver, "heun": Heun}


def build_sampler(
    solver: str,
    schedule: NoiseSchedule,
    clip: Sequence[float] | None = None,
    spacing: str | None = None,
    eta: float = 0.0,
) -> Sampler:
    """DDIM, DPM-Solver++(2M) or Heun for a schedule.

    Args:
        solver: ddim, dpm or heun.
        clip: limits of x_0; None: none.
        spacing: of the times, see NoiseSchedule.times; None: the solver's own.
        eta: fresh noise of ddim, 0 to 1; the others have none.

    Raises:
        InputError: an unknown solver or spacing.

    >>> build_sampler("heun", NoiseSchedule(prediction="x0")).evaluations(3)
    5
    """
    kind = parse_choice(SOLVERS, solver, "solver")
    options = {"clip": clip} | ({} if spacing is None else {"spacing": spacing})
    return kind(schedule, **options, **({"eta": eta} if kind is DDIM else {}))
