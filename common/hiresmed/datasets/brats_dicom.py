"""Sequences of brain MR that are DICOM series: found by folder name or series description, read checked."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.volumes import Volume
from ..io.dicom import SeriesVolume, dicom_files, is_dicom, open_series, read_header
from .brats_names import SEQUENCES, named_series


def dicom_series(path: Path) -> bool:
    """Whether the path is a folder of DICOM images, or one of them."""
    return bool(dicom_files(path)) if path.is_dir() else path.is_file() and is_dicom(path)


def series_sequence(folder: Path) -> str | None:
    """The sequence that a folder of DICOM images holds, by its name, else by its first image's series description."""
    files = dicom_files(folder)
    if not files:
        return None
    wanted = named_series(folder.name)
    if wanted is None:
        try:
            wanted = named_series(read_header(files[0]).title)
        except InputError:  # a segmentation, a report: no sequence
            return None
    return wanted


def series_folders(folder: Path) -> dict[str, list[Path]]:
    """{sequence: sub-folders} of a case whose sequences are DICOM series; others (scouts, DWI) are left out."""
    found: dict[str, list[Path]] = {}
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        sequence = series_sequence(child)
        if sequence in SEQUENCES:
            found.setdefault(sequence, []).append(child)
    return found


def open_mr_series(path: Path) -> SeriesVolume:
    """A series of MR slices as a volume (I, J, K), checked as every series is (see `dicom.open_series`).

    Raises:
        InputError: what open_series raises; one image alone; another modality.
    """
    volume: Volume = open_series(path)
    if not isinstance(volume, SeriesVolume):
        raise InputError(
            f"{path} should hold the slices of a volume, but holds one image of shape {tuple(volume.shape)}; export "
            "the whole series."
        )
    modality = volume.slices[0].modality
    if modality not in ("MR", ""):
        raise InputError(f"{path} should be a series of MR, but its modality is {modality}; give the MR series.")
    return volume
