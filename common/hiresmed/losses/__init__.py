"""Adversarial objectives with one signature, and penalties with one signature."""

from .adversarial import BinaryCrossEntropy, Hinge, LeastSquares, NonSaturating, Wasserstein
from .patch_consistency import PatchConsistency
from .penalties import GradientPenalty, R1Penalty

__all__ = [
    "BinaryCrossEntropy",
    "GradientPenalty",
    "Hinge",
    "LeastSquares",
    "NonSaturating",
    "PatchConsistency",
    "R1Penalty",
    "Wasserstein",
]
