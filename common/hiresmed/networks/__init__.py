"""One file per paper's network."""

from .critic import PatchCritic
from .multiscale import MultiScaleGenerator, PatchGenerator

__all__ = ["MultiScaleGenerator", "PatchCritic", "PatchGenerator"]
