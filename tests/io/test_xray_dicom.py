"""A radiograph in DICOM is one picture whatever its photometry, compression and way to say its pixel spacing."""

import numpy as np
import pytest
from dicom_files import GREY, make_radiograph
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import CaseOutput
from hiresmed.io.readers import open_volume

pydicom = pytest.importorskip("pydicom", reason="the synthetic radiographs are made by pydicom")


def read(path, work):
    volume = open_volume(path, work)
    return volume.read((0, 0), volume.shape)


@pytest.mark.parametrize("kind", ["DX", "CR", "OT"])
@pytest.mark.parametrize("bits", [8, 12, 15, 16])
def test_both_photometric_interpretations_give_the_same_picture_with_bright_bone(tmp_path, bits, kind):
    values = GREY * (2**bits - 1) // 4095
    for photometric in (1, 2):
        path = make_radiograph(tmp_path / f"{photometric}.dcm", values, photometric, kind, bits)
        np.testing.assert_array_equal(read(path, tmp_path), values)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1000), (0.5, 3)])
def test_the_rescaling_holds_for_both_photometric_interpretations(tmp_path, slope, intercept):
    for photometric in (1, 2):
        path = make_radiograph(
            tmp_path / f"{photometric}.dcm", GREY, photometric, RescaleSlope=slope, RescaleIntercept=intercept
        )
        np.testing.assert_array_equal(read(path, tmp_path), GREY * slope + intercept)


@pytest.mark.parametrize("kind", ["DX", "CR", "OT"])
@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"PixelSpacing": [0.15, 0.25]}, (0.15, 0.25)),
        ({"ImagerPixelSpacing": [0.143, 0.2]}, (0.143, 0.2)),
        ({"PixelSpacing": [0.15, 0.25], "ImagerPixelSpacing": [0.143, 0.2]}, (0.15, 0.25)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.143, 0.2]}, (0.143, 0.2)),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({}, (1, 1)),
    ],
    ids=str,
)
def test_spacing_is_the_patients_else_the_detectors_else_1_mm(tmp_path, tags, spacing, kind):
    volume = open_volume(make_radiograph(tmp_path / "a.dcm", kind=kind, **tags), tmp_path)
    assert volume.shape == GREY.shape
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 0] / spacing[0], [0, -1, 0], atol=1e-6)  # rows to the back
    np.testing.assert_allclose(volume.affine[:3, 1] / spacing[1], [-1, 0, 0], atol=1e-6)  # columns to the left


def test_a_jpeg_2000_is_the_uncompressed_picture(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    features = pytest.importorskip("PIL.features")
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    path = make_radiograph(tmp_path / "a.dcm", photometric=1)
    ds = pydicom.dcmread(path)
    Image.fromarray(ds.pixel_array).save(tmp_path / "a.j2k", irreversible=False, no_jp2=True)
    ds.PixelData = pydicom.encaps.encapsulate([(tmp_path / "a.j2k").read_bytes()])
    ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    ds["PixelData"].is_undefined_length = True
    ds.BitsStored, ds.HighBit = 16, 15  # as Pillow encodes
    ds.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    picture = read(tmp_path / "b.dcm", tmp_path)
    np.testing.assert_array_equal(picture - int(picture.min()), GREY - GREY.min())


def test_the_result_of_a_radiograph_is_one_dicom_file_and_of_a_series_a_series(tmp_path):
    from hiresmed.io.dicom_series import write_ct_series

    output = CaseOutput(str(tmp_path / "out"))
    path = make_radiograph(tmp_path / "x" / "a.dcm")
    make_radiograph(tmp_path / "x" / "b.dcm")  # a neighbour of the same series changes nothing
    series = write_ct_series(ArrayVolume(np.zeros((5, 6, 3), np.int16)), tmp_path / "s")
    for source, kind in ((path, "dcm"), (series, "dicom"), (next(series.iterdir()), "dicom")):
        assert output.format_of({"name": "a", "source": source}) == kind
    alone = make_radiograph(tmp_path / "y" / "a.dcm").parent
    assert output.format_of({"name": "a", "source": alone}) == "dcm"
