"""From noise to image: solvers side by side, `sampler(denoise, x_T, steps) -> x_0`, compared at equal `evaluations`."""

from .choice import build_sampler
from .ddim import DDIM
from .dpm_solver import DPMSolver
from .heun import Heun
from .schedule import NoiseSchedule

__all__ = ["DDIM", "DPMSolver", "Heun", "NoiseSchedule", "build_sampler"]
