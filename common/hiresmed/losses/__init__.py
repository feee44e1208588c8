"""Adversarial objectives with one signature, penalties with one signature, Dice in a diffusion's range."""

from .adversarial import BinaryCrossEntropy, Hinge, LeastSquares, NonSaturating, Wasserstein
from .patch_consistency import PatchConsistency
from .penalties import GradientPenalty, R1Penalty
from .region_dice import RegionDiceLoss

__all__ = [
    "BinaryCrossEntropy",
    "GradientPenalty",
    "Hinge",
    "LeastSquares",
    "NonSaturating",
    "PatchConsistency",
    "R1Penalty",
    "RegionDiceLoss",
    "Wasserstein",
]
