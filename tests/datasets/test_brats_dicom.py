"""A brain in four DICOM series goes in as in four NIfTI files, and its labels come back as a SEG on its voxels."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.datasets import brats_case, brats_cases
from hiresmed.datasets.brats_read import read_brats
from hiresmed.io.dicom import open_series
from hiresmed.methods.patchddm import SegmentationOutput
from monai.data import MetaTensor

pydicom = pytest.importorskip("pydicom", reason="the synthetic series are made by pydicom")

SEQUENCES = ("t1", "t1ce", "t2", "flair")
AXES = np.array(((0.8, 0.6, 0), (-0.36, 0.48, 0.8)))  # of rows and columns, oblique, LPS
SHAPE, SPACING = (7, 6, 5), (0.9, 1.1, 2.5)  # I columns, J rows, K slices
SECRETS = ("Doe^Jane", "MRN4711", "19610203", "ACC99", "House^Gregory", "Princeton", "Tumour board")


def affine_lps() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array([*AXES, np.cross(*AXES)]).T * SPACING
    affine[:3, 3] = (-31.5, 12.25, 40.125)
    return affine


def write_series(folder: Path, values: np.ndarray, title: str = "", modality: str = "MR", skip=(), **tags) -> Path:
    """An MR series of values (I, J, K), whose file names tell another order than the positions."""
    folder.mkdir(parents=True)
    series, affine = pydicom.uid.generate_uid(), affine_lps()
    for k in set(range(values.shape[2])) - set(skip):
        ds = pydicom.Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.MRImageStorage, pydicom.uid.generate_uid()
        ds.Modality, ds.ImageType, ds.SeriesDescription = modality, ["ORIGINAL", "PRIMARY"], title
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = *SECRETS[:3], "F"
        ds.AccessionNumber, ds.ReferringPhysicianName, ds.InstitutionName, ds.StudyDescription = SECRETS[3:]
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "20200102", "101112", "7", 3, k + 1
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.99"
        ds.ImagePositionPatient = [f"{v:.6f}" for v in affine[:3, 3] + k * affine[:3, 2]]
        ds.ImageOrientationPatient = AXES.ravel().tolist()
        ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        ds.Columns, ds.Rows = values.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = np.ascontiguousarray(values[:, :, k].T, "<u2").tobytes()
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        ds.save_as(folder / f"{(k * 3) % 5}.dcm", enforce_file_format=True)
    return folder


def brain(sequence: str) -> np.ndarray:
    values = np.random.default_rng(SEQUENCES.index(sequence)).integers(1, 4000, SHAPE)
    values[0, 0, 0] = 0
    return values


@pytest.fixture
def case(tmp_path) -> Path:
    for sequence in SEQUENCES:
        write_series(tmp_path / "patient" / sequence, brain(sequence))
    return tmp_path / "patient"


def ways(case: Path) -> dict:
    names = [str(case / s) for s in SEQUENCES]
    return {"folder": case, "one series": case / "t2", "one file": case / "flair" / "0.dcm", "list": names[::-1]}


@pytest.mark.parametrize("way", ["folder", "one series", "one file", "list"])
def test_however_it_is_named_a_case_of_series_has_its_four_channels_in_order_and_in_place(case, way):
    image, truth, affine, found = read_brats(ways(case)[way])
    assert truth is None and found["subject"] == "patient"
    for channel, sequence in zip(image, SEQUENCES):
        np.testing.assert_array_equal(channel, brain(sequence))
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]) @ affine_lps(), atol=1e-5)


def test_folders_of_any_name_are_known_by_their_series_description(tmp_path):
    titles = {"t1": "AX T1 3D", "t1ce": "AX T1 +C POST", "t2": "T2 TSE", "flair": "3D FLAIR"}
    for n, (sequence, title) in enumerate(titles.items()):
        write_series(tmp_path / "case" / f"S{n}", brain(sequence), title)
    write_series(tmp_path / "case" / "S9", brain("t1"), "DWI b1000")
    assert [p.name for p in brats_case(tmp_path / "case")["image"]] == ["S0", "S1", "S2", "S3"]


def test_the_label_beside_the_series_is_found_and_data_sets_of_such_cases_too(case):
    label = np.zeros(SHAPE, np.uint8)
    label[2:4] = 4
    nibabel.save(nibabel.Nifti1Image(label, np.diag([-1, -1, 1, 1]) @ affine_lps()), case / "seg.nii.gz")
    np.testing.assert_array_equal(read_brats(case)[1], label)
    shutil.copytree(case, case.with_name("second"))
    assert [c["subject"] for c in brats_cases(case.parent)] == ["patient", "second"]


def mixed(case: Path) -> Path:
    for path in (case / "t1").iterdir():
        shutil.copy(path, case / "t2" / f"x{path.name}")
    return case


def missing_slice(case: Path) -> Path:
    shutil.rmtree(case / "t2")
    write_series(case / "t2", brain("t2"), skip=(2,))
    return case


def other_grid(case: Path) -> Path:
    shutil.rmtree(case / "t2")
    write_series(case / "t2", brain("t2")[:, :, :4])
    return case


def ct(case: Path) -> Path:
    shutil.rmtree(case / "t1")
    write_series(case / "t1", brain("t1"), modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    return case


def absent(case: Path) -> Path:
    shutil.rmtree(case / "flair")
    return case


def doubled(case: Path) -> Path:
    shutil.copytree(case / "t1", case / "t1_again")
    return case


def all_in_one(case: Path) -> Path:
    (case.parent / "dump").mkdir()
    for path in case.rglob("*.dcm"):
        shutil.copy(path, case.parent / "dump" / f"{path.parent.name}{path.name}")
    return case.parent / "dump"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (mixed, "t2 must hold one series, got 2"),
        (missing_slice, "a slice is missing"),
        (other_grid, "t2 must have the shape of t1"),
        (ct, "t1 must be a series of MR, got CT"),
        (absent, "got no flair"),
        (doubled, "must have one t1, got t1, t1_again"),
        (all_in_one, "dump must hold one series, got 4"),
    ],
)
def test_what_is_wrong_with_a_series_is_one_sentence(case, spoil, told):
    with pytest.raises(InputError, match=told) as caught:
        read_brats(spoil(case))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def segmented(case: Path, output_dir: Path, labels: np.ndarray, **options) -> tuple[Path, SegmentationOutput]:
    """The labels as the run's output writes them for this case."""
    output = SegmentationOutput(str(output_dir), **options)
    (found,) = output.cases(image=case)
    affine = np.diag([-1.0, -1, 1, 1]) @ affine_lps()
    found["given"] = MetaTensor(np.zeros((4, *SHAPE)), affine=affine, meta={"original_affine": affine})
    maps = {"probability": np.full((len(output.regions), *SHAPE), 0.25)}
    output.save_maps(found, labels[None], maps)
    return output.final(found), output


