"""Cases are found by their names in every layout, and what is missing, doubled or unlike is said by name."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.datasets.brats import SEQUENCES, brain_cases, brats2020_split, brats_case, brats_cases, named
from hiresmed.datasets.brats_cache import brain_dataset
from hiresmed.datasets.brats_read import read_brats
from hiresmed.datasets.loaders import case_loader
from hiresmed.methods.patchddm import CoordinateCropd, FillLesiond, LabelsToRegionsd, LoadImageBraind, NormalizeBraind
from hiresmed.phantoms.brain import BrainPhantom
from monai.transforms import Compose

REAL = Path(os.environ.get("HIRESMED_DATA", "")) / "brain_mr"
real = pytest.mark.skipif(
    "HIRESMED_DATA" not in os.environ or not REAL.is_dir(), reason="HIRESMED_DATA names no folder with brain_mr"
)
TEST = (
    "10,26,40,48,71,73,88,89,100,116,118,148,166,173,175,178,193,194,196,198,212,243,244,252,266,278,286,293,315,324,"
    "334,336,338,340,354,356,360"
)
VALIDATION = (
    "29,32,33,39,43,54,58,83,85,92,106,120,122,128,129,152,164,184,186,203,204,245,258,263,268,274,289,291,292,316,318,"
    "326,333,337,342,365,368"
)
SCHEMES = {
    "BraTS20_Training_007_{}.nii": ("t1", "t1ce", "t2", "flair", "seg"),
    "BraTS-GLI-00042-000-{}.nii.gz": ("t1n", "t1c", "t2w", "t2f", "seg"),
    "sub-3_{}.nii.gz": ("T1w", "T1Gd", "T2", "FLA", "Seg"),
    "{}.nii.gz": ("t1", "t1ce", "t2", "flair", "seg"),
}


def write(path: Path, value: float, shape=(5, 6, 4), affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(shape, value, dtype=np.float32)
    values[0] = 0
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]) if affine is None else affine), path)
    return path


def make(folder: Path, scheme="BraTS20_Training_007_{}.nii", label=True) -> dict[str, Path]:
    words = SCHEMES[scheme][: 5 if label else 4]
    return {w: write(folder / scheme.format(w), n + 1) for n, w in enumerate(words)}


def channels(source) -> list[float]:
    return [float(c.max()) for c in read_brats(source)[0]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_folder_single_file_list_in_any_order_and_dict_give_the_same_four_channels_and_label(tmp_path, scheme):
    files = make(tmp_path / "case_a", scheme)
    paths = list(files.values())
    for source in (tmp_path / "case_a", *paths[:4], str(paths[2])):
        image, label, _, case = read_brats(source)
        assert [c.max() for c in image] == [1, 2, 3, 4] and label.max() == 5
        assert case["subject"] == {"{}.nii.gz": "case_a"}.get(scheme, scheme[:-4].split("{")[0].rstrip("-_"))
    shuffled = paths[:4]
    random.Random(1).shuffle(shuffled)
    assert channels(shuffled) == channels(dict(zip(files, paths[:4]))) == [1, 2, 3, 4]


def test_a_list_of_names_that_tell_nothing_is_taken_in_order(tmp_path):
    paths = [write(tmp_path / f"scan{n}.nii", n + 1) for n in range(4)]
    assert channels(paths) == [1, 2, 3, 4] and channels(paths[::-1]) == [4, 3, 2, 1]


@pytest.mark.parametrize("shape", [(5, 6, 4, 4), (5, 6, 4, 1, 4)])
def test_a_four_channel_nifti_is_a_case(tmp_path, shape):
    values = np.zeros(shape, dtype=np.int16)
    values[1:] = np.arange(1, 5)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "stack.nii.gz")
    image, label, _, case = read_brats(tmp_path / "stack.nii.gz", channel_order=SEQUENCES)
    assert image.shape == (4, 5, 6, 4) and [c.max() for c in image] == [1, 2, 3, 4]
    assert label is None and case["name"] == "stack"


def test_a_segmentation_is_never_an_input():
    assert named("x_seg_t1.nii.gz")[1] == "label" and named("x_t1_seg.nii")[1] == "label"
    assert named("x_t1_mask.nii.gz")[1] is None and named("BraTS-GLI-1-t1c.nii") == ("BraTS-GLI-1", "t1ce")


def test_a_data_set_is_found_in_folders_and_side_by_side(tmp_path):
    for n in (2, 1):
        make(tmp_path / "deep" / f"case{n}", "{}.nii.gz")
    for n in (5, 4):
        for k, word in enumerate(("t1", "t1ce", "t2", "flair")):
            write(tmp_path / f"BraTS2021_0000{n}_{word}.nii.gz", k)
    found = brats_cases(tmp_path)
    assert [c["subject"] for c in found] == ["BraTS2021_00004", "BraTS2021_00005", "case1", "case2"]
    assert ["label" in c for c in found] == [False, False, True, True]
    assert all(named(p)[1] == s for c in found for p, s in zip(c["image"], SEQUENCES))


def test_a_missing_sequence_is_named_with_what_was_found(tmp_path):
    make(tmp_path)["t2"].unlink()
    with pytest.raises(InputError, match=r"got no t2 in .*t1ce \(BraTS20_Training_007_t1ce.nii\)"):
        brats_case(tmp_path)


def test_a_doubled_sequence_is_named_with_both_files(tmp_path):
    make(tmp_path)
    write(tmp_path / "BraTS20_Training_007_t1gd.nii.gz", 1)
    with pytest.raises(InputError, match=r"one t1ce, got .*_t1ce.nii, .*_t1gd.nii.gz"):
        brats_case(tmp_path)


def test_shapes_and_affines_that_differ_are_named(tmp_path):
    files = make(tmp_path)
    write(files["flair"], 1, shape=(5, 6, 5))
    with pytest.raises(InputError, match=r"_flair.nii must have the shape .*\(5, 6, 4\), got \(5, 6, 5\)"):
        read_brats(tmp_path)
    write(files["flair"], 1, affine=np.diag([-1.0, -1, 1.5, 1]))
    with pytest.raises(InputError, match=r"_flair.nii must have the affine .* 0.5 mm"):
        read_brats(tmp_path)
    write(files["flair"], 1)
    write(files["seg"], 1, shape=(4, 6, 4))
    with pytest.raises(InputError, match=r"_seg.nii must have the shape"):
        read_brats(tmp_path)


def test_other_mistakes_end_in_one_sentence(tmp_path):
    mistakes = {
        "no.nii": "which does not exist",
        "": "which does not exist",
        str(tmp_path): "got none of such a name",
        str(write(tmp_path / "odd.nii", 1)): "four channels",
        (write(tmp_path / "a_t1.nii", 1), tmp_path / "a_t2.nii"): "each once",
    }
    for source, words in mistakes.items():
        if source == str(tmp_path):
            (tmp_path / "empty").mkdir()
            source = tmp_path / "empty"
        with pytest.raises(InputError, match=words):
            read_brats(list(source) if isinstance(source, tuple) else source)
    with pytest.raises(InputError, match="got none in"):
        brats_cases(tmp_path / "empty")


def test_damage_and_nan_are_named(tmp_path):
    files = make(tmp_path, "BraTS-GLI-00042-000-{}.nii.gz")
    whole = files["t2w"].read_bytes()
    files["t2w"].write_bytes(whole[: len(whole) - 20])
    with pytest.raises(InputError, match=r"t2w.nii.gz must be"):
        read_brats(tmp_path)
    write(files["t2w"], np.nan)
    with pytest.raises(InputError, match=r"t2w.nii.gz .*NaN"):
        read_brats(tmp_path)


def test_several_segmentations_need_a_name_and_plain_seg_wins(tmp_path):
    make(tmp_path)
    other = write(tmp_path / "BraTS20_Training_007_seg_net.nii", 2)
    assert brats_case(tmp_path)["label"].name == "BraTS20_Training_007_seg.nii"
    assert brats_case(tmp_path, label="seg_net")["label"] == other
    (tmp_path / "BraTS20_Training_007_seg.nii").rename(tmp_path / "BraTS20_Training_007_seg_b.nii")
    with pytest.warns(UserWarning, match="2 segmentations"):
        assert "label" not in brats_case(tmp_path)


def test_the_split_of_brats_2020_is_the_authors():
    split = brats2020_split()
    assert split["test"] == [int(n) for n in TEST.split(",")]
    assert split["validation"] == [int(n) for n in VALIDATION.split(",")]
    assert len(split["training"]) == 295 and sorted(n for part in split.values() for n in part) == list(range(1, 370))


def test_sections_follow_the_authors_for_brats_2020_and_names_elsewhere(tmp_path):
    for number in (10, 29, 1):
        for word in SCHEMES["BraTS20_Training_007_{}.nii"]:
            write(tmp_path / f"BraTS20_Training_{number:03d}_{word}.nii", 1, shape=(2, 2, 2))
    sections = {s: [c["subject"][-3:] for c in brain_cases(tmp_path, s)] for s in ("training", "validation", "test")}
    assert sections == {"training": ["001"], "validation": ["029"], "test": ["010"]}
    (tmp_path / "BraTS20_Training_001_seg.nii").unlink()
    with pytest.raises(InputError, match="BraTS20_Training_001 must have a label"):
        brain_cases(tmp_path, "training")


def test_phantoms_stand_in_for_data_with_other_patients_in_each_section():
    seeds = {
        s: [c["image"].seed for c in brain_cases(section=s, phantoms=8)] for s in ("training", "validation", "test")
    }
    assert seeds["training"] == [0, 1, 2, 3, 4, 5] and seeds["validation"] == [6, 7]
    assert not set(seeds["test"]) & {*seeds["training"], *seeds["validation"]}
    image, label, affine, case = read_brats(BrainPhantom((16, 16, 16), seed=1))
    assert image.shape == (4, 16, 16, 16) and label.any() and affine[0, 0] == -11 and case["name"] == "brain_phantom_1"


@real
@pytest.mark.realdata
def test_real_layouts_are_read_in_order():
    glioma = REAL / "TCGA-FG-6692"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [brats_case(glioma), brats_case(glioma / "TCGA-FG-6692_fla.nii.gz")]
    assert cases[0] == cases[1] and "label" not in cases[0]
    assert [p.name[13:-7] for p in cases[0]["image"]] == ["t1", "t1c", "t2", "fla"]
    image, label, affine, case = read_brats(REAL / "openms_p19")
    assert case["name"] == "openms_p19" and image.shape == (4, 182, 218, 182) and label.max() == 1
    assert [round(float(c.max())) for c in image] == [1042, 1161, 853, 138]
    assert nibabel.aff2axcodes(affine) == ("L", "A", "S")


def test_a_list_of_cases_repeats_them_and_mixes_phantoms_with_patients(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two", label=False)
    listed = [
        {"case": "one", "repeat": 3},
        {"case": "two", "tumour": False},
        {"case": "one", "tumour": False, "section": "validation"},
        {"phantoms": [5, 6], "tumour": False, "shape": [16, 16, 16]},
    ]
    cases = brain_cases(tmp_path, "training", cases_list=listed, phantom={"contrast": "varied"})
    assert [bool(c.get("label")) for c in cases[:4]] == [True, True, True, False]
    assert cases[3]["tumour"] is False and cases[4]["image"].read()[1].sum() == 0
    assert [c["image"].seed for c in cases[4:]] == [5, 6]
    assert len(brain_cases(tmp_path, cases_list=listed)) == 7
    (held,) = brain_cases(tmp_path, "validation", cases_list=listed)
    assert "label" not in held
    with pytest.raises(InputError, match="must have a label for training"):
        brain_cases(tmp_path, "training", cases_list=[{"case": "two"}])
    with pytest.raises(InputError, match="must name a case or phantoms"):
        brain_cases(tmp_path, "training", cases_list=[{"image": "one"}])


def test_a_batch_of_listed_cases_collates_whatever_the_list_says_of_each(tmp_path):
    """Cases with and without `tumour`, `lesion` and a label of their own, and a phantom, in any order."""
    for name in ("one", "two"):
        label = write(make(tmp_path / name)["seg"], 1)
        values = np.asarray(nibabel.load(label).dataobj) * (np.arange(5) > 2)[:, None, None]  # half of the brain
        nibabel.save(nibabel.Nifti1Image(values, nibabel.load(label).affine), label)
    listed = [
        {"case": "one", "lesion": "filled"},
        {"case": "two"},
        {"case": "two", "tumour": False},
        {"phantoms": [5, 5], "shape": [5, 6, 4]},
    ]
    loading = Compose(
        [
            LoadImageBraind("image"),
            NormalizeBraind("image"),
            LabelsToRegionsd("label", ["WT"]),
            FillLesiond("image"),
            CoordinateCropd(["image", "label"], 4, num_samples=2),
        ]
    )
    for cases in (listed, listed[::-1]):
        dataset = brain_dataset("training", loading, tmp_path, cases_list=cases)
        (batch,) = case_loader(dataset, 4)
        assert batch["image"].shape == (8, 4, 4, 4, 4) and batch["label"].shape == (8, 1, 4, 4, 4)
        assert batch["image"].isfinite().all() and batch["name"].count("brain_phantom_5") == 2


def test_a_corrected_file_under_its_old_name_is_read_again_by_a_cache(tmp_path):
    files = make(tmp_path / "data" / "one")

    def label(codes: int) -> None:
        write(files["seg"], 0)
        values = np.zeros((5, 6, 4), np.float32)
        values[4] = codes
        nibabel.save(nibabel.Nifti1Image(values, nibabel.load(files["seg"]).affine), files["seg"])

    def loaded() -> tuple[list[float], float]:
        load = Compose([LoadImageBraind("image")])
        cache = tmp_path / "cache"
        (case,) = brain_dataset("training", load, tmp_path / "data", cases_list=[{"case": "one"}], cache_dir=cache)
        return [float(channel.max()) for channel in case["image"]], float(case["label"].max())

    label(1)
    assert loaded() == ([1, 2, 3, 4], 1)
    write(files["t2"], 7)
    assert loaded() == ([1, 2, 7, 4], 1)
    label(2)
    assert loaded() == ([1, 2, 7, 4], 2)


def test_a_case_that_is_said_to_have_no_tumour_gets_an_empty_label_whatever_lies_beside_it(tmp_path):
    make(tmp_path / "one")
    (case,) = brain_cases(tmp_path, "training", cases_list=[{"case": "one", "tumour": False}])
    loaded = LoadImageBraind("image")(case)
    assert loaded["label"].shape == (1, 5, 6, 4) and loaded["label"].sum() == 0
