"""Sequences of brain MR that are DICOM series: told by folder name, description and acquisition, read checked."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from ..core.errors import InputError
from ..core.volumes import Volume
from ..io.dicom import SeriesVolume, dicom_files, is_dicom, open_series
from .brats_names import Acquisition, Telling, checked_by_acquisition, told_by_title

_NO_AGENT = {"", "NO", "NONE", "NA", "N/A", "NULL", "0", "UNKNOWN", "OHNE", "WITHOUT", "NO CONTRAST", "-"}


def dicom_series(path: Path) -> bool:
    """Whether the path is a folder of DICOM images, or one of them."""
    return bool(dicom_files(path)) if path.is_dir() else path.is_file() and is_dicom(path)


def series_acquisition(path: Path) -> Acquisition:
    """What the header of a series' first image, or of this image, says; nothing where it holds no readable image."""
    files = dicom_files(path) if path.is_dir() else [path]
    return _acquisition(files[0], files[0].stat().st_mtime_ns) if files else Acquisition()


@lru_cache(maxsize=4096)
def _acquisition(file: Path, _changed: int) -> Acquisition:
    import itk  # here, as loading ITK's modules costs seconds and about 450 MB, which NIfTI users need not pay

    reader = itk.GDCMImageIO.New()
    try:
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
    except (RuntimeError, TypeError, ValueError):  # a segmentation, a report: no sequence; a path that is not UTF-8
        return Acquisition()
    tags = reader.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(tags[key]).strip(" \0") if tags.HasKey(key) else ""

    def figure(key: str) -> float | None:
        try:
            return float(tag(key).split("\\")[0])
        except ValueError:
            return None

    agent = tag("0018|0010")
    return Acquisition(
        number=tag("0020|0011"),
        title=tag("0008|103e") or tag("0018|1030"),
        agent="" if agent.upper() in _NO_AGENT else agent,
        echo_ms=figure("0018|0081"),
        inversion_ms=figure("0018|0082"),
        diffusion=figure("0018|9087"),
    )


def told_by_series(folder: Path) -> Telling:
    """Which sequence a folder of DICOM images holds, by its name, its description and its acquisition together."""
    acquisition = series_acquisition(folder)
    by_folder = told_by_title(folder.name)
    by_title = told_by_title(acquisition.title)
    return checked_by_acquisition(_both(by_folder, by_title, folder.name, acquisition.title), acquisition)


def _both(by_folder: Telling, by_title: Telling, folder: str, title: str) -> Telling:
    letters = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in (folder, title)]
    # a folder named after the description loses signs such as the + of +C
    if by_folder.silent or (letters[1] and letters[0].endswith(letters[1])):
        return by_title
    if by_title.silent or by_title == by_folder:
        return by_folder
    sequences = {by_folder.sequence, by_title.sequence}
    if len(sequences) == 1 and None not in sequences:
        return by_folder if by_folder.explicit else by_title
    if by_folder.sequence == "t1ce" and by_title.sequence == "t1" and not by_title.explicit:
        return by_folder  # a description need not tell the contrast medium
    candidates = tuple(dict.fromkeys([s for s in (by_folder.sequence, by_title.sequence) if s]))
    return by_folder.doubted(
        candidates or by_folder.candidates or by_title.candidates,
        f"the folder's name {folder} and the description {title!r} tell different sequences",
    )


def series_in_words(folder: Path) -> str:
    """A series as reports name it, by its number and description, `series 3: AX T1 +C`, or its folder."""
    acquisition = series_acquisition(folder)
    own = folder.name if folder.is_dir() else folder.parent.name
    if acquisition.number:
        return f"series {acquisition.number}: {acquisition.title or own}"
    return f"{own}: {acquisition.title}".rstrip(": ")


def series_folders(folder: Path) -> dict[Path, Telling]:
    """{sub-folder of DICOM images: what it tells} of a case whose sequences are DICOM series."""
    children = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return {child: told_by_series(child) for child in children if dicom_files(child)}


def open_mr_series(path: Path) -> SeriesVolume:
    """A series of MR slices as a volume (I, J, K), checked as every series is (see `dicom.open_series`).

    Raises:
        InputError: what open_series raises; one image alone; another modality.
    """
    volume: Volume = open_series(path)
    if not isinstance(volume, SeriesVolume):
        raise InputError(
            f"{path} must hold the slices of a volume, got one image of shape {tuple(volume.shape)}; export "
            "the whole series."
        )
    modality = volume.slices[0].modality
    if modality not in ("MR", ""):
        raise InputError(f"{path} must be a series of MR, got {modality}; give the MR series.")
    return volume
