"""DICOM images out: a synthetic CT series, slice by slice, with new identifiers.

MONAI's SaveImage(".dcm") writes an 8-bit secondary capture without orientation, and ITK leaves the DICOM tags to its
user: pydicom (an extra) is the tool for this.

Letters: I, J, K = columns, rows and slices; array order (I, J, K) as ITK, MONAI and NIfTI have it. DICOM's
patient axes are LPS; affines here are RAS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.output_files import remove_path, rename_folder
from ..core.volumes import Volume, real_world_cast
from .dicom import RAS_FROM_LPS, open_series
from .dicom_header import Identifiers, describe_synthetic, dicom_package, keep_terms, reference_header, save_file

SLAB_BYTES = 2**25  # what is held at a time when a series is written: 32 MiB


def write_ct_series(
    volume: Volume,
    folder: str | Path,
    reference: str | Path | None = None,
    seed: int | None = None,
    keep_patient: bool = False,
    description: str = "Synthetic CT",
) -> Path:
    """Writes a volume (I, J, K) of HU as a CT Image Storage series, one file per slice along K, in constant memory.

    Values are rounded to int16. Readers order slices along the normal: a left-handed affine comes back with K
    reversed, each voxel at its place. The series is written aside and then renamed to `folder`.

    Args:
        reference: a folder or file of the source series, whose frame of reference is kept.
        seed: makes the UIDs a function of seed, values and geometry; None: random UIDs.
        keep_patient: with `reference`: keep its patient and study, else they are anonymous and new.

    Raises:
        InputError: pydicom missing; not 3-D; in-plane axes not at right angles; `folder` holds other files.
    """
    pydicom = dicom_package()
    check_ct_series(volume)
    folder = Path(folder)
    _check_replaceable(folder)
    series = _CtSeries(pydicom, volume, seed, description)
    series.describe(description, reference, keep_patient)
    aside = folder.with_name(folder.name + ".partial")
    remove_path(aside)
    aside.mkdir(parents=True)
    try:
        for k, values in _slices(volume):
            series.write_slice(k, real_world_cast(values, np.int16), aside / f"IM{k + 1:05d}.dcm")
        rename_folder(aside, folder)
    finally:
        remove_path(aside)
    return folder


def check_ct_series(volume: Volume) -> None:
    """InputError, before any work, where a volume on this grid could not be written as a series.

    Raises:
        InputError: pydicom missing; not 3-D; rows and columns that are not at right angles.
    """
    dicom_package()
    if len(volume.shape) != 3:
        raise InputError(
            f"A DICOM series must be made of a 3-D image, got {volume.name} of shape {volume.shape}; "
            "set output_format to dcm, png or tiff."
        )
    axes = volume.affine[:3, :2] / np.linalg.norm(volume.affine[:3, :2], axis=0)
    if abs(axes[:, 0] @ axes[:, 1]) > 1e-4:
        raise InputError(
            f"A DICOM slice must have rows and columns at right angles, but the affine of {volume.name} shears "
            f"them ({volume.affine.tolist()}); write nii instead."
        )


class _CtSeries:
    """The attributes that all slices of a written series share, and those of each slice."""

    def __init__(self, pydicom, volume: Volume, seed: int | None, description: str) -> None:
        self.pydicom = pydicom
        self.affine = RAS_FROM_LPS @ volume.affine  # LPS from here on
        parts = (real_world_cast(values, np.int16) for _, values in _slices(volume))
        self.made = Identifiers(volume, parts, seed, description)
        self.common = pydicom.Dataset()
        self._set_geometry(volume)

    def describe(self, description: str, reference: str | Path | None, keep_patient: bool) -> None:
        source = self.pydicom.Dataset() if reference is None else reference_header(Path(reference))
        ds = self.common
        ds.SOPClassUID = self.pydicom.uid.CTImageStorage
        ds.Modality = "CT"
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        for keyword in ("PatientPosition", "PositionReferenceIndicator", "KVP", "AcquisitionNumber"):
            setattr(ds, keyword, "")
        describe_synthetic(ds, self.made, description, source, keep_patient)
        keep_terms(ds, source, ("BodyPartExamined", "PatientPosition"))
        self._keep_thickness(source, reference)
        ds.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or self.made.uid("frame")

    def _keep_thickness(self, source, reference: str | Path | None) -> None:
        """The source's slices stay as thick as they were, where the grid's slices are the source's."""
        thickness = source.get("SliceThickness")
        if reference is None or not thickness:
            return
        try:
            spacing = open_series(reference).spacing
        except InputError:
            return
        if len(spacing) == 3 and abs(spacing[2] - self.spacing[2]) < 1e-3 * spacing[2]:
            self.common.SliceThickness = self.pydicom.valuerep.format_number_as_ds(float(thickness))

    def _set_geometry(self, volume: Volume) -> None:
        as_text = self.pydicom.valuerep.format_number_as_ds
        check_ct_series(volume)
        spacing = self.spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        axes = self.affine[:3, :2] / spacing[:2]
        ds = self.common
        ds.Columns, ds.Rows = volume.shape[:2]
        ds.PixelSpacing = [as_text(float(spacing[1])), as_text(float(spacing[0]))]  # between rows, between columns
        ds.ImageOrientationPatient = [as_text(float(v)) for v in axes.T.ravel()]
        ds.SliceThickness = as_text(float(spacing[2]))
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated = 16
        ds.BitsStored = 16
        ds.HighBit = 15
        ds.PixelRepresentation = 1
        ds.RescaleIntercept = "0"
        ds.RescaleSlope = "1"
        ds.RescaleType = "HU"
        ds.WindowCenter = "40"
        ds.WindowWidth = "400"

    def write_slice(self, k: int, values: np.ndarray, path: Path) -> None:
        """Writes slice k, int16 values (I, J) in HU."""
        ds = self.pydicom.Dataset()
        ds.update(self.common)
        ds.SOPInstanceUID = self.made.uid("slice", k)
        ds.InstanceNumber = k + 1
        position = self.affine[:3, 3] + k * self.affine[:3, 2]
        ds.ImagePositionPatient = [self.pydicom.valuerep.format_number_as_ds(float(v)) for v in position]
        ds.PixelData = np.ascontiguousarray(values.T, dtype="<i2").tobytes()
        save_file(ds, path)


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(f.match("IM*.dcm") for f in folder.iterdir())):
        raise InputError(
            f"{folder} must be a new folder for the DICOM series or hold an earlier one, got other files; "
            "choose another output."
        )


def _slices(volume: Volume) -> Iterator[tuple[int, np.ndarray]]:
    """(k, values (I, J)) of all slices, read in slabs, as a chunked store would else decode each chunk many times."""
    i, j, depth = volume.shape
    slab = max(1, SLAB_BYTES // (i * j * max(4, volume.dtype.itemsize)))
    for k in range(0, depth, slab):
        values = volume.read((0, 0, k), (i, j, min(slab, depth - k)))
        for n in range(values.shape[2]):
            yield k + n, values[:, :, n]
