"""Laws: a slice is the volume's own voxels, anterior up, whatever the file's orientation; subjects never mix."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.datasets.brain_mr import mri_images
from hiresmed.datasets.mri_slices import AxialSlices, MriSlices, listed_subjects, percentiles, slice_cases
from hiresmed.io.readers import open_volume
from PIL import Image

DATA = Path(os.environ.get("HIRESMED_DATA", "/nowhere"))
SEQUENCES = ("t1", "t1ce", "t2", "flair")


def lps_volume(shape=(6, 7, 5), seed=0):
    """Random values on a grid whose axes run to the left, to the back and upwards."""
    values = np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)
    return values, np.diag([-1.0, -1.0, 2.0, 1.0])


def brats_folder(root, subjects, shape=(6, 7, 5)):
    for n, subject in enumerate(subjects):
        (root / subject).mkdir()
        for k, sequence in enumerate(SEQUENCES):
            values, affine = lps_volume(shape, 10 * n + k)
            suffix = "nii" if k % 2 else "nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, affine), root / subject / f"{subject}_{sequence}.{suffix}")
    return root


@pytest.fixture
def folder(tmp_path):
    return brats_folder(tmp_path, ["a", "b"])


def test_the_front_is_up_and_the_right_is_left_in_every_orientation():
    values, affine = lps_volume()
    image = nibabel.Nifti1Image(values, affine)
    expected = [values[:, :, k].T for k in range(5)]  # rows to the back, columns to the left
    for code in ("LPS", "RAS", "PIR", "SAL", "ASR"):
        lps = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
        turn = nibabel.orientations.ornt_transform(lps, nibabel.orientations.axcodes2ornt(tuple(code)))
        turned = image.as_reoriented(turn)
        assert "".join(nibabel.aff2axcodes(turned.affine)) == code
        slices = AxialSlices(ArrayVolume(np.asarray(turned.dataobj), turned.affine))
        assert len(slices) == 5 and slices.shape == (7, 6)
        for k in range(5):
            np.testing.assert_array_equal(slices[k], expected[k])


@pytest.mark.parametrize("code", ["LPS", "RAS", "PRS"])
def test_a_nifti_of_one_slice_is_the_slice_that_its_volume_has(tmp_path, code):
    values, affine = lps_volume()
    image = nibabel.Nifti1Image(values, affine)
    lps = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(lps, nibabel.orientations.axcodes2ornt(tuple(code)))
    )
    nibabel.save(turned.slicer[:, :, 2:3], tmp_path / "one.nii")
    slices = AxialSlices(open_volume(tmp_path / "one.nii", tmp_path))
    assert len(slices) == 1 and slices.shape == (7, 6)
    np.testing.assert_array_equal(slices[0], AxialSlices(ArrayVolume(values, affine))[2])


@pytest.mark.parametrize("shares", [(0.0, 99.8), (0.5, 99.5), (10, 90), (0, 100), (40, 60)])
@pytest.mark.parametrize("kind", ["float", "integer"])
def test_the_percentiles_are_numpys_over_all_voxels(shares, kind):
    values = np.random.default_rng(0).normal(size=(20, 21, 22)) * 100
    values = values if kind == "float" else values.clip(0).astype(np.int16)
    expected = np.percentile(values.astype(np.float64), shares)
    np.testing.assert_allclose(percentiles(AxialSlices(ArrayVolume(values)), *shares), expected, rtol=1e-12)


def test_one_slice_at_a_time_is_read():
    values, affine = lps_volume()
    asked = []

    class Watched(ArrayVolume):
        def read(self, start, shape):
            asked.append(tuple(shape))
            return super().read(start, shape)

    slices = AxialSlices(Watched(values, affine))
    percentiles(slices, 0, 99.8)
    assert set(asked) == {(6, 7, 1)}


def test_values_are_the_volumes_between_its_percentiles_with_a_margin_at_zero(folder):
    found = MriSlices(folder, contrasts=["t2"], slices=(1, 3), size=12)
    assert len(found) == 2 * 3
    values, _ = lps_volume(seed=2)
    low, high = np.percentile(values.astype(float), (0.1, 99.8))
    item = found[1]
    assert item["name"] == "a_t2_002" and item["subject"] == "a"
    assert item["image"].shape == (1, 12, 12) and item["image"].dtype == torch.float32
    expected = (np.clip(values[:, :, 2].T, low, high) - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(item["image"][0, 2:9, 3:9], expected, atol=1e-5)
    margin = item["image"].clone()
    margin[0, 2:9, 3:9] = -1
    assert margin.eq(-1).all()


def test_the_margin_is_the_background_also_where_some_values_are_negative(tmp_path):
    folder = brats_folder(tmp_path, ["a"])
    values = np.zeros((6, 7, 5), np.float32)
    values[2:4, 2:5] = 300
    values[0, 0, 0] = -100
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), folder / "a" / "a_flair.nii")
    image = MriSlices(folder, slices=(2, 2), size=16, window=(0, 99.8))[0]["image"]
    assert image.unique().tolist() == pytest.approx([-0.5, 1])


def test_paper_ranges_count_both_ends_and_every_contrast_is_an_image_of_its_own(folder):
    found = MriSlices(folder, contrasts=["t1", "flair"], slices=(2, 4), size=8)
    names = [found[k]["name"] for k in range(len(found))]
    assert names == [f"{s}_{c}_{k:03d}" for s in "ab" for c in ("t1", "flair") for k in (2, 3, 4)]
    assert found[-1]["name"] == names[-1]
    with pytest.raises(IndexError):
        found[len(found)]
    assert len(MriSlices(folder, slices=None, size=8)) == 2 * 5


def test_stacked_contrasts_are_the_channels_in_the_order_asked_for(folder):
    apart = MriSlices(folder, contrasts=["flair", "t1"], slices=(3, 3), size=8)
    stacked = MriSlices(folder, contrasts=["flair", "t1"], slices=(3, 3), size=8, stack=True)
    assert len(apart) == 4 and len(stacked) == 2
    assert torch.equal(stacked[0]["image"], torch.cat([apart[0]["image"], apart[1]["image"]]))


def test_bicubic_keeps_the_whole_field_of_view_and_the_range(folder):
    image = MriSlices(folder, slices=(0, 0), size=24, fit="bicubic")[0]["image"]
    small = MriSlices(folder, slices=(0, 0), size=4, fit="bicubic")[0]["image"]
    assert image.shape == (1, 24, 24) and image.abs().max() <= 1
    assert small.mean().item() == pytest.approx(image.mean().item(), abs=0.1)
    with pytest.raises(InputError, match="bicubic"):
        MriSlices(folder, slices=(0, 0), size=4)[0]


def test_subjects_are_split_by_name_and_never_shared():
    cases = [{"subject": f"s{k}", "image": []} for k in range(200)]
    sections = {s: {c["subject"] for c in slice_cases(cases, s)} for s in ("training", "validation")}
    assert sections["training"].isdisjoint(sections["validation"]) and len(set.union(*sections.values())) == 200
    assert 20 < len(sections["validation"]) < 60
    fewer = {c["subject"] for c in slice_cases(cases[:50], "validation")}
    assert fewer == {f"s{k}" for k in range(50)} & sections["validation"]


def test_a_file_of_subjects_chooses_them_and_may_name_their_section(tmp_path, folder):
    (tmp_path / "list.txt").write_text("# ours\nb validation\n\na training  # the first\n")
    assert listed_subjects(tmp_path / "list.txt") == {"b": "validation", "a": "training"}
    found = MriSlices(folder, "validation", slices=(1, 1), size=8, subjects=tmp_path / "list.txt")
    assert [found[k]["subject"] for k in range(len(found))] == ["b"]
    for text, match in (("a\nc\n", "not in the data, e.g. c"), ("a\na\n", "once"), ("a test x", "line"), ("#", "none")):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(InputError, match=match):
            MriSlices(folder, slices=(1, 1), size=8, subjects=tmp_path / "list.txt")


def test_mistakes_are_named(folder, tmp_path):
    for options, match in (
        ({"contrasts": ["t3"]}, "t1, t1ce, t2, flair"),
        ({"slices": (3, 5)}, "a has 5 slices, but slices 3 to 5"),
        ({"fit": "crop"}, "pad, bicubic, square"),
        ({"window": (50, 50)}, "percentiles must be two rising numbers"),
        ({"subjects": tmp_path / "absent.txt"}, r"absent\.txt"),
        ({"section": "test"}, "the test section"),
    ):
        with pytest.raises(InputError, match=match):
            MriSlices(folder, **{"slices": (0, 1), "size": 8, **options})


def test_without_a_folder_phantoms_are_cut():
    found = MriSlices(section="validation", slices=(8, 9), size=32, phantoms=4, phantom={"shape": [16, 20, 18]})
    assert len(found) == 2
    image = found[0]["image"]
    assert image.shape == (1, 32, 32) and image.max() > 0 and image[0, :6].eq(image[0, 0, 0]).all()


@pytest.mark.realdata
def test_a_real_brats_volume_lies_with_its_front_up():
    """Behind the skull-strip SRI24 leaves the brain's outline: it is longer than wide, and symmetric left to right."""
    case = DATA / "brain_mr" / "TCGA-FG-6692"
    if not case.exists():
        pytest.skip("HIRESMED_DATA names no folder with brain_mr/TCGA-FG-6692")
    paths = [case / f"TCGA-FG-6692_{s}.nii.gz" for s in ("t1", "t1c", "t2", "fla")]
    found = MriSlices(cases=[{"image": paths, "subject": "x"}], contrasts=["t1"], slices=(60, 107))
    assert len(found) == 48
    image = found[20]["image"][0]
    volume = nibabel.load(paths[0])
    values = np.asarray(volume.dataobj).astype(float)
    low, high = np.percentile(values, (0.1, 99.8))
    expected = (values[:, :, 80].T.clip(low, high) - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(image[8:248, 8:248], expected, atol=1e-5)
    rows, columns = (torch.nonzero((image > image[0, 0] + 0.1).any(axis)).flatten() for axis in (1, 0))
    assert rows[-1] - rows[0] > columns[-1] - columns[0]


def test_subjects_of_one_slice_each_make_a_data_set(tmp_path):
    data = MriSlices(brats_folder(tmp_path, ["a", "b"], shape=(6, 7, 1)), contrasts=["t2"], slices=None, size=8)
    assert [data[n]["name"] for n in range(len(data))] == ["a_t2_000", "b_t2_000"]


def test_a_folder_of_pictures_gives_each_as_it_is_seen_once_and_splits_them_by_name(tmp_path):
    pictures = {}
    for n in range(12):
        pictures[f"p{n:02d}"] = np.random.default_rng(n).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pictures[f"p{n:02d}"]).save(tmp_path / f"p{n:02d}.png")
    how = {"dataset_dir": tmp_path, "contrasts": ["flair", "t1"], "size": 16, "percentiles": [0, 100]}
    images = {item["subject"]: item["image"] for section in ("training", "validation")
              for item in mri_images(section, **how)}  # fmt: skip
    assert len(mri_images("training", **how)) + len(mri_images("validation", **how)) == 12, "none twice"
    for name, values in pictures.items():
        low, high = int(values.min()), int(values.max())
        expected = (values.astype(float) - low) / (high - low) * 2 - 1
        assert np.abs(images[name][0].numpy() - expected).max() < 1e-5