def label_map(codes=(0, 1, 2, 3)) -> np.ndarray:
    labels = np.random.default_rng(9).choice(codes, SHAPE).astype(np.uint8)
    labels[:, :, 1] = 0  # a slice without tumour
    return labels


def voxels_of(seg, affine: np.ndarray) -> np.ndarray:
    """Segment numbers (I, J, K) by the frames' positions in the patient alone, without trusting any order of frames."""
    back = np.zeros(SHAPE, np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    rows, columns = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    for frame, about in zip(seg.pixel_array.reshape(-1, seg.Rows, seg.Columns), seg.PerFrameFunctionalGroupsSequence):
        origin = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for j, i in np.argwhere(frame):
            place = origin + i * spacing[1] * rows + j * spacing[0] * columns
            index = np.linalg.inv(affine) @ [*place, 1]
            assert np.abs(index - index.round()).max() < 1e-3
            back[tuple(index[:3].round().astype(int))] = number
    return back


@pytest.mark.parametrize("codes", [(0, 1, 2, 3), (0, 1, 2, 4)], ids=["brats2023", "brats2020"])
def test_a_seg_is_read_back_voxel_for_voxel_on_the_sources_grid(case, tmp_path, codes):
    highdicom = pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    itk = pytest.importorskip("itk")
    labels = label_map(codes)
    path, _ = segmented(case, tmp_path / "out", labels, regions=("WT", "TC", "ET"))
    assert path.name == "patient_labels.dcm" and (tmp_path / "out" / "patient_probability_ET.nii.gz").is_file()
    wanted = np.where(labels == 4, 3, labels)
    source = itk.imread(str(case / "flair"))  # ITK's own idea of the grid
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(source.GetDirection()) * np.array(source.GetSpacing())
    affine[:3, 3] = source.GetOrigin()
    seg = highdicom.seg.segread(path)
    np.testing.assert_array_equal(voxels_of(seg, affine), wanted)
    np.testing.assert_array_equal(voxels_of(pydicom.dcmread(path), affine), wanted)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == [
        "tumour core without enhancement", "oedema", "enhancing tumour"
    ]  # fmt: skip
    nifti, _ = segmented(case, tmp_path / "nifti", labels, regions=("WT", "TC", "ET"), output_format="nii.gz")
    volume = seg.get_volume(combine_segments=True)
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(nifti).dataobj), labels)
    ours = np.diag([-1, -1, 1, 1]) @ nibabel.load(nifti).affine
    np.testing.assert_allclose(ours, affine, atol=1e-4)
    assert volume.frame_of_reference_uid == "1.2.99"


