"""DICOM Segmentation objects out: label maps on the grid of a source series, by highdicom (an extra)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.output_files import write_then_rename
from ..core.volumes import first_line
from .dicom import SeriesVolume, open_series
from .dicom_header import PATIENT, SERIES_NUMBER, STUDY, dicom_package, missing_package, set_patient

# segments by the codes of BraTS 2023; the enhancing 4 of 2020 is another way to write 3
REGIONS = {"WT": ("whole tumour", "SCT", "Neoplasm"), "TC": ("tumour core", "SCT", "Neoplasm")}
ENHANCING = ("enhancing tumour", "NCIt", "EnhancingLesion")
NESTED = {
    1: ("tumour core without enhancement", "NCIt", "NonEnhancingLesion"),
    2: ("oedema", "SCT", "Edema"),
    3: ENHANCING,
}
# all that a SEG takes from its source; names, institutions, comments and whatever else stands there stay behind
REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
GEOMETRY = (
    "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness",
    "SpacingBetweenSlices", "InstanceNumber", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
BLANK = (*PATIENT, *STUDY, "PositionReferenceIndicator", "Manufacturer", "ManufacturerModelName")


def highdicom_package():
    """The package highdicom.

    Raises:
        InputError: it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise missing_package("highdicom") from error
    return highdicom


def write_segmentation(
    labels: np.ndarray,
    path: str | Path,
    source: str | Path,
    regions: Sequence[str] = ("WT",),
    keep_patient: bool = False,
    description: str = "Segmentation, research only",
) -> Path:
    """Writes labels (I, J, K) as one binary DICOM SEG that refers, slice by slice, to its source series.

    Study and frame of reference are the source's, or no viewer could lay one over the other.

    Args:
        labels: codes on the source's grid: 1 where there is one region; else 1, 2 and 3 (or 4, as BraTS 2020 writes 3).
        source: folder (or file) of the source series, as `open_series` reads it.
        regions: WT, TC, ET or some of them.
        keep_patient: keep the source's patient; else PatientName and PatientID are ANONYMOUS.

    Raises:
        InputError: highdicom missing; another grid than the source's; a source that lacks what a SEG must refer to.
    """
    path = Path(path)
    series = open_series(source)
    if not isinstance(series, SeriesVolume) or series.shape != labels.shape:
        raise InputError(
            f"{path.name} must have the grid of its source {series.name}, {tuple(series.shape)}, got "
            f"{labels.shape}; give the series that was segmented."
        )
    headers = _headers(series)
    made = _segmentation(labels, headers, regions, description, series.name)
    _set_whose(made, headers[0], keep_patient)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_then_rename(path) as aside:
        made.save_as(aside)
    return path


def check_segmentation_source(source: str | Path, regions: Sequence[str] = ("WT",)) -> None:
    """InputError, before any work, where no SEG could refer to a series: it is made once, of one voxel, in memory."""
    series = open_series(source)
    if not isinstance(series, SeriesVolume):
        return  # refused where it is read as a volume
    labels = np.zeros(series.shape, np.uint8)
    labels[tuple(n // 2 for n in series.shape)] = 1
    _segmentation(labels, _headers(series), regions, "check", series.name)


def _headers(series: SeriesVolume) -> list:
    pydicom = dicom_package()
    headers = [pydicom.dcmread(s.path, stop_before_pixels=True) for s in series.slices]
    for slice_, header in zip(series.slices, headers):
        missing = [keyword for keyword in REQUIRED if not header.get(keyword)]
        if missing:
            raise InputError(
                f"{series.name} must have all that a DICOM SEG refers to, got no {', '.join(missing)} in "
                f"{slice_.path.name}; export the series again, or set output_format to nii.gz."
            )
    return headers


def _without_names(header):
    """A header of what a SEG refers to and where it lies, in which nobody is named."""
    bare = dicom_package().Dataset()
    for keyword in (*REQUIRED, *GEOMETRY):
        if keyword in header:
            bare[keyword] = header[keyword]
    for keyword in BLANK:
        setattr(bare, keyword, "")
    return bare


def _segmentation(labels: np.ndarray, headers: Sequence, regions: Sequence[str], description: str, name: str):
    highdicom = highdicom_package()
    codes = np.where(labels == 4, 3, labels).astype(np.uint8)
    uid = _identifiers(codes, headers, regions, description)
    segments = _segments(highdicom, regions)
    numbers = np.zeros(256, np.uint8)  # code -> number of the segment, from 1 on without gaps
    numbers[list(segments)] = range(1, len(segments) + 1)
    # it tells at length that frames without segment are left out
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    try:
        made = highdicom.seg.Segmentation(
            source_images=[_without_names(header) for header in headers],
            pixel_array=np.ascontiguousarray(numbers[codes].transpose(2, 1, 0)),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=list(segments.values()),
            series_instance_uid=uid("series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid("image"),
            instance_number=1,
            manufacturer="hiresmed",
            manufacturer_model_name="hiresmed",
            software_versions=__version__,
            device_serial_number="none",
            content_label="SEGMENTATION",
            content_description=description[:64],
            series_description=description[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} must hold all that a DICOM SEG must refer to, got one without ({first_line(error)}); export "
            "the series again, or set output_format to nii.gz."
        ) from error
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid("dimensions")
    return made


def _identifiers(codes: np.ndarray, headers: Sequence, regions: Sequence[str], description: str):
    """UIDs by what they name, a function of content and source: a resumed run ends with the same ones."""
    content = hashlib.sha256(repr((__version__, tuple(regions), description)).encode())
    content.update(np.asfortranarray(codes).tobytes(order="F"))
    for header in headers:
        content.update(str(header.SOPInstanceUID).encode())
    entropy = content.hexdigest()
    return lambda what: highdicom_package().UID(dicom_package().uid.generate_uid(entropy_srcs=[entropy, what]))


def _segments(highdicom, regions: Sequence[str]) -> dict[int, object]:
    """{code: description of its segment}, in ascending order of codes."""
    codes = dicom_package().sr.codedict.codes  # highdicom has imported the module
    codes_of = {"TC": 1, "WT": 2, "ET": 3}  # ascending
    if len(regions) == 1:
        wanted = {1: (REGIONS | {"ET": ENHANCING})[regions[0]]}
    else:
        wanted = {code: NESTED[code] for region, code in codes_of.items() if region in regions}
        if "ET" not in regions:
            wanted[1] = REGIONS["TC"]
        if "TC" not in regions:
            wanted[2] = ("tumour without enhancement", "SCT", "Neoplasm")
    how = highdicom.AlgorithmIdentificationSequence(
        name="hiresmed", version=__version__, family=codes.cid7162.ArtificialIntelligence
    )
    return {
        code: highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=getattr(getattr(codes, scheme), keyword),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=how,
            anatomic_regions=[codes.SCT.Brain],
        )
        for n, (code, (label, scheme, keyword)) in enumerate(wanted.items(), 1)
    }


def _set_whose(made, source, keep_patient: bool) -> None:
    study = made.StudyInstanceUID
    if "ContributingEquipmentSequence" in made:  # of the source's scanner
        del made.ContributingEquipmentSequence
    for keyword in (*PATIENT, *STUDY):
        if keyword in made:
            del made[keyword]
    set_patient(made, source, keep_patient)
    made.StudyInstanceUID = study
