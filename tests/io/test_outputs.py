"""Results are named when whole; formats follow the input; nothing that exists is replaced unasked."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import CaseOutput
from hiresmed.io.outputs import _can_write_dicom
from hiresmed.phantoms import ThoraxPhantom


def output(tmp_path, **options) -> CaseOutput:
    return CaseOutput(str(tmp_path / "out"), **options)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.nii", "nii"),
        ("a.nii.gz", "nii.gz"),
        ("a.nrrd", "nii.gz"),
        ("a.png", "png"),
        ("a.JPG", "png"),
        ("a.tif", "tiff"),
    ],
)
def test_the_format_follows_the_input_unless_it_is_named(tmp_path, source, expected):
    case = {"name": "a", "source": tmp_path / source}
    assert output(tmp_path).format_of(case) == expected
    assert output(tmp_path, output_format="nii").format_of(case) == "nii"


def test_a_result_that_exists_is_refused_unless_overwrite(tmp_path):
    image = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), image)
    first = output(tmp_path)
    case = first.cases(image=str(image))[0]
    first.check(case, (4, 4, 4))
    volume = ArrayVolume(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.diag([2.0, 3.0, 4.0, 1.0]))
    final = first.save(case, volume, True)
    assert np.array_equal(np.asarray(nib.load(final).dataobj), volume.array)
    with pytest.raises(InputError, match=r"a_synthetic\.nii"):
        output(tmp_path).cases(image=str(image))
    assert len(output(tmp_path, overwrite="true").cases(image=str(image))) == 1


def test_a_disk_too_small_is_said_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"must have \d.* [kMGT]?B free for this result"):
        output(tmp_path).check({"name": "a", "source": "a.nii"}, (10**6, 10**6, 10**6))


def test_several_cases_get_a_folder_each_and_one_case_none(tmp_path):
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)), tmp_path / f"{name}.nii")
    many, one = output(tmp_path), output(tmp_path)
    assert [c["name"] for c in many.cases(dataset_dir=str(tmp_path))] == ["a", "b"]
    assert many.final({"name": "a", "source": "a.nii"}).parent.name == "a"
    one.cases(image=str(tmp_path / "a.nii"))
    assert one.final({"name": "a", "source": "a.nii"}).parent == tmp_path / "out"


def test_without_image_the_embedded_phantom_is_the_case(tmp_path):
    phantom = ThoraxPhantom((8, 8, 8))
    cases = output(tmp_path).cases(default=phantom)
    assert cases[0]["image"] is phantom and cases[0]["name"] == phantom.name


def test_a_sketch_alone_is_a_case_without_image(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "drawn.nii.gz")
    case = output(tmp_path).cases(sketch=str(tmp_path / "drawn.nii.gz"), default=ThoraxPhantom((8, 8, 8)))[0]
    assert "image" not in case and case["name"] == "drawn"


def test_an_interrupted_run_is_neither_lost_nor_mistaken_for_a_new_one(tmp_path):
    """The next start says that resume would go on; overwrite begins anew."""
    image = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), image)
    first = output(tmp_path)
    (case,) = first.cases(image=str(image))
    first.check(case, (4, 4, 4))
    assert len(output(tmp_path).cases(image=str(image))) == 1, "nothing was made yet"
    first.stores(case, {}).pyramid("result", [(4, 4, 4)], [1], np.eye(4), "int16", 1.0, [(4, 4, 4)])
    with pytest.raises(InputError, match="got one of a; set resume to true to go on with it, or overwrite to true to"):
        output(tmp_path).cases(image=str(image))
    assert first.work_dir("a").exists()
    for option in ("resume", "overwrite"):
        assert len(output(tmp_path, **{option: True}).cases(image=str(image))) == 1


class Killed(BaseException):
    """Nothing that tidies up after errors may catch it."""


@pytest.mark.parametrize("kind", ["nii", "ome-zarr"])
def test_killed_while_it_tidies_up_a_finished_case_leaves_nothing_that_looks_unfinished(tmp_path, monkeypatch, kind):
    image = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), image)
    first = output(tmp_path, output_format=kind)
    (case,) = first.cases(image=str(image))
    first.check(case, (4, 4, 4))
    (level,) = first.stores(case, {}).pyramid("result", [(4, 4, 4)], [1], np.eye(4), "int16", 1.0, [(4, 4, 4)])
    level.write((0, 0, 0), np.ones((4, 4, 4), np.int16))
    final = first.save(case, level, whole=True)

    def removed_in_part(folder, ignore_errors=False):
        """As shutil.rmtree, until the process ends within it."""
        if folder.exists():
            next(path for path in folder.rglob("*") if path.is_file()).unlink()
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", removed_in_part)
        (first.work_dir("a") / "unpacked.nii").write_bytes(b"voxels")
        with pytest.raises(Killed):
            first.finish(case)
    assert final.exists() and not first.work_dir("a").exists()
    with pytest.raises(InputError, match="there is nothing to resume"):
        output(tmp_path, output_format=kind, resume=True).cases(image=str(image))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [final.name], "what was left is removed"


def test_an_ome_zarr_of_a_region_is_refused(tmp_path):
    with pytest.raises(InputError, match="region"):
        output(tmp_path, output_format="ome-zarr", region=[[0, 1]] * 3)
    with pytest.raises(InputError, match="region"):
        output(tmp_path, output_format="ome-zarr").save({"name": "a", "source": None}, None, whole=False)


def test_want_of_pydicom_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr("hiresmed.io.outputs.importlib.util.find_spec", lambda name: None)
    _can_write_dicom.cache_clear()
    try:
        assert [_can_write_dicom() for _ in range(2)] == [False, False]
    finally:
        _can_write_dicom.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "A result of DICOM becomes NIfTI or PNG, as pydicom is not installed; for DICOM run: pip install pydicom."
    ]
