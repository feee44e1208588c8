"""Identifiers in every attribute of a source, in private tags, overlays and comments are in nothing that is written."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import make_slice
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, picture_affine
from hiresmed.io.dicom import open_series
from hiresmed.io.dicom_picture import write_secondary_capture
from hiresmed.io.dicom_seg import check_segmentation_source, write_segmentation
from hiresmed.io.dicom_series import write_ct_series
from identifiers import SEED, seeded_headers, seeds

pydicom = pytest.importorskip("pydicom", reason="the sources are made by pydicom")


def ct(folder, out, **options):
    source = open_series(folder)
    volume = ArrayVolume(source.read((0, 0, 0), source.shape), source.affine, "made")
    return write_ct_series(volume, out / "ct", reference=folder, seed=0, **options)


def seg(folder, out, **options):
    pytest.importorskip("highdicom", reason="SEG objects are written by highdicom")
    labels = np.zeros(open_series(folder).shape, np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    return write_segmentation(labels, out / "seg.dcm", folder, **options)


def picture(folder, out, **options):
    volume = ArrayVolume(np.arange(30, dtype=np.uint16).reshape(6, 5), picture_affine(0.5, 0.75), "made")
    return write_secondary_capture(volume, out / "sc.dcm", reference=folder / "0.dcm", seed=0, **options)


def content(path):
    files = [path] if path.is_file() else sorted(path.iterdir())
    return b"".join(file.read_bytes() for file in files)


@pytest.mark.parametrize("write", [ct, seg, picture])
def test_nothing_of_a_seeded_source_is_in_the_dicom_that_is_written(tmp_path, write):
    raw = content(write(seeded_headers(tmp_path / "in"), tmp_path))
    assert len(seeds()) > 300
    assert SEED.encode() not in raw and b"19610203" not in raw and b"19990817" not in raw and b"038Y" not in raw


def test_equal_segmentations_of_one_source_have_equal_identifiers_and_others_have_others(tmp_path):
    """So a run that was killed and resumed names its result as one that nobody disturbed."""
    pydicom = pytest.importorskip("pydicom")
    source = seeded_headers(tmp_path / "in")

    def identifiers(folder, **options) -> list[str]:
        dataset = pydicom.dcmread(seg(source, tmp_path / folder, **options))
        dimensions = {str(item.DimensionOrganizationUID) for item in dataset.DimensionIndexSequence}
        assert dimensions == {str(dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID)}
        return [dataset.SOPInstanceUID, dataset.SeriesInstanceUID, *dimensions]

    first = identifiers("a")
    assert len(set(first)) == 3 and first == identifiers("b")
    assert not set(first) & set(identifiers("c", description="another"))


@pytest.mark.parametrize("write", [ct, seg, picture])
def test_keep_patient_keeps_patient_and_study_and_nothing_else(tmp_path, write):
    path = write(seeded_headers(tmp_path / "in"), tmp_path, keep_patient=True)
    ds = pydicom.dcmread(path if path.is_file() else sorted(path.iterdir())[0])
    named = {e.keyword for e in ds.iterall() if SEED in str(e.value) and e.VR != "SQ"}
    assert named == {"PatientName", "PatientID", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"}


def test_what_stays_true_of_the_source_is_kept_in_the_standards_terms(tmp_path):
    terms = {"BodyPartExamined": "CHEST", "PatientPosition": "HFS"}
    make = [make_slice(tmp_path / "in" / f"{k}.dcm", (0, 0, 2 * k), SliceThickness=5, **terms) for k in range(4)]
    ds = pydicom.dcmread(sorted(ct(tmp_path / "in", tmp_path).iterdir())[0])
    assert len(make) == 4 and (ds.BodyPartExamined, ds.PatientPosition, ds.SliceThickness) == ("CHEST", "HFS", 5)
    finer = ArrayVolume(np.zeros((5, 6, 8), np.int16), np.diag([0.75, 0.5, 1, 1]), "finer")
    ds = pydicom.dcmread(sorted(write_ct_series(finer, tmp_path / "b", reference=tmp_path / "in").iterdir())[0])
    assert ds.SliceThickness == 1  # slices of another distance are not the source's


@pytest.mark.parametrize(
    "missing", ["SliceThickness", "FrameOfReferenceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
def test_a_seg_that_cannot_be_written_is_known_before_any_work(tmp_path, missing):
    pytest.importorskip("highdicom", reason="SEG objects are written by highdicom")
    for k in range(4):
        make_slice(tmp_path / f"{k}.dcm", (0, 0, 2 * k), SliceThickness=2)
        ds = pydicom.dcmread(tmp_path / f"{k}.dcm")
        if missing == "SliceThickness" or k == 2:
            del ds[missing]
        ds.save_as(tmp_path / f"{k}.dcm")
    with pytest.raises(InputError, match=f"{missing}|hold one series"):
        check_segmentation_source(tmp_path)


def test_a_sound_series_passes_the_check_of_a_seg(tmp_path):
    pytest.importorskip("highdicom", reason="SEG objects are written by highdicom")
    for k in range(4):
        make_slice(tmp_path / f"{k}.dcm", (0, 0, 2 * k), SliceThickness=2)
    check_segmentation_source(tmp_path, ("WT", "TC", "ET"))
