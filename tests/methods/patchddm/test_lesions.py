"""Lesions put into brains and taken out, and other scanners: the label says what was done; the rest stays a brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import FillLesiond, RandImplantLesiond, RandMirrorLesiond, RandScannerd
from hiresmed.phantoms.brain import BrainPhantom

pytestmark = pytest.mark.usefixtures("one_thread")


def brain(tumour: bool = True, seed: int = 2) -> dict[str, torch.Tensor]:
    """A phantom as NormalizeBraind and LabelsToRegionsd leave it."""
    values, label = BrainPhantom((44, 52, 40), seed=seed, look_alike=False, tumour=tumour, contrast="varied").read()
    image = torch.from_numpy(values / values.max((1, 2, 3), keepdims=True) * 2 - 1)
    image[:, torch.from_numpy((values == 0).all(0))] = -1
    return {"image": image, "label": torch.from_numpy(label > 0)[None].float()}


def outside(image: torch.Tensor) -> torch.Tensor:
    return (image == -1).all(0)


def seeded(transform, seed: int):
    transform.set_random_state(seed)
    return transform


@pytest.mark.parametrize("transform", [RandImplantLesiond, RandMirrorLesiond, RandScannerd])
def test_the_brain_keeps_its_outline_the_same_seed_gives_the_same_bytes_and_the_case_given_is_not_touched(transform):
    case = brain()
    kept = {key: value.clone() for key, value in case.items()}
    made = [seeded(transform("image", prob=1.0), seed)(case) for seed in (5, 5)]
    assert all(torch.equal(case[key], kept[key]) for key in case)
    assert all(torch.equal(made[0][key], made[1][key]) for key in case)
    assert not torch.equal(made[0]["image"], case["image"])
    assert torch.equal(outside(made[0]["image"]), outside(case["image"]))
    assert made[0]["image"].abs().max() <= 1


@pytest.mark.parametrize("transform", [RandMirrorLesiond, RandScannerd])
def test_at_probability_0_a_case_comes_out_as_it_is(transform):
    case = brain()
    made = transform("image", prob=0.0)(case)
    assert all(made[key] is case[key] for key in case)


def test_an_implant_is_brighter_in_flair_than_the_brain_and_all_of_it_is_labelled():
    case = brain(tumour=False)
    volumes = []
    for seed in range(12):
        made = seeded(RandImplantLesiond("image", prob=1.0, most=1, spot_prob=0.0, radius=(4, 8)), seed)(case)
        lesion = made["label"][0] > 0
        change = (made["image"] - case["image"]).abs().amax(0)
        assert (change[lesion] > 0).all()
        far = torch.nn.functional.max_pool3d(made["label"], 9, 1, 4)[0] == 0
        assert change[far].max() < 0.05
        rim = lesion & (torch.nn.functional.max_pool3d(1 - made["label"], 3, 1, 1)[0] > 0)
        inside = ~outside(case["image"]) & ~lesion
        assert made["image"][3][rim].mean() > case["image"][3][inside].mean()
        volumes.append(int(lesion.sum()))
    assert min(volumes) > 30 and max(volumes) > 3 * min(volumes)


def test_an_implant_never_lies_outside_the_brain_and_keeps_a_label_that_was_there():
    case = brain()
    made = seeded(RandImplantLesiond("image", prob=1.0, radius=(6, 9)), 1)(case)
    assert not (made["label"][0].bool() & outside(case["image"])).any()
    assert (made["label"] >= case["label"]).all() and made["label"].sum() > case["label"].sum()


def test_spots_change_the_image_and_not_the_label():
    case = brain(tumour=False)
    made = seeded(RandImplantLesiond("image", prob=0.0, spot_prob=1.0), 3)(case)
    assert made["label"].sum() == 0
    changed = (made["image"] != case["image"]).any(0)
    assert 0 < ((made["image"] - case["image"]).abs().amax(0) > 0.1).sum() < 0.02 * (~outside(case["image"])).sum()
    assert changed.any()


def test_three_regions_stay_nested():
    case = brain(tumour=False)
    case["label"] = case["label"].expand(3, -1, -1, -1).clone()
    made = seeded(RandImplantLesiond("image", prob=1.0, radius=(7, 9)), 2)(case)["label"]
    assert made[2].sum() > 0 and (made[0] >= made[1]).all() and (made[1] >= made[2]).all()
    assert made[0].sum() > made[1].sum()


def test_a_lesion_in_one_half_of_a_symmetric_brain_is_replaced_by_the_other_half():
    healthy = torch.rand(4, 20, 24, 20, generator=torch.Generator().manual_seed(0)) - 0.5
    healthy = torch.cat([healthy, healthy.flip(1)], 1)
    healthy = torch.nn.functional.pad(healthy, (2, 2, 2, 2, 5, 3), value=-1)  # the middle is not the grid's
    label = torch.zeros(1, *healthy.shape[1:])
    label[:, 8:14, 8:14, 8:14] = 1
    ill = torch.where(label > 0, 0.9, healthy)
    made = RandMirrorLesiond("image", prob=1.0)({"image": ill, "label": label})
    assert made["label"].sum() == 0
    torch.testing.assert_close(made["image"], healthy)


def test_a_filled_lesion_looks_like_the_tissue_around_it_and_nothing_else_changes():
    case = brain(tumour=False)
    ill = seeded(RandImplantLesiond("image", prob=1.0, most=1, spot_prob=0.0, radius=(4, 5)), 4)(case)
    lesion = ill["label"][0] > 0
    made = FillLesiond("image")({**ill, "lesion": "filled"})
    assert made["label"].sum() == 0
    away = torch.nn.functional.max_pool3d(ill["label"], 5, 1, 2)[0] == 0
    assert torch.equal(made["image"][:, away], ill["image"][:, away])
    before, after = ((image["image"] - case["image"])[:, lesion].abs().mean() for image in (ill, made))
    assert after < 0.8 * before
    assert torch.equal(outside(made["image"]), outside(ill["image"]))
    assert torch.equal(FillLesiond("image")({**ill, "lesion": "filled"})["image"], made["image"])
    assert FillLesiond("image")(ill)["image"] is ill["image"]


def test_a_lesion_that_crosses_the_middle_is_left_as_it_is():
    case = brain()
    case["label"] = torch.zeros_like(case["label"])
    case["label"][:, 16:28, 20:30, 15:25] = 1
    made = RandMirrorLesiond("image", prob=1.0)(case)
    assert torch.equal(made["image"], case["image"]) and torch.equal(made["label"], case["label"])


def test_a_background_that_resampling_has_rounded_stays_background():
    case = brain()
    empty = outside(case["image"])
    case["image"] += 2e-7 * torch.randn(case["image"].shape, generator=torch.Generator().manual_seed(0))
    made = seeded(RandScannerd("image", prob=1.0), 0)(case)["image"]
    assert (made[:, empty] == -1).all()


def test_another_scanner_changes_each_sequence_on_its_own_and_keeps_where_they_end():
    case = brain()
    inside = ~outside(case["image"])
    slopes = []
    for seed in range(6):
        made = seeded(RandScannerd("image", prob=1.0, noise=0.0, blur=0.0), seed)(case)["image"]
        assert made[:, inside].min() > -1
        tops = torch.quantile(made[:, inside], 0.999, dim=1)
        assert (tops > 0.97).all()
        corr = [np.corrcoef(made[n][inside], case["image"][n][inside])[0, 1] for n in range(4)]
        slopes.append(corr)
    assert np.mean(slopes) > 0.7  # still the same brain
    assert np.ptp(slopes, axis=1).max() > 0.02


@pytest.mark.parametrize("radius", [(0.5, 4), (6, 4)])
def test_impossible_radii_are_refused(radius):
    with pytest.raises(InputError, match="radius must be"):
        RandImplantLesiond("image", radius=radius)
