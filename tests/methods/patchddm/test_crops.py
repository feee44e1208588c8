"""A crop begins where its law says, and its coordinates are those of the whole grid at that place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm.crops import CoordinateCropd, trapezoid_start
from monai.data import MetaTensor
from monai.transforms import Compose
from whole_volume import volume_coordinates


def case(shape=(12, 10, 14), label=None):
    numbers = torch.arange(np.prod(shape)).reshape(1, *shape)
    affine = torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0]))
    label = torch.zeros(1, *shape) if label is None else label
    return {
        "image": MetaTensor(torch.cat([numbers, -numbers]).float(), affine=affine),
        "label": MetaTensor(label, affine=affine),
        "name": "a",
    }


def trapezoid_law(a: int, b: int) -> np.ndarray:
    """Exact probabilities of U{0..a} + U{0..b}."""
    return np.convolve(np.full(a + 1, 1 / (a + 1)), np.full(b + 1, 1 / (b + 1)))


def chi_square(counts: np.ndarray, law: np.ndarray) -> float:
    expected = law * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def bound(cells: int) -> float:
    """Beyond five deviations of a chi-square of so many cells."""
    return cells - 1 + 5 * np.sqrt(2 * (cells - 1)) + 1e-9


@pytest.mark.parametrize(("free", "a", "b"), [(128, 32, 96), (64, 16, 48), (10, 2, 8), (1, 0, 1), (0, 0, 0)])
def test_origins_follow_the_papers_trapezoid_at_its_size_and_its_proportions_at_others(free, a, b):
    random = np.random.RandomState(0)
    starts = np.array([trapezoid_start(free, random) for _ in range(20000)])
    law = trapezoid_law(a, b)
    assert len(law) == free + 1 and starts.min() >= 0 and starts.max() <= free
    assert chi_square(np.bincount(starts, minlength=free + 1), law) < bound(free + 1)
    if free == 128:
        uniform = np.full(free + 1, 1 / (free + 1))
        assert chi_square(np.bincount(starts, minlength=free + 1), uniform) > 3 * bound(free + 1)


def origins(crop: CoordinateCropd, data: dict) -> np.ndarray:
    return np.stack([c["crop_start"].numpy() for c in crop(data)])


@pytest.mark.parametrize("law", ["trapezoid", "uniform"])
def test_every_axis_of_a_case_follows_the_law_on_its_own(law):
    crop = CoordinateCropd(["image", "label"], (4, 10, 6), num_samples=700, law=law).set_random_state(1)
    starts = origins(crop, case())
    for axis, free in enumerate((8, 0, 8)):
        expected = (
            trapezoid_law(free // 4, free - free // 4) if law == "trapezoid" else np.full(free + 1, 1 / (free + 1))
        )
        assert chi_square(np.bincount(starts[:, axis], minlength=free + 1), expected) < bound(free + 1)
    assert abs(np.corrcoef(starts[:, 0], starts[:, 2])[0, 1]) < 0.2


@pytest.mark.parametrize("convention", ["centre", "endpoint", "corner"])
def test_coordinates_are_the_crop_of_the_whole_grids_and_match_the_voxels(convention):
    data = case()
    whole = volume_coordinates((12, 10, 14), convention)
    crop = CoordinateCropd(["image", "label"], (4, 5, 6), num_samples=8, convention=convention).set_random_state(0)
    made = crop(data)
    assert len({tuple(c["crop_start"].tolist()) for c in made}) > 3
    for c in made:
        place = tuple(slice(s, s + n) for s, n in zip(c["crop_start"].tolist(), (4, 5, 6)))
        assert torch.equal(c["coords"], whole[(slice(None), *place)])
        assert torch.equal(c["image"].as_tensor(), data["image"].as_tensor()[(slice(None), *place)])
        shift = data["image"].affine[:3, :3] @ c["crop_start"].double()
        torch.testing.assert_close(c["image"].affine[:3, 3].double(), shift.double())
        assert c["name"] == "a"


def test_the_foreground_law_centres_its_share_on_the_tumour_as_far_as_the_grid_allows():
    label = torch.zeros(3, 40, 40, 40)
    label[1, 30, 12, 39] = 1
    data = case((40, 40, 40), label)
    crop = CoordinateCropd(["image", "label"], 8, 900, "foreground", foreground_share=0.3).set_random_state(0)
    starts = origins(crop, data)
    centred = (starts == (26, 8, 32)).all(axis=1)
    assert centred.mean() == pytest.approx(0.3, abs=0.07)
    rest = starts[~centred]
    assert chi_square(np.bincount(rest[:, 0], minlength=33), trapezoid_law(8, 24)) < bound(33)
    held = [c["label"].any() for c in CoordinateCropd(["image", "label"], 8, 20, "foreground", "label", 1.0)(data)]
    assert all(held)


def test_an_empty_label_falls_back_to_the_trapezoid():
    crop = CoordinateCropd(["image", "label"], (4, 4, 4), 700, "foreground", foreground_share=1.0).set_random_state(0)
    starts = origins(crop, case())
    assert chi_square(np.bincount(starts[:, 0], minlength=9), trapezoid_law(2, 6)) < bound(9)


def test_a_seed_decides_the_crops_and_samples_differ():
    draw = lambda seed: origins(CoordinateCropd(["image"], 3, 5).set_random_state(seed), case())  # noqa: E731
    assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any()
    assert len(np.unique(draw(1), axis=0)) > 1


def test_crops_hold_no_more_than_themselves_and_flow_through_compose_one_by_one():
    crop = CoordinateCropd(["image", "label"], 4, 3).set_random_state(0)
    made = Compose([crop, lambda c: {**c, "seen": True}])(case())
    assert len(made) == 3 and all(c["seen"] for c in made)
    assert made[0]["image"].untyped_storage().nbytes() == 2 * 4**3 * 4


def test_a_patch_of_the_grids_size_is_the_grid():
    (made,) = CoordinateCropd(["image", "label"], (12, 10, 14))(case())
    assert torch.equal(made["coords"], volume_coordinates((12, 10, 14)))
    assert made["crop_start"].tolist() == [0, 0, 0]


def test_impossible_crops_are_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"fit into the padded grid \(12, 10, 14\), got \(16, 16, 16\)"):
        CoordinateCropd(["image"], 16)(case())
    for wrong in ({"law": "gauss"}, {"foreground_share": 2}, {"num_samples": 0}):
        with pytest.raises(InputError):
            CoordinateCropd(["image"], 4, **wrong)
