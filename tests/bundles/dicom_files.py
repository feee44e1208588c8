"""DICOM files for tests of the bundles' front doors; read with runpy, as tests are no package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SPACING = (0.143, 0.2)


def write_series(folder: Path, image: np.ndarray, nifti_affine: np.ndarray) -> Path:
    """An MR series of the image (I, J, K), stored from 0 to 4000, that lies as a NIfTI file with this affine does."""
    pydicom = pytest.importorskip("pydicom", reason="the series are made by pydicom")
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
    pydicom = pytest.importorskip("pydicom", reason="the radiograph is made by pydicom")
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
