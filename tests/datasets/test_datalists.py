"""The split depends on a case's name alone; an explicit list is taken at its word."""

import nibabel as nib
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.datasets import list_cases, mri_cases
from hiresmed.datasets.sections import section_of, sections_of
from hiresmed.methods.msgan import GradientSketch, MultiScaleGenerator, training_cases

SMALL = {"width": 4, "num_blocks": 1, "fine_width": 4}


def save(folder, name: str, shape=(24, 20, 16)) -> None:
    values = np.random.default_rng(len(name)).integers(-1000, 1000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"{name}.nii.gz")


def test_adding_cases_moves_no_other_case_to_another_section(tmp_path):
    names = [f"case_{n}" for n in range(40)]
    before = {n: section_of(n) for n in names}
    assert {section_of(n) for n in names} == {"training", "validation"}
    assert before == {n: section_of(n) for n in [*names, "another", "more"] if n in before}
    share = sum(section_of(f"x{n}") == "validation" for n in range(2000)) / 2000
    assert 0.17 < share < 0.23


def test_every_case_of_a_folder_is_in_exactly_one_section(tmp_path):
    for n in range(12):
        save(tmp_path, f"case_{n}")
    parts = [{c["name"] for c in list_cases(str(tmp_path), s)} for s in ("training", "validation")]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 12


def test_an_empty_section_is_refused(tmp_path):
    with pytest.raises(InputError, match="validation section"):
        list_cases(str(tmp_path), "validation", [{"image": "a.nii.gz"}])


@pytest.mark.parametrize("cached", [False, True])
def test_a_listed_region_is_all_that_training_sees(tmp_path, cached):
    save(tmp_path, "one")
    network = MultiScaleGenerator(3, base=SMALL, stage=SMALL)
    cases = training_cases(
        str(tmp_path),
        "training",
        network,
        GradientSketch(),
        base_size=8,
        cache_dir=str(tmp_path / "cache") if cached else None,
        cases_list=[{"image": "one.nii.gz", "region": [[2, 18], [0, 20], [4, 12]], "stages": [1]}],
    )
    whole = np.asarray(nib.load(tmp_path / "one.nii.gz").dataobj)
    level = cases[0].images[0]
    np.testing.assert_array_equal(level.read((0, 0, 0), level.shape), whole[2:18, 0:20, 4:12])
    coarse = cases[0].images[1]
    mean = whole[2:18, 0:20, 4:12].reshape(8, 2, 10, 2, 4, 2).mean((1, 3, 5))
    assert np.abs(coarse.read((0, 0, 0), coarse.shape) - mean).max() <= 0.5
    assert cases[0].stages == [1]


def test_a_cached_phantom_is_found_again(tmp_path):
    network = MultiScaleGenerator(3, base=SMALL, stage=SMALL)
    for _ in range(2):
        training_cases(
            None,
            "training",
            network,
            GradientSketch(),
            base_size=8,
            cache_dir=str(tmp_path),
            cases_list=[{"phantom": 0, "shape": [12, 10, 8]}],
        )
    assert len(list(tmp_path.iterdir())) == 1


def cropped(folder, section="training", stages=None, shares=(0.5,)):
    network = MultiScaleGenerator(3, base=SMALL, stage=SMALL)
    listed = [{"image": "one.nii.gz", "section": section, "stages": stages}]
    return training_cases(
        str(folder), section, network, GradientSketch(), base_size=8, cases_list=listed, base_crops=shares
    )


def test_base_crops_are_the_corners_of_each_image_and_teach_the_base_alone(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (16, 32, 24)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "one.nii.gz")
    whole, *crops = cropped(tmp_path)
    assert whole.stages is None and len(crops) == 8
    octants = []
    for crop in crops:
        assert crop.stages == [0] and crop.coarsest == 1
        base = crop.images[-1]
        octants.append(base.read((0, 0, 0), base.shape))
        assert max(base.shape) == 8
    first, last = values[:8, :16, :12], values[8:, 16:, 12:]
    for found, octant in ((octants[0], first), (octants[-1], last)):
        mean = octant.reshape(4, 2, 8, 2, 6, 2).mean((1, 3, 5))
        assert np.abs(found - mean).max() <= 1
    assert len(cropped(tmp_path, shares=(1.0, 0.5))) == 1 + 1 + 8, "the whole image has one corner"


def test_base_crops_are_made_of_no_validation_case_and_of_none_that_teaches_finer_stages_only(tmp_path):
    save(tmp_path, "one", (32, 32, 32))
    assert len(cropped(tmp_path, "validation")) == 1
    assert len(cropped(tmp_path, stages=[1])) == 1
    for wrong in (0, 1.5, "half"):
        with pytest.raises(InputError, match="base_crops must be shares"):
            cropped(tmp_path, shares=(wrong,))


@pytest.mark.parametrize(("dims", "shape"), [(3, (24, 20, 1)), (2, (24, 20, 16))])
def test_an_image_that_the_network_cannot_see_is_named_before_training(tmp_path, dims, shape):
    save(tmp_path, "one", shape)
    network = MultiScaleGenerator(dims, base=SMALL, stage=SMALL)
    with pytest.raises(InputError, match=rf"one must have {dims} spatial axes as the network, got shape \(2"):
        training_cases(
            str(tmp_path), "training", network, GradientSketch(), base_size=8, cases_list=[{"image": "one.nii.gz"}]
        )


def test_a_split_by_tenths_holds_a_test_section_back_and_keeps_a_patient_together(tmp_path):
    for n in range(24):
        save(tmp_path, f"scan_p{n // 2:02d}_{n}")
    parts = {
        section: {
            c["name"].split("_")[1] for c in list_cases(str(tmp_path), section, subject=r"_(p\d+)_", split="tenths")
        }
        for section in ("training", "validation", "test")
    }
    assert parts["test"] == {"p00", "p10"} and parts["validation"] == {"p05"}
    assert parts["training"] == {f"p{n:02d}" for n in range(12)} - {"p00", "p05", "p10"}


def test_a_split_by_tenths_does_not_depend_on_the_order_of_the_names():
    names = [f"p{n}" for n in range(37)]
    assert sections_of(names, "tenths") == sections_of([*reversed(names), *names], "tenths")
    with pytest.raises(InputError, match="split must be one of name, tenths"):
        sections_of(names, "halves")


def test_listed_subjects_are_split_by_tenths_instead_of_by_the_lists_own_sections():
    listed = [{"phantom": n, "section": "training"} for n in range(11)]
    parts = {s: {c["subject"] for c in mri_cases(None, s, listed, split="tenths")} for s in ("training", "test")}
    assert len(parts["test"]) == 2 and len(parts["training"]) == 8 and not parts["test"] & parts["training"]
    assert len(mri_cases(None, "training", listed)) == 11
