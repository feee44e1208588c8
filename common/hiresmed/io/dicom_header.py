"""What all DICOM files that we write have in common: new identifiers, whose they are, how they came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.volumes import Volume
from .dicom import dicom_files

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
SERIES_NUMBER = 9001  # far from the scanner's own numbers


def _terms(words: str) -> frozenset[str]:
    return frozenset(words.split())


# what stays true of a synthetic image and names nobody, in the standard's own terms (PS3.16, annex L; PS3.3); any other
# text could hold a name
TERMS = {
    "BodyPartExamined": _terms(
        "ABDOMEN ABDOMENPELVIS AORTA BRAIN BREAST CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE CSPINE ELBOW EXTREMITY "
        "FEMUR FOOT HAND HEAD HEADNECK HEART HIP HUMERUS KIDNEY KNEE LEG LIVER LSPINE LSSPINE LUNG MEDIASTINUM NECK "
        "NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV PANCREAS PELVIS RIB SHOULDER SKULL SPINE SSPINE STERNUM THORAX "
        "TLSPINE TRUNK TSPINE WHOLEBODY WRIST"
    ),
    "PatientPosition": _terms("HFP HFS HFDR HFDL FFP FFS FFDR FFDL"),
    "ViewPosition": _terms("AP PA LL RL LAT LLD RLD LLO RLO LPO RPO LAO RAO"),
    "PatientOrientation": _terms("L R A P H F"),
}


def dicom_package():
    """The package pydicom.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise missing_package("pydicom") from error
    return pydicom


def missing_package(name: str) -> InputError:
    """What to raise where an optional package is wanted and not installed."""
    return InputError(f"Writing DICOM must find the package {name}, got none; run: pip install {name}.")


def reference_header(path: Path):
    """The first readable header of the source series, without its pixels.

    Raises:
        InputError: there is none.
    """
    pydicom = dicom_package()
    files = dicom_files(path) if path.is_dir() else [path]
    try:
        return pydicom.dcmread(files[0], stop_before_pixels=True)
    except (IndexError, OSError, pydicom.errors.InvalidDicomError) as error:
        raise InputError(
            f"reference must be the source DICOM series (a folder or one file), got {path} without one; "
            "give its folder or leave it out."
        ) from error


class Identifiers:
    """UIDs of what is written: random, or, for a seed, a function of seed, values and geometry.

    Equal UIDs must mean equal images, or archives would mix them.

    Args:
        parts: the stored values, part by part; read only with a seed.
    """

    def __init__(self, volume: Volume, parts: Iterable[np.ndarray], seed: int | None, description: str) -> None:
        self.pydicom = dicom_package()
        self.entropy = None
        if seed is not None:
            digest = hashlib.sha256(repr((seed, description, volume.shape, volume.affine.tolist())).encode())
            for values in parts:
                digest.update(values.tobytes(order="F"))
            self.entropy = digest.hexdigest()

    def uid(self, *what: object) -> str:
        """A new UID for what the words name."""
        entropy = None if self.entropy is None else [self.entropy, *map(str, what)]
        return self.pydicom.uid.generate_uid(entropy_srcs=entropy)


def describe_synthetic(ds, made: Identifiers, description: str, source, keep_patient: bool) -> None:
    """Sets what a synthetic image says of itself, its patient and its study.

    Args:
        ds: the pydicom Dataset that is filled.
        source: header of the image that it was made from, or an empty Dataset.
        keep_patient: keep the source's patient and study; else they are anonymous and new.
    """
    ds.SeriesDescription = description if "synthetic" in description.lower() else f"Synthetic: {description}"
    ds.DerivationDescription = f"Synthetic image made by hiresmed {__version__}; not measured, not for diagnosis"
    ds.Manufacturer = "hiresmed"
    ds.SoftwareVersions = __version__
    ds.BurnedInAnnotation = "NO"
    ds.SeriesNumber = SERIES_NUMBER
    ds.StudyInstanceUID = made.uid("study")
    ds.SeriesInstanceUID = made.uid("series")
    set_patient(ds, source, keep_patient)
    if keep_patient and "StudyInstanceUID" in source:
        ds.StudyInstanceUID = source.StudyInstanceUID


def keep_terms(ds, source, keywords: Iterable[str]) -> None:
    """Copies what stays true of the source where it is one of the standard's terms."""
    for keyword in keywords:
        value = source.get(keyword)
        parts = [value] if isinstance(value, str) else list(value or [])
        if parts and all(str(part).upper() in TERMS[keyword] for part in parts):
            setattr(ds, keyword, [str(part) for part in parts] if len(parts) > 1 else str(parts[0]))


def set_patient(ds, source, keep_patient: bool) -> None:
    """Sets patient and study (all but its UID): the source's where they are to be kept, else anonymous and empty."""
    keywords = [k for k in (*PATIENT, *STUDY, "SpecificCharacterSet") if keep_patient and k in source]
    for keyword in keywords:
        ds[keyword] = source[keyword]
    for keyword in {*PATIENT, *STUDY} - {*keywords}:
        setattr(ds, keyword, "ANONYMOUS" if keyword in ("PatientName", "PatientID") else "")


def save_file(ds, path: Path) -> None:
    """Writes one file, uncompressed little endian, with its file meta information."""
    pydicom = dicom_package()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
