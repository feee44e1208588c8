"""DICOM files as scanners and detectors write them; without pydicom the tests that import this are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the files are made by pydicom")

SPACING = (0.143, 0.2)
AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
OBLIQUE = ((0.8, 0.6, 0), (-0.36, 0.48, 0.8))
SOP_CLASSES = {
    "DX": pydicom.uid.DigitalXRayImageStorageForPresentation,
    "CR": pydicom.uid.ComputedRadiographyImageStorage,
    "OT": pydicom.uid.SecondaryCaptureImageStorage,
}
GREY = np.arange(4096, dtype=np.int64)[::73][:56].reshape(7, 8)  # black air 0, white bone 4015, of 12 bit


def make_slice(path, position, axes=AXIAL, series="1.2.3", value=None, **attributes):
    """One CT file of 6 rows and 5 columns of 0.5 (between rows) x 0.75 mm, intercept -1024, slope 2."""
    rng = np.random.default_rng(abs(hash(tuple(position))) % 2**32)
    pixels = rng.integers(0, 2000, (6, 5)).astype(np.uint16) if value is None else np.full((6, 5), value, np.uint16)
    ds = pydicom.Dataset()
    ds.SOPClassUID = attributes.pop("SOPClassUID", pydicom.uid.CTImageStorage)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientName, ds.PatientID = "Doe^Jane", "4711"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2", series, "1.2.99"
    ds.SeriesDescription = f"series {series}"
    ds.ImagePositionPatient = [f"{float(v):.6f}" for v in position]
    ds.ImageOrientationPatient = [float(v) for v in np.ravel(axes)]
    ds.PixelSpacing = [0.5, 0.75]
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = -1024, 2
    ds.PixelData = pixels.tobytes()
    for keyword, wanted in attributes.items():
        if wanted is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, wanted)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return pixels


def make_series(folder, axes=AXIAL, count=7, step=2.5, origin=(-31.0, 12.0, 40.0), skip=(), **attributes):
    """A series whose file order is not its spatial order; pixels by slice index along the normal."""
    normal = np.cross(*axes)
    return {
        k: make_slice(folder / f"{(k * 5) % count:03d}.dcm", np.add(origin, k * step * normal), axes, **attributes)
        for k in range(count)
        if k not in skip
    }


def make_radiograph(path, values=GREY, photometric=2, kind="DX", bits=12, **attributes):
    """One file whose picture is `values`; MONOCHROME1 stores them upside down."""
    stored = values if photometric == 2 else 2**bits - 1 - values
    allocated = 8 if bits <= 8 else 16
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[kind], pydicom.uid.generate_uid()
    ds.Modality, ds.ImageType, ds.StudyInstanceUID, ds.SeriesInstanceUID = kind, ["ORIGINAL", "PRIMARY"], "1.2", "1.3"
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, f"MONOCHROME{photometric}"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, 0
    for keyword, wanted in attributes.items():
        setattr(ds, keyword, wanted)
    ds.PixelData = stored.astype(np.uint8 if allocated == 8 else "<u2").tobytes()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, image: np.ndarray, nifti_affine: np.ndarray) -> Path:
    """An MR series of the image (I, J, K), stored from 0 to 4000, that lies as a NIfTI file with this affine does."""
    from hiresmed.io.dicom_header import PATIENT, STUDY

    folder.mkdir(parents=True)
    stored = np.rint((image - image.min()) / np.ptp(image) * 4000).astype("<u2")
    affine, series = np.diag([-1.0, -1, 1, 1]) @ nifti_affine, pydicom.uid.generate_uid()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for k in range(image.shape[2]):
        ds = pydicom.Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = pydicom.uid.MRImageStorage, pydicom.uid.generate_uid(), "MR"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.99"
        for keyword in (*PATIENT, *STUDY):
            setattr(ds, keyword, "")
        ds.ImagePositionPatient = [f"{v:.6f}" for v in affine[:3, 3] + k * affine[:3, 2]]
        ds.ImageOrientationPatient = (affine[:3, :2] / spacing[:2]).T.ravel().tolist()
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        ds.Columns, ds.Rows = image.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def write_radiograph(path: Path, values: np.ndarray) -> Path:
    """A DX image whose pixels the detector's spacing measures."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.3", "1.2.3.1", "DX"
    ds.Rows, ds.Columns = values.shape
    ds.ImagerPixelSpacing, ds.PhotometricInterpretation = list(SPACING), "MONOCHROME2"
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = values.astype("<u2").tobytes()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path
