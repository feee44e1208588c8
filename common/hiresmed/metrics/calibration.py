"""How well a map of uncertainty predicts where a segmentation is wrong.

Letters: V = number of voxels evaluated.
"""

from __future__ import annotations

import numpy as np


def auroc(score: np.ndarray, wrong: np.ndarray) -> float | None:
    """Probability that a wrong voxel scores higher than a correct one, ties counting half (Mann & Whitney 1947).

    MONAI's compute_roc_auc loops over the values in Python: minutes for the voxels of a brain.

    Args:
        score: (V,), larger is more uncertain.
        wrong: (V,) bool.

    Returns:
        0 to 1, .5 for an uninformative score; None where all voxels are correct, or all wrong.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    wrong = np.asarray(wrong, dtype=bool)
    positives = int(wrong.sum())
    negatives = int((~wrong).sum())
    if not positives or not negatives:
        return None
    _, place, count = np.unique(np.asarray(score), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place.reshape(-1)]
    return float((rank[wrong].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Mean distance of the stated probability from the observed frequency, over equal bins (Guo 2017, eq. 3).

    Here of the foreground's probability (0 to 1), not of the winning class's.

    Args:
        probability: (V,) in [0, 1].
        truth: (V,) bool.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([1, 0, 0, 0])), 6)
    0.25
    """
    bin_index = np.minimum((np.asarray(probability, dtype=np.float64) * bins).astype(int), bins - 1)
    stated = np.bincount(bin_index, probability, bins)
    observed = np.bincount(bin_index, np.asarray(truth, dtype=np.float64), bins)
    return float(np.abs(stated - observed).sum() / len(bin_index))


def filtered_dice(
    predicted: np.ndarray, truth: np.ndarray, uncertain: np.ndarray, shares: np.ndarray
) -> list[float | None]:
    """Dice of the voxels that remain after the most uncertain are removed, for each share of voxels.

    As QU-BraTS (Mehta 2022), but by share instead of by threshold, since variances have no common scale.

    Args:
        predicted, truth: (V,) bool.
        uncertain: (V,), larger is more uncertain.
        shares: of voxels that remain, 0 to 1.

    Returns:
        One Dice per share; None where neither mask has voxels.
    """
    order = np.argsort(uncertain, kind="stable")
    curves = [np.cumsum(v[order]) for v in (predicted & truth, predicted, truth)]
    dice = []
    for share in shares:
        last = max(round(share * len(order)), 1) - 1
        both, ours, theirs = (int(curve[last]) for curve in curves)
        dice.append(2 * both / (ours + theirs) if ours + theirs else None)
    return dice
