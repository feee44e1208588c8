"""Calibration and region scores against brute force, other libraries, and figures that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.methods.patchddm import RegionMetrics
from hiresmed.metrics import auroc, expected_calibration_error, filtered_dice
from monai.data import MetaTensor

RNG = np.random.default_rng(0)


def test_auroc_is_the_share_of_pairs_that_are_in_order_ties_by_half():
    score, wrong = RNG.integers(0, 6, 200) / 5, RNG.random(200) < 0.3
    pairs = score[wrong][:, None] - score[~wrong][None]
    assert auroc(score, wrong) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-12)
    oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
    assert auroc(score, wrong) == pytest.approx(oracle.roc_auc_score(wrong, score), abs=1e-12)


def test_a_dead_map_knows_nothing_and_a_perfect_one_everything():
    wrong = RNG.random(100) < 0.2
    assert auroc(np.zeros(100), wrong) == 0.5
    assert auroc(wrong.astype(float), wrong) == 1.0 and auroc(-wrong.astype(float), wrong) == 0.0
    assert auroc(RNG.random(100), np.zeros(100, bool)) is None and auroc(RNG.random(100), np.ones(100, bool)) is None


def test_a_probability_that_is_the_frequency_is_calibrated_and_overconfidence_costs_its_gap():
    probability = RNG.random(200_000)
    truth = RNG.random(200_000) < probability
    assert expected_calibration_error(probability, truth) < 0.005
    assert expected_calibration_error(np.ones(1000), np.arange(1000) < 700) == pytest.approx(0.3)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_dice_of_what_is_left_rises_when_the_errors_are_the_uncertain_ones():
    truth = np.arange(1000) < 300
    found = truth.copy()
    found[290:330] ^= True
    sure = filtered_dice(found, truth, (found != truth).astype(float), np.array([1.0, 0.96, 0.5]))
    assert sure[0] == pytest.approx(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert sure[1] == 1.0
    assert filtered_dice(found & False, truth & False, np.zeros(1000), np.array([1.0])) == [None]


def case(pred: np.ndarray, label: np.ndarray, spacing=(1.0, 1.0, 1.0), regions: int = 1) -> dict:
    image = torch.ones(4, *label.shape)
    image[:, 0] = 0  # outside of the brain
    affine = np.diag([*spacing, 1.0])
    given = MetaTensor(image, affine=torch.from_numpy(affine), meta={"original_affine": affine})
    maps = {
        "probability": np.repeat((pred > 0)[None], regions, 0).astype(np.float32),
        "variance": np.repeat(RNG.random(label.shape, np.float32)[None], regions, 0),
    }
    return {"pred": pred[None], "label": label[None], "given": given, **maps}


def test_hausdorff_distance_is_in_mm_of_the_files_voxels_and_a_miss_is_charged_as_brats_does():
    pred, label = np.zeros((12, 12, 12), np.uint8), np.zeros((12, 12, 12), np.uint8)
    pred[4, 6, 6], label[9, 6, 6] = 1, 1
    figures = RegionMetrics({"WT": (1, 2, 3)})(case(pred, label, spacing=(2.0, 1.0, 1.0)))
    assert figures["hd95_WT"] == pytest.approx(10.0) and figures["dice_WT"] == 0
    nothing = RegionMetrics({"WT": (1, 2, 3)})(case(pred * 0, label))
    assert nothing["hd95_WT"] == 373.13 and nothing["dice_WT"] == 0 and nothing["missed_WT"] == 1
    healthy = RegionMetrics({"WT": (1, 2, 3)})(case(pred, label * 0))
    assert healthy["hd95_WT"] == 373.13 and healthy["missed_WT"] == 0
    both = RegionMetrics({"WT": (1, 2, 3)})(case(pred * 0, label * 0))
    assert both["dice_WT"] == 1.0 and both["hd95_WT"] == 0 and both["auroc_variance_WT"] is None


def test_the_hausdorff_distance_leaves_out_the_farthest_twentieth():
    pred, label = np.zeros((30, 12, 12), np.uint8), np.zeros((30, 12, 12), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    pred[2:8, 2:8, 2:8] = pred[28, 1:10:2, 5] = 1  # 5 of 157 voxels of its surface, 3 %, lie some 21 mm away
    assert RegionMetrics({"WT": (1, 2, 3)})(case(pred, label))["hd95_WT"] == 0
    pred[26:30, 2:8, 2:8] = 1
    assert RegionMetrics({"WT": (1, 2, 3)})(case(pred, label))["hd95_WT"] > 18


def test_lesions_are_counted_as_found_missed_and_false():
    pred, label = np.zeros((16, 16, 16), np.uint8), np.zeros((16, 16, 16), np.uint8)
    label[2:4, 2:4, 2:4] = label[4, 4, 4] = 1  # one, connected by a corner
    label[12:14, 2, 2] = 1
    pred[3, 3, 3] = pred[2, 2, 2] = 1  # both touch the first
    pred[2, 12, 12] = pred[8, 8, 8] = 1
    figures = RegionMetrics({"WT": (1, 2, 3)})(case(pred, label))
    counts = {key: figures[f"{key}_WT"] for key in ("lesions", "lesions_found", "false_lesions")}
    assert counts == {"lesions": 2, "lesions_found": 1, "false_lesions": 2}


def test_volumes_are_in_ml_of_the_files_voxels_and_what_is_found_beyond_the_truth_is_false():
    pred, label = np.zeros((12, 12, 12), np.uint8), np.zeros((12, 12, 12), np.uint8)
    pred[2:6, 2:6, 2:6], label[4:8, 2:6, 2:6] = 1, 2
    figures = RegionMetrics({"WT": (1, 2, 3)})(case(pred, label, spacing=(2.0, 5.0, 0.5)))
    assert figures["volume_ml_WT"] == figures["true_volume_ml_WT"] == pytest.approx(64 * 0.005)
    assert figures["false_positive_ml_WT"] == pytest.approx(32 * 0.005)
    healthy = RegionMetrics({"WT": (1, 2, 3)})(case(pred, label * 0))
    assert healthy["false_positive_ml_WT"] == healthy["volume_ml_WT"] > 0 and healthy["true_volume_ml_WT"] == 0


def test_regions_are_nested_unions_of_codes_and_four_is_read_as_three():
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:5, 2:5, 2:5], label[3, 3, 2:5], label[3, 3, 3] = 2, 1, 3
    pred = np.where(label == 3, 4, label)
    pred[3, 3, 2] = 2  # one voxel of the core is taken for oedema
    figures = RegionMetrics({"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})(case(pred, label, regions=3))
    assert figures["dice_WT"] == 1 and figures["dice_ET"] == 1
    assert figures["dice_TC"] == pytest.approx(2 * 2 / (2 + 3))


def test_calibration_counts_the_brain_alone():
    label = np.zeros((6, 4, 4), np.uint8)
    label[3:] = 1
    given = case(label, label)
    given["probability"][:] = 0
    figures = RegionMetrics({"WT": (1,)})(given)
    assert figures["ece_WT"] == pytest.approx(3 / 5), "48 of 80 voxels of brain, not of 96"
