"""Intensities by the paper's law, padding that is undone, regions that nest, and images that are refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.datasets.brats_read import read_brats
from hiresmed.methods.patchddm.regions import (
    LabelsToRegionsd,
    LoadImageBraind,
    NormalizeBraind,
    RegionsToLabelsd,
    contiguous_codes,
)
from hiresmed.phantoms.brain import BrainPhantom
from monai.data import MetaTensor
from monai.transforms import Compose, DivisiblePadd, Invertd, LoadImaged, SaveImaged, SpatialPadd

REAL = Path(os.environ.get("HIRESMED_DATA", "")) / "brain_mr"
real = pytest.mark.skipif(
    "HIRESMED_DATA" not in os.environ or not REAL.is_dir(), reason="HIRESMED_DATA names no folder with brain_mr"
)


def load(**knobs):
    return LoadImageBraind("image", reader=read_brats, **knobs)


@pytest.fixture(scope="module")
def case():
    return load()({"image": BrainPhantom((24, 26, 20), seed=1)})


def stub(image, label=None, affine=None):
    """A reader that returns these arrays."""
    return lambda source, path: (image, label, np.eye(4) if affine is None else affine, {"name": "x", "image": "x.nii"})


def brain_like(rng, shape=(30, 30, 30)):
    image = np.zeros((4, *shape), dtype=np.float32)
    image[:, 8:22, 8:22, 8:22] = rng.normal(300, 60, (4, 14, 14, 14))
    return image


def test_the_loader_gives_one_image_and_its_label_with_the_readers_geometry(case):
    phantom = BrainPhantom((24, 26, 20), seed=1)
    image, label = phantom.read()
    assert isinstance(case["image"], MetaTensor) and not issubclass(LoadImageBraind, LoadImaged)
    np.testing.assert_array_equal(case["image"].numpy(), image)
    np.testing.assert_array_equal(case["label"].numpy()[0], label)
    np.testing.assert_allclose(case["image"].affine.numpy(), phantom.affine)
    assert case["name"] == "brain_phantom_1" and "LoadImage" in LoadImageBraind.__name__


def test_each_sequence_is_clipped_at_its_percentiles_and_scaled_to_minus_one_and_one():
    rng = np.random.default_rng(0)
    image = brain_like(rng)
    image[2] *= 7
    out = NormalizeBraind("image")({"image": MetaTensor(torch.from_numpy(image))})["image"].numpy()
    for channel, made in zip(image, out):
        low, high = np.percentile(channel, (0.1, 99.9))
        expected = 2 * (channel.clip(low, high) - low) / (high - low) - 1
        np.testing.assert_allclose(made, expected, atol=1e-5)
    assert out.min() == -1 and out.max() == 1


def test_the_background_is_minus_one_even_where_skull_stripping_left_negative_values():
    rng = np.random.default_rng(0)
    image = brain_like(rng)
    image[:, 8:10, 8:22, 8:22] = -40 - rng.random((4, 2, 14, 14)).astype(np.float32)
    out = NormalizeBraind("image")({"image": MetaTensor(torch.from_numpy(image))})["image"].numpy()
    assert (out[:, image[0] == 0] == -1).all()
    assert np.abs(out[:, 8:10, 8:22, 8:22] + 1).max() < 0.02
    zero = -2 * image[0].min() / (np.percentile(image[0], 99.9) - image[0].min()) - 1
    assert zero > -0.9  # what the plain law would have made of it


def test_padding_goes_where_patchddm_pads_and_is_undone():
    image = MetaTensor(torch.rand(1, 240, 240, 155), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))
    pad = Compose([SpatialPadd("image", [256] * 3, value=-1), DivisiblePadd("image", 64, value=-1)])
    padded = pad({"image": image})
    assert padded["image"].shape == (1, 256, 256, 256)
    torch.testing.assert_close(padded["image"][:, 8:-8, 8:-8, 50:-51].as_tensor(), image.as_tensor())
    assert padded["image"].sum() == pytest.approx(float(image.sum()) - (256**3 - image.numel()), rel=1e-4)
    padded["pred"] = MetaTensor(padded["image"].as_tensor() * 2)
    back = Invertd("pred", transform=pad, orig_keys="image", nearest_interp=True)(padded)["pred"]
    torch.testing.assert_close(back.as_tensor(), image.as_tensor() * 2)
    torch.testing.assert_close(back.affine, image.affine)


def test_a_prediction_is_saved_under_the_subjects_name_with_the_inputs_affine(case, tmp_path):
    data = {**case, "pred": MetaTensor(case["label"].as_tensor(), meta=case["image"].meta)}
    SaveImaged("pred", output_dir=tmp_path, output_postfix="seg", separate_folder=False, print_log=False)(data)
    saved = LoadImaged("pred", image_only=True)({"pred": tmp_path / "brain_phantom_1_seg.nii.gz"})["pred"]
    torch.testing.assert_close(saved.affine, case["image"].affine.double())
    np.testing.assert_array_equal(saved.numpy(), case["label"].numpy()[0])


def test_regions_nest_and_come_back_as_the_same_codes(case):
    regions = LabelsToRegionsd("label")(case)["label"]
    label = case["label"].as_tensor()
    assert regions.dtype == torch.float32 and regions.shape[0] == 3
    for region, codes in zip(regions, ((1, 2, 3), (1, 3), (3,))):
        np.testing.assert_array_equal(region.numpy(), np.isin(label[0].numpy(), codes))
    assert (regions[0] >= regions[1]).all() and (regions[1] >= regions[2]).all() and regions[2].any()
    for scores, threshold in ((regions, 0.5), (2 * regions - 1, 0.0)):
        back = RegionsToLabelsd("pred", threshold=threshold)({"pred": scores})["pred"]
        assert back.dtype == torch.uint8 and torch.equal(back.as_tensor(), label)
    for wrong in (50, -0.1, 1):
        with pytest.raises(InputError, match=f"threshold must lie between 0 and 1, got {wrong}"):
            RegionsToLabelsd("pred", threshold=wrong)
    old = RegionsToLabelsd("pred", label_coding="brats2020")({"pred": regions})["pred"].numpy()
    assert sorted(np.unique(old)) == [0, 1, 2, 4]
    np.testing.assert_array_equal(contiguous_codes(old, "auto", "x"), label.numpy())


def test_an_inner_region_never_leaves_an_outer_one():
    scores = torch.tensor([[0.9, 0.1, 0.9, 0.9], [0.1, 0.9, 0.9, 0.2], [0.9, 0.9, 0.9, 0.9]])[:, None, None]
    assert RegionsToLabelsd("pred")({"pred": scores})["pred"].flatten().tolist() == [2, 0, 3, 2]


def test_the_whole_tumour_alone_is_one_channel_and_the_code_one(case):
    whole = LabelsToRegionsd("label", regions=["WT"])(case)["label"]
    assert whole.shape[0] == 1 and torch.equal(whole.as_tensor() > 0, case["label"].as_tensor() > 0)
    assert set(RegionsToLabelsd("p", regions=["WT"])({"p": whole})["p"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("codes", "coding", "expected"),
    [
        ([0, 1, 2, 4], "auto", [0, 1, 2, 3]),
        ([0, 1, 2, 3], "auto", [0, 1, 2, 3]),
        ([0, 4, 3, 1], "brats2024", [0, 0, 3, 1]),
        ([0, 1, 0, 2], "brats2020", [0, 1, 0, 2]),
        ([0, 1, 2, 3], "msd", [0, 2, 1, 3]),  # the Decathlon: 1 is oedema, 2 the core without enhancement
    ],
)
def test_codes_of_every_year_become_those_of_2023(codes, coding, expected):
    for dtype in (np.uint8, np.float32):
        assert contiguous_codes(np.array(codes, dtype=dtype), coding, "x").tolist() == expected


@pytest.mark.parametrize(
    ("codes", "coding", "words"),
    [
        ([0, 3, 4], "auto", r"got 3; set label_coding to brats2024"),
        ([0, 1, 7], "auto", r"got 7; check"),
        ([0, 0.5, 1], "auto", r"got 0.5"),
        ([0, 1, 3], "brats2020", r"\[0, 1, 2, 4\] \(brats2020\), got 3"),
        ([0, np.nan], "auto", "got nan"),
    ],
)
def test_other_codes_are_refused_by_value(codes, coding, words):
    with pytest.raises(InputError, match=words):
        contiguous_codes(np.array(codes, dtype=np.float32), coding, "x")


def test_a_head_is_refused_or_warned_about_and_a_brain_is_not():
    rng = np.random.default_rng(1)
    head = rng.rayleigh(20, (4, 24, 24, 24)).astype(np.float32)
    wide = np.diag([8.0, 8, 8, 1])  # 7.1 litres of noise and tissue
    with pytest.raises(InputError, match=r"got 7.1 litres; strip the skull"):
        LoadImageBraind("image", reader=stub(head, affine=wide))({"image": "x"})
    with pytest.warns(UserWarning, match="strip the skull"):
        LoadImageBraind("image", reader=stub(head, affine=wide), skull_stripped="warn")({"image": "x"})
    LoadImageBraind("image", reader=stub(head, affine=wide), skull_stripped="ignore")({"image": "x"})
    shifted = brain_like(rng) - 5  # 1.4 litres on a background of -5
    made = LoadImageBraind("image", reader=stub(shifted, affine=wide))({"image": "x"})
    np.testing.assert_array_equal(made["image"].numpy(), shifted)


def test_an_empty_sequence_and_unknown_knobs_are_refused():
    image = brain_like(np.random.default_rng(0))
    image[1] = 0
    with pytest.raises(InputError, match="a t1ce that is 0 everywhere"):
        LoadImageBraind("image", reader=stub(image))({"image": "x"})
    for wrong in ({"skull_stripped": "maybe"}, {"label_coding": "brats1999"}):
        with pytest.raises(InputError):
            load(**wrong)
    for regions in ([], ["TC", "WT"], ["ED"]):
        with pytest.raises(InputError, match="some of WT, TC, ET"):
            LabelsToRegionsd("label", regions=regions)


@real
@pytest.mark.realdata
def test_a_real_glioma_is_loaded_with_an_old_label_and_normalised():
    folder = REAL / "TCGA-FG-6692"
    case = {"image": str(folder / "TCGA-FG-6692_t2.nii.gz"), "label": str(folder / "TCGA-FG-6692_seg_mav.nii.gz")}
    case = load()(case)
    assert case["image"].shape == (4, 240, 240, 155) and sorted(case["label"].unique().tolist()) == [0, 1, 2, 3]
    case = NormalizeBraind("image")(case)
    image, tumour = case["image"].numpy(), case["label"].numpy()[0] > 0
    assert (image[:, 0, 0, 0] == -1).all() and image.max() == 1
    assert image[3][tumour].mean() > image[3][~tumour & (image[3] > -1)].mean() + 0.2  # flair shows it bright
