"""DICOM: every voxel of a series lies where the scanner put it, a damaged series is refused, a written one is read."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import AXIAL, OBLIQUE, SAGITTAL, make_series, make_slice
from hiresmed.core.errors import InputError
from hiresmed.core.tiles import check_region
from hiresmed.core.views import RegionView
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io.dicom import open_series
from hiresmed.io.dicom_series import write_ct_series
from hiresmed.io.readers import open_volume
from hiresmed.io.writers import save_volume

pydicom = pytest.importorskip("pydicom", reason="the synthetic series are made by pydicom")


def monai_image(folder):
    from monai.transforms import LoadImage

    return LoadImage(reader="ITKReader", image_only=True)(folder)


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
def test_values_and_geometry_are_those_of_the_files_and_of_monai(tmp_path, axes):
    pixels = make_series(tmp_path / "in", axes)
    volume = open_volume(tmp_path / "in", tmp_path / "work")
    assert volume.shape == (5, 6, 7) and volume.dtype == np.int16
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 2.5), rtol=1e-6)
    # the law of the standard: pixel (row, column) lies at position + column * dx * row axis + row * dy * column axis
    lps = np.add((-31, 12, 40), 4 * 2.5 * np.cross(*axes)) + 3 * 0.75 * np.array(axes[0]) + 2 * 0.5 * np.array(axes[1])
    np.testing.assert_allclose((volume.affine @ [3, 2, 4, 1])[:3], lps * [-1, -1, 1], atol=1e-5)
    assert volume.read((3, 2, 4), (1, 1, 1)).item() == pixels[4][2, 3] * 2 - 1024
    theirs = monai_image(tmp_path / "in")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), theirs.numpy())
    np.testing.assert_allclose(volume.affine, theirs.affine.numpy(), atol=1e-5)


def test_ct_values_are_rounded_to_the_nearest_hounsfield_unit_and_limited_to_int16(tmp_path):
    for k, (value, slope) in enumerate([(1027, 0.6), (1029, 0.6), (4000, 20)]):
        make_slice(tmp_path / f"{k}.dcm", (0, 0, k), value=value, RescaleSlope=slope)
    volume = open_series(tmp_path)
    assert volume.dtype == np.int16
    # 1027 x .6 - 1024 = -407.8; 1029 x .6 - 1024 = -406.6; 4000 x 20 - 1024 = 78976
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape)[0, 0], [-408, -407, 32767])
    make_slice(tmp_path / "alone" / "x.dcm", (0, 0, 0), value=1029, RescaleSlope=0.6)
    assert open_series(tmp_path / "alone").array[0, 0] == -407


def test_a_tilted_gantry_keeps_its_shear(tmp_path):
    for k in range(5):
        make_slice(tmp_path / f"{k}.dcm", (0, 0.4 * k, 2 * k))
    volume = open_series(tmp_path)
    np.testing.assert_allclose((volume.affine @ [0, 0, 4, 1])[:3], (0, -1.6, 8), atol=1e-6)


def test_the_converted_series_is_used_again_until_a_file_changes(tmp_path):
    make_series(tmp_path / "in")
    first = open_volume(tmp_path / "in", tmp_path / "work").path
    stamp = first.stat().st_mtime_ns
    assert open_volume(tmp_path / "in", tmp_path / "work").path == first and first.stat().st_mtime_ns == stamp
    os.utime(tmp_path / "in" / "000.dcm", (1, 1))
    assert open_volume(tmp_path / "in", tmp_path / "work").path != first


def test_a_file_names_its_series_among_others_and_the_folder_alone_is_refused(tmp_path):
    make_series(tmp_path, series="1.2.3")
    pixels = {k: make_slice(tmp_path / f"b{k}.dcm", (0, 0, 3 * k), series="1.2.4") for k in range(4)}
    make_slice(tmp_path / "scout.dcm", (0, 0, 99), SAGITTAL, "1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "broken.dcm").write_bytes(b"not an image")
    volume = open_series(tmp_path / "b2.dcm")
    assert volume.shape == (5, 6, 4)
    np.testing.assert_array_equal(volume.read((0, 0, 1), (5, 6, 1))[..., 0], pixels[1].T.astype(int) * 2 - 1024)
    (tmp_path / "broken.dcm").unlink()
    (tmp_path / "scout.dcm").unlink()
    with pytest.raises(InputError, match=r"got 2 \('series 1.2.3' with 7 images, 'series 1.2.4' with 4 images\)"):
        open_series(tmp_path)


@pytest.mark.parametrize("missing", [1, 3, 5])
@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_a_missing_slice_is_refused_and_named_by_its_gap(tmp_path, missing, axes):
    make_series(tmp_path, axes, skip=(missing,))
    with pytest.raises(InputError, match=r"2\.5 mm apart.* 5 mm; a slice is missing"):
        open_series(tmp_path)


def test_three_slices_with_an_unequal_gap_are_refused(tmp_path):
    make_series(tmp_path, count=4, skip=(1,))
    with pytest.raises(InputError, match="slice is missing"):
        open_series(tmp_path)


def test_positions_rounded_by_the_scanner_are_accepted(tmp_path):
    for k in range(9):
        make_slice(tmp_path / f"{k}.dcm", (0, 0, round(k * 1.3333, 1)))
    with pytest.raises(InputError):  # a tenth of a mm is more than rounding
        open_series(tmp_path)
    for k in range(9):
        make_slice(tmp_path / f"{k}.dcm", (0, 0, round(k * 1.3333, 2)))
    assert open_series(tmp_path).shape == (5, 6, 9)


def with_two_orientations(folder):
    make_series(folder)
    make_slice(folder / "odd.dcm", (0, 0, 200), SAGITTAL)


def with_a_duplicate(folder):
    make_series(folder)
    make_slice(folder / "again.dcm", (-31, 12, 45))


def with_a_localizer(folder):
    make_series(folder)
    make_slice(folder / "scout.dcm", (0, 0, 9), SAGITTAL, "1.2.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def with_a_report(folder):
    make_series(folder)
    report = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "PixelData": None, "Rows": None, "Columns": None}
    make_slice(folder / "report.dcm", (0, 0, 0), series="1.2.8", **report)


def with_a_truncated_file(folder):
    make_series(folder)
    whole = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(whole[: len(whole) // 2])


def with_another_size(folder):
    make_series(folder)
    make_slice(folder / "odd.dcm", (-31, 12, 57.5), Rows=5, Columns=6)


def with_another_pixel_spacing(folder):
    make_series(folder)
    make_slice(folder / "odd.dcm", (-31, 12, 57.5), PixelSpacing=[0.6, 0.75])


def with_two_radiographs(folder):
    for k in range(2):
        make_slice(folder / f"{k}.dcm", (0, 0, k), ImagePositionPatient=None, ImageOrientationPatient=None)


def with_colour(folder):
    extra = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8}
    bits = {"BitsStored": 8, "HighBit": 7, "PixelData": bytes(90), "Modality": "OT"}
    sop = {"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage, "RescaleIntercept": None, "RescaleSlope": None}
    make_slice(folder / "x.dcm", (0, 0, 0), **extra, **bits, **sop)


def with_frames(folder):
    sop = pydicom.uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    make_slice(folder / "x.dcm", (0, 0, 0), NumberOfFrames=2, PixelData=bytes(120), SOPClassUID=sop, Modality="OT")


def without_dicom(folder):
    (folder / "inner").mkdir(parents=True)
    (folder / "notes.txt").write_text("nothing here")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (with_two_orientations, "one orientation.*odd.dcm"),
        (with_a_duplicate, "one slice per position.*again.dcm|again.dcm.*same one"),
        (with_a_localizer, "got 1 localizers among its 8 images.*scout.dcm"),
        (with_a_report, "report.dcm must be a DICOM image.*a report"),
        (with_a_truncated_file, "003.dcm must be a DICOM image.*truncated"),
        (with_another_size, "slices of one size.*odd.dcm"),
        (with_another_pixel_spacing, "slices of one size.*odd.dcm"),
        (with_two_radiographs, "position and an orientation.*one such file at a time"),
        (with_colour, "must be grey.*3 channels"),
        (with_frames, "got 2 frames in"),
        (without_dicom, "got none in it.*inner"),
    ],
)
def test_a_folder_that_is_not_one_sound_series_is_refused_in_one_sentence(tmp_path, make, sentence):
    make(tmp_path / "in")
    with pytest.raises(InputError, match=sentence) as caught:
        open_series(tmp_path / "in")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_other_files_and_a_dicomdir_beside_the_slices_do_not_matter(tmp_path):
    make_series(tmp_path)
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / ".hidden.dcm").write_bytes(b"x")
    assert open_series(tmp_path).shape == (5, 6, 7)


def test_a_radiograph_is_rows_by_columns_with_its_detector_spacing_and_bright_bone(tmp_path):
    placed = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    sop = {"SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation, "Modality": "DX"}
    scale = {"ImagerPixelSpacing": [0.143, 0.2], "RescaleIntercept": 0, "RescaleSlope": 1}
    plain = make_slice(tmp_path / "2.dcm", (0, 0, 0), **placed, **sop, **scale)
    make_slice(tmp_path / "1.dcm", (0, 0, 0), **placed, **sop, **scale, PhotometricInterpretation="MONOCHROME1")
    upright, inverted = open_series(tmp_path / "2.dcm"), open_series(tmp_path / "1.dcm")
    assert upright.shape == (6, 5) and upright.dtype == np.uint16
    np.testing.assert_allclose(upright.spacing, (0.143, 0.2))
    np.testing.assert_array_equal(upright.array, plain)
    np.testing.assert_array_equal(inverted.array, 4095 - plain.astype(int))


def test_a_lone_slice_is_a_2d_image_at_its_place(tmp_path):
    pixels = make_slice(tmp_path / "x.dcm", (10, 20, 30), OBLIQUE)
    volume = open_series(tmp_path)
    np.testing.assert_array_equal(volume.array, pixels.astype(int) * 2 - 1024)
    lps = np.add((10, 20, 30), 2 * 0.5 * np.array(OBLIQUE[1]) + 3 * 0.75 * np.array(OBLIQUE[0]))
    np.testing.assert_allclose((volume.affine @ [2, 3, 0, 1])[:3], lps * [-1, -1, 1], atol=1e-6)


def test_a_region_of_a_series_names_columns_rows_and_slices_and_of_a_lone_image_rows_and_columns(tmp_path):
    pixels = make_series(tmp_path / "series")
    part = RegionView(open_series(tmp_path / "series"), check_region([[1, 4], [2, 6], [5, 6]], (5, 6, 7)))
    expected = pixels[5][2:6, 1:4].astype(int) * 2 - 1024
    np.testing.assert_array_equal(part.read((0, 0, 0), part.shape)[:, :, 0].T, expected)
    lone = make_slice(tmp_path / "lone" / "x.dcm", (0, 0, 0))
    part = RegionView(open_series(tmp_path / "lone"), check_region([[2, 6], [1, 4]], (6, 5)))
    np.testing.assert_array_equal(part.read((0, 0), part.shape), lone[2:6, 1:4].astype(int) * 2 - 1024)


def oblique_volume(dtype=np.int16):
    lps = np.eye(4)
    lps[:3, :3] = np.array([*OBLIQUE, np.cross(*OBLIQUE)]).T * [0.7, 0.9, 2.5]
    lps[:3, 3] = (-112.3, 47.123456, 1000.5)
    values = np.random.default_rng(3).integers(-1100, 3000, (7, 9, 5)).astype(dtype)
    return ArrayVolume(values, np.diag([-1.0, -1, 1, 1]) @ lps, "made")


def test_a_written_series_is_read_back_voxel_for_voxel_by_us_by_monai_and_by_pydicom(tmp_path):
    volume = oblique_volume()
    (folder,) = save_volume(volume, tmp_path / "case", "dicom")
    assert [p.name for p in tmp_path.iterdir()] == ["case_dicom"]
    ours, theirs = open_series(folder), monai_image(folder)
    np.testing.assert_array_equal(ours.read((0, 0, 0), ours.shape), volume.array)
    np.testing.assert_array_equal(theirs.numpy(), volume.array)
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(theirs.affine.numpy(), volume.affine, atol=1e-6)
    third = pydicom.dcmread(folder / "IM00003.dcm")
    np.testing.assert_array_equal(third.pixel_array.T, volume.array[:, :, 2])
    assert third.SOPClassUID == pydicom.uid.CTImageStorage and list(third.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert "synthetic" in third.SeriesDescription.lower() and "Synthetic" in third.DerivationDescription
    files = [pydicom.dcmread(f) for f in folder.iterdir()]
    assert len({ds.SOPInstanceUID for ds in files}) == 5 and len({ds.SeriesInstanceUID for ds in files}) == 1


def test_real_values_become_the_nearest_hounsfield_unit(tmp_path):
    volume = oblique_volume(np.float32)
    volume.array += 0.4
    folder = write_ct_series(volume, tmp_path / "out")
    np.testing.assert_array_equal(open_series(folder).read((0, 0, 0), volume.shape), np.rint(volume.array))


def test_a_left_handed_volume_comes_back_with_every_voxel_at_its_place(tmp_path):
    volume = oblique_volume()
    volume.affine = volume.affine @ np.diag([1, 1, -1, 1])
    back = open_series(write_ct_series(volume, tmp_path / "out"))
    np.testing.assert_array_equal(back.read((0, 0, 0), back.shape), volume.array[:, :, ::-1])
    np.testing.assert_allclose(back.affine @ [0, 0, 4, 1], volume.affine @ [0, 0, 0, 1], atol=1e-6)


def uids(folder):
    return [(ds.SOPInstanceUID, ds.SeriesInstanceUID) for ds in map(pydicom.dcmread, sorted(folder.iterdir()))]


def test_a_seed_fixes_the_bytes_and_other_values_get_other_uids(tmp_path):
    volume = oblique_volume()
    a, b = (write_ct_series(volume, tmp_path / name, seed=0) for name in "ab")
    assert [f.read_bytes() for f in sorted(a.iterdir())] == [f.read_bytes() for f in sorted(b.iterdir())]
    volume.array[0, 0, 0] += 1
    assert not set(uids(a)[0]) & set(uids(write_ct_series(volume, tmp_path / "c", seed=0))[0])
    assert not set(uids(a)[0]) & set(uids(write_ct_series(oblique_volume(), tmp_path / "d", seed=1))[0])
    assert not set(uids(a)[0]) & set(uids(write_ct_series(oblique_volume(), tmp_path / "e"))[0])


def test_the_reference_gives_its_frame_and_only_on_demand_its_patient(tmp_path):
    make_series(tmp_path / "source")
    anonymous = write_ct_series(oblique_volume(), tmp_path / "a", reference=tmp_path / "source")
    first = next(anonymous.iterdir())
    assert b"Doe" not in first.read_bytes() and b"4711" not in first.read_bytes()
    ds = pydicom.dcmread(first)
    assert ds.FrameOfReferenceUID == "1.2.99" and ds.StudyInstanceUID != "1.2" and ds.SeriesInstanceUID != "1.2.3"
    named = write_ct_series(
        oblique_volume(), tmp_path / "b", reference=tmp_path / "source" / "000.dcm", keep_patient=True
    )
    ds = pydicom.dcmread(next(named.iterdir()))
    assert (ds.PatientName, ds.PatientID, ds.StudyInstanceUID) == ("Doe^Jane", "4711", "1.2")
    assert ds.SeriesInstanceUID != "1.2.3"
    with pytest.raises(InputError, match="reference must be the source DICOM series"):
        write_ct_series(oblique_volume(), tmp_path / "c", reference=tmp_path)


def test_an_earlier_series_is_replaced_but_never_a_folder_with_other_files(tmp_path):
    folder = write_ct_series(oblique_volume(), tmp_path / "out")
    short = ArrayVolume(oblique_volume().array[:, :, :2], oblique_volume().affine)
    write_ct_series(short, folder)
    assert len(list(folder.iterdir())) == 2
    (folder / "thesis.docx").touch()
    with pytest.raises(InputError, match="got other files"):
        write_ct_series(short, folder)
    assert (folder / "thesis.docx").exists()


def test_a_series_that_fails_half_way_has_no_final_name(tmp_path):
    volume = oblique_volume()
    volume.read = lambda start, shape: (_ for _ in ()).throw(RuntimeError("no tile"))
    with pytest.raises(RuntimeError, match="no tile"):
        write_ct_series(volume, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_ct_series(oblique_volume(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_dicom_cannot_hold_or_write_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="3-D image"):
        write_ct_series(ArrayVolume(np.zeros((4, 4), np.int16)), tmp_path / "out")
    sheared = ArrayVolume(np.zeros((4, 4, 4), np.int16), np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], *np.eye(4)[2:]]))
    with pytest.raises(InputError, match="right angles"):
        write_ct_series(sheared, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install pydicom"):
        write_ct_series(oblique_volume(), tmp_path / "out")


@pytest.mark.realdata
def test_a_real_chest_ct_equals_monais_reader_and_a_missing_slice_of_it_is_found(tmp_path):
    if "HIRESMED_DATA" not in os.environ:
        pytest.skip("HIRESMED_DATA is not set")
    source = Path(os.environ["HIRESMED_DATA"]) / "ct3d" / "LIDC-IDRI-0001_dicom"
    if not source.is_dir():
        pytest.skip(f"no {source.name} in HIRESMED_DATA")
    volume, theirs = open_volume(source, tmp_path), monai_image(source)
    assert volume.shape == (512, 512, 16) and volume.dtype == np.int16
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), theirs.numpy())
    np.testing.assert_allclose(volume.affine, theirs.affine.numpy(), atol=1e-4)
    again = open_series(write_ct_series(volume, tmp_path / "out", reference=source, seed=0))
    np.testing.assert_array_equal(again.read((100, 200, 3), (50, 60, 4)), volume.read((100, 200, 3), (50, 60, 4)))
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-6)
    shutil.copytree(source, tmp_path / "copy")
    sorted((tmp_path / "copy").iterdir())[7].unlink()
    with pytest.raises(InputError, match="slice is missing"):
        open_series(tmp_path / "copy")


@pytest.mark.realdata
def test_a_real_compressed_monochrome1_radiograph_equals_monais_itk_reader(tmp_path):
    if "HIRESMED_DATA" not in os.environ:
        pytest.skip("HIRESMED_DATA is not set")
    source = Path(os.environ["HIRESMED_DATA"]) / "xray2d" / "pydicom_RG1_J2KI_chest.dcm"
    if not source.is_file():
        pytest.skip(f"no {source.name} in HIRESMED_DATA")
    volume = open_volume(source, tmp_path)
    assert volume.shape == (1955, 1841) and volume.dtype == np.uint16 and volume.spacing == (1, 1)
    np.testing.assert_array_equal(volume.array, monai_image(source).numpy()[:, :, 0].T)
    spine, lung = volume.read((1000, 880), (100, 60)), volume.read((480, 380), (100, 60))
    assert spine.min() > lung.max(), "bone is bright"
