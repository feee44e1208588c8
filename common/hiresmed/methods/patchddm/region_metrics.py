"""Scores of a segmented brain tumour against its truth, region by region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from scipy import ndimage

from ...metrics.calibration import auroc, expected_calibration_error, filtered_dice

MISS_MM = 373.13  # HD95 that BraTS charges for a miss: the diagonal of its 240 x 240 x 155 mm
KEPT = (1.0, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9)


class RegionMetrics:
    """Dice and HD95 (MONAI's) of each region, and how well variance and probability know the errors.

    Called with a segmented case: pred and label (1, *S) in codes, probability and variance (R, *S), given (4, *S) as
    loaded, whose `affine` gives the voxels' size. Calibration is taken over the brain, the voxels unlike the first
    corner; over the whole box every map would look well calibrated.

    Args:
        regions: name -> codes of the label that belong to it, from the outermost inwards.

    Returns:
        dict of figures named `dice_WT`, `hd95_WT` (mm; where one of the two is empty 373.13, as BraTS charges it, and 0
        where both are), `missed_WT` (1 where there is a tumour and no voxel of it was found), `volume_ml_WT`,
        `true_volume_ml_WT`, `false_positive_ml_WT` (what was found beyond the truth: for a brain without tumour, all of
        it), `lesions_WT`, `lesions_found_WT`, `false_lesions_WT` (numbers of connected parts, and of those that touch
        one of the other), `auroc_variance_WT`, `auroc_entropy_WT` (of p (1 - p), which needs no ensemble), `ece_WT`,
        and `filtered_dice_WT`.
    """

    def __init__(self, regions: Mapping[str, Sequence[int]]) -> None:
        self.regions = {name: tuple(codes) for name, codes in regions.items()}

    def __call__(self, case: Mapping) -> dict:
        image = case["given"]
        brain = (image != image[(..., *[slice(0, 1)] * (image.ndim - 1))]).any(dim=0).numpy()
        spacing = [float(v) for v in torch.as_tensor(image.meta["original_affine"])[:3, :3].norm(dim=0)]
        pred, label = (torch.as_tensor(np.asarray(case[key])) for key in ("pred", "label"))
        pred = torch.where(pred == 4, 3, pred)  # brats2020's enhancing tumour
        figures: dict = {}
        for n, (name, codes) in enumerate(self.regions.items()):
            # a whole tumour alone is written as label 1, which is also one of its codes
            prediction, truth = (torch.isin(v, torch.tensor(codes)) for v in (pred, label))
            figures |= self._region(name, prediction, truth, spacing)
            maps = (np.asarray(case[key][n])[brain] for key in ("probability", "variance"))
            figures |= self._calibration(name, prediction[0].numpy()[brain], truth[0].numpy()[brain], *maps)
        return figures

    def _region(self, name: str, prediction: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float]) -> dict:
        prediction = prediction[None].float()
        truth = truth[None].float()
        dice = float(compute_dice(prediction, truth, ignore_empty=False))
        ml = math.prod(spacing) / 1000
        return {
            f"dice_{name}": dice,
            f"hd95_{name}": hausdorff_95(prediction, truth, spacing),
            f"missed_{name}": float(truth.any() and not (prediction * truth).any()),
            f"volume_ml_{name}": ml * float(prediction.sum()),
            f"true_volume_ml_{name}": ml * float(truth.sum()),
            f"false_positive_ml_{name}": ml * float((prediction * (1 - truth)).sum()),
            **{f"{key}_{name}": n for key, n in lesion_counts(prediction[0, 0].numpy(), truth[0, 0].numpy()).items()},
        }

    def _calibration(
        self, name: str, found: np.ndarray, truth: np.ndarray, probability: np.ndarray, variance: np.ndarray
    ) -> dict:
        wrong = found != truth
        return {
            f"auroc_variance_{name}": auroc(variance, wrong),
            f"auroc_entropy_{name}": auroc(probability * (1 - probability), wrong),
            f"ece_{name}": expected_calibration_error(probability, truth),
            f"filtered_dice_{name}": dict(zip(map(str, KEPT), filtered_dice(found, truth, variance, np.array(KEPT)))),
        }


def hausdorff_95(prediction: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float] | float = 1.0) -> float:
    """HD95 in mm of two masks (1, 1, *S); BraTS's 373.13 where one of them is empty, 0 where both are."""
    if not (prediction.any() and truth.any()):
        return MISS_MM if prediction.any() or truth.any() else 0.0
    return float(compute_hausdorff_distance(prediction, truth, True, percentile=95, spacing=spacing))


def lesion_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Numbers of lesions of the truth, of those that the prediction touches, and of predicted ones that touch none.

    A lesion is a part of the mask (*S) whose voxels are connected by faces, edges or corners.
    """
    structure = np.ones([3] * truth.ndim)
    lesions, count = ndimage.label(truth, structure)
    predicted, predicted_count = ndimage.label(prediction, structure)
    touched = len(np.unique(lesions[(prediction > 0) & (truth > 0)]))
    right = len(np.unique(predicted[(prediction > 0) & (truth > 0)]))
    return {"lesions": count, "lesions_found": touched, "false_lesions": predicted_count - right}
