"""DICOM images out: a synthetic radiograph as one Secondary Capture file, with new identifiers.

Not a DX object: that one asserts an exposure, a detector and a view that a synthetic image never had. highdicom's
SCImage would do, but takes patient and study apart, and knows no values beside the source's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.output_files import write_then_rename
from ..core.volumes import Volume, grey_values, real_world_cast
from .dicom_header import Identifiers, describe_synthetic, dicom_package, keep_terms, reference_header, save_file
from .dicom_tags import RADIOGRAPHS

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
KEPT = ("PatientOrientation", "BodyPartExamined", "ViewPosition")  # how to hang it; they name nobody


def write_secondary_capture(
    volume: Volume,
    path: str | Path,
    reference: str | Path | None = None,
    seed: int | None = None,
    keep_patient: bool = False,
    description: str = "Synthetic radiograph",
) -> Path:
    """Writes a 2-D volume (rows, columns) as a DICOM Secondary Capture of conversion type SYN (synthetic image).

    uint8 stays 8 bit; other values are rounded and limited to 0 ... 65535, MONOCHROME2. The image is held in memory.

    Args:
        reference: the source radiograph (a file, or a folder of one), for modality, orientation and, if kept, patient.
        seed: makes the UIDs a function of seed, values and geometry; None: random UIDs.
        keep_patient: with `reference`: keep its patient and study, and refer to it; else they are anonymous and new.

    Raises:
        InputError: pydicom missing; not 2-D.
    """
    pydicom = dicom_package()
    path = Path(path)
    if len(volume.shape) != 2:
        raise InputError(
            f"{path.name} must hold a 2-D image, got {volume.name} of shape {volume.shape}; set output_format to "
            "dicom, which writes a series."
        )
    source = pydicom.Dataset() if reference is None else reference_header(Path(reference))
    values = real_world_cast(volume.read((0, 0), volume.shape), volume.dtype)
    values = np.ascontiguousarray(grey_values(values, path.name))
    made = Identifiers(volume, [values], seed, description)
    ds = pydicom.Dataset()
    ds.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    ds.SOPInstanceUID = made.uid("image")
    modality = source.get("Modality")
    ds.Modality = modality if modality in RADIOGRAPHS else "OT"
    ds.ConversionType = "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.InstanceNumber = 1
    describe_synthetic(ds, made, description, source, keep_patient)
    keep_terms(ds, source, KEPT)
    if keep_patient and "SOPInstanceUID" in source:
        ds.SourceImageSequence = [pydicom.Dataset()]
        ds.SourceImageSequence[0].ReferencedSOPClassUID = source.SOPClassUID
        ds.SourceImageSequence[0].ReferencedSOPInstanceUID = source.SOPInstanceUID
    if reference is None or any(keyword in source for keyword in SPACINGS):  # without them, a mm is only a guess
        _set_spacing(pydicom, ds, volume)
    _set_pixels(ds, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_then_rename(path) as aside:
        save_file(ds, aside)
    return path


def _set_spacing(pydicom, ds, volume: Volume) -> None:
    rows, columns = (pydicom.valuerep.format_number_as_ds(float(v)) for v in volume.spacing)
    # readers look at one of these, by the kind of object or by their own order
    ds.PixelSpacing = ds.NominalScannedPixelSpacing = [rows, columns]


def _set_pixels(ds, values: np.ndarray) -> None:
    bits = 8 * values.itemsize
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.BitsAllocated = bits
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter = str(2 ** (bits - 1))
    ds.WindowWidth = str(2**bits)
    ds.PixelData = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