def test_a_seg_refers_to_the_flair_series_slice_by_slice(case, tmp_path):
    pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    path, _ = segmented(case, tmp_path / "out", np.minimum(label_map(), 1))
    seg, flair = pydicom.dcmread(path), open_series(case / "flair")
    sources = [pydicom.dcmread(s.path) for s in flair.slices]
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence} == {
        s.SOPInstanceUID for s in sources
    }
    by_place = {tuple(map(float, s.ImagePositionPatient)): s.SOPInstanceUID for s in sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        assert image.ReferencedSOPInstanceUID == by_place[place]
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3", "1.2.99")
    assert seg.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert [(s.SegmentLabel, s.SegmentAlgorithmType) for s in seg.SegmentSequence] == [("whole tumour", "AUTOMATIC")]


def test_the_patient_is_named_only_where_asked_for(case, tmp_path):
    pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    labels = np.minimum(label_map(), 1)
    silent, _ = segmented(case, tmp_path / "a", labels)
    assert [word for word in SECRETS if word.encode() in silent.read_bytes()] == []
    assert pydicom.dcmread(silent).PatientID == "ANONYMOUS"
    named, _ = segmented(case, tmp_path / "b", labels, keep_patient="true")
    ds = pydicom.dcmread(named)
    assert (ds.PatientName, ds.PatientID, ds.AccessionNumber) == ("Doe^Jane", "MRN4711", "ACC99")


def test_a_brain_without_tumour_is_a_seg_without_tumour(case, tmp_path):
    pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    path, _ = segmented(case, tmp_path / "out", np.zeros(SHAPE, np.uint8))
    assert not pydicom.dcmread(path).pixel_array.any()


def test_what_a_seg_needs_is_said_before_any_work(case, tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(np.zeros((*SHAPE, 4), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(InputError, match="refer to the DICOM series"):
        SegmentationOutput(str(tmp_path / "out"), output_format="dicom").cases(image=tmp_path / "four.nii.gz")
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(InputError, match=r"package highdicom.*pip install highdicom"):
        SegmentationOutput(str(tmp_path / "out"), output_format="dicom").cases(image=case)
    assert not (tmp_path / "out").exists()


def test_without_highdicom_labels_of_dicom_are_nifti_and_a_warning_says_why(case, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"pip install highdicom"):
        path, _ = segmented(case, tmp_path / "out", np.minimum(label_map(), 1))
    assert path.name == "patient_labels.nii.gz"
