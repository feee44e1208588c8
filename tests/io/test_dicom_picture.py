"""A synthetic radiograph in DICOM: the same pixels for every reader; it says that it is synthetic and names nobody."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import make_radiograph
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, picture_affine
from hiresmed.io import CaseOutput
from hiresmed.io.dicom import open_series
from hiresmed.io.dicom_picture import write_secondary_capture

pydicom = pytest.importorskip("pydicom", reason="Secondary Captures are written by pydicom")

PATIENT = {"PatientName": "Doe^Jane", "PatientID": "MRN4711", "AccessionNumber": "ACC99", "StudyDate": "20200102"}
HANGING = {"PatientOrientation": ["L", "F"], "BodyPartExamined": "CHEST", "ViewPosition": "PA"}


def picture(dtype=np.uint16, shape=(9, 7)) -> ArrayVolume:
    limit = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 65535
    values = np.random.default_rng(2).integers(0, limit, shape, endpoint=True).astype(dtype)
    return ArrayVolume(values, picture_affine(0.143, 0.2), "made")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8, np.float32])
def test_every_reader_finds_the_same_pixels_and_spacing(tmp_path, dtype):
    itk = pytest.importorskip("itk")
    volume = picture(dtype)
    path = write_secondary_capture(volume, tmp_path / "x.dcm")
    ours, theirs = open_series(path), itk.imread(str(path))
    np.testing.assert_array_equal(ours.array, volume.array)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, volume.array)
    np.testing.assert_array_equal(itk.array_from_image(theirs).squeeze(), volume.array)
    np.testing.assert_allclose(ours.spacing, (0.143, 0.2))
    np.testing.assert_allclose(list(theirs.GetSpacing())[:2], (0.2, 0.143))
    assert [p.name for p in tmp_path.iterdir()] == ["x.dcm"]


def test_it_says_that_it_is_derived_and_synthetic(tmp_path):
    source = make_radiograph(tmp_path / "in" / "a.dcm", **PATIENT, **HANGING)
    ds = pydicom.dcmread(write_secondary_capture(picture(), tmp_path / "x.dcm", reference=source))
    assert ds.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert (ds.ConversionType, list(ds.ImageType), ds.Modality) == ("SYN", ["DERIVED", "SECONDARY"], "DX")
    assert "synthetic" in ds.SeriesDescription.lower() and "not for diagnosis" in ds.DerivationDescription
    assert {keyword: ds[keyword].value for keyword in HANGING} == HANGING


def test_identifiers_are_new_and_the_patient_is_named_only_where_asked_for(tmp_path):
    source = make_radiograph(tmp_path / "in" / "a.dcm", **PATIENT)
    given = pydicom.dcmread(source)
    silent = write_secondary_capture(picture(), tmp_path / "x.dcm", reference=source)
    content, ds = silent.read_bytes(), pydicom.dcmread(silent)
    assert [word for word in PATIENT.values() if word.encode() in content] == []
    assert given.SOPInstanceUID.encode() not in content and ds.StudyInstanceUID != given.StudyInstanceUID
    ds = pydicom.dcmread(write_secondary_capture(picture(), tmp_path / "y.dcm", reference=source, keep_patient=True))
    assert {keyword: ds[keyword].value for keyword in PATIENT} == PATIENT
    assert ds.StudyInstanceUID == given.StudyInstanceUID and ds.SeriesInstanceUID != given.SeriesInstanceUID
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == given.SOPInstanceUID != ds.SOPInstanceUID


def test_a_seed_fixes_the_bytes_and_other_values_get_other_uids(tmp_path):
    volume = picture()
    a, b = (write_secondary_capture(volume, tmp_path / name, seed=0).read_bytes() for name in ("a.dcm", "b.dcm"))
    assert a == b
    uid = pydicom.dcmread(tmp_path / "a.dcm").SOPInstanceUID
    volume.array[0, 0] ^= 1
    assert pydicom.dcmread(write_secondary_capture(volume, tmp_path / "c.dcm", seed=0)).SOPInstanceUID != uid


def test_a_spacing_that_the_source_does_not_tell_is_not_invented(tmp_path):
    source = make_radiograph(tmp_path / "in" / "a.dcm")
    ds = pydicom.dcmread(write_secondary_capture(picture(), tmp_path / "x.dcm", reference=source))
    assert "PixelSpacing" not in ds and "NominalScannedPixelSpacing" not in ds


def test_a_run_writes_one_where_a_radiograph_came_in_or_dicom_is_asked_for(tmp_path):
    source = make_radiograph(tmp_path / "in" / "a.dcm", ImagerPixelSpacing=[0.143, 0.2], **PATIENT)
    output = CaseOutput(str(tmp_path / "out"), keep_patient="true", size=None)
    (case,) = output.cases(image=str(source))
    path = output.save(case, picture(), whole=True)
    assert path.name == "a_synthetic.dcm" and pydicom.dcmread(path).PatientID == "MRN4711"
    (tmp_path / "b.tiff").touch()
    wanted = CaseOutput(str(tmp_path / "out"), output_format="dicom")
    assert wanted.format_of({"name": "b", "source": tmp_path / "b.tiff"}) == "dcm"
    assert wanted.format_of({"name": "b", "source": tmp_path}) == "dicom"


def test_what_it_cannot_hold_is_said(tmp_path):
    with pytest.raises(InputError, match=r"2-D image.*output_format to dicom"):
        write_secondary_capture(ArrayVolume(np.zeros((3, 3, 3))), tmp_path / "x.dcm")
    source = make_radiograph(tmp_path / "a.dcm")
    output = CaseOutput(str(tmp_path / "out"), output_format="dcm")
    (case,) = output.cases(image=str(source))
    with pytest.raises(InputError, match="DICOM file of one picture must have at most"):
        output.check(case, (10000, 10000))
