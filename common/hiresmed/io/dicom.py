"""DICOM images in: a checked series as a volume that is read slice by slice.

Letters: I, J, K = columns, rows and slices; array order (I, J, K) as ITK, MONAI and NIfTI have it. DICOM's
patient axes are LPS; affines here are RAS.

Reading goes through ITK's GDCM, which every installation has and which decodes all compressed transfer syntaxes;
pydicom (an extra) would need further plug-ins for that. ITK's own series reader is not used: of two series it takes
one, and a missing slice it hides in a wrong spacing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.names import check_utf8
from ..core.volumes import ArrayVolume, Volume, checked_affine, real_world_cast
from .dicom_groups import check_one_acquisition
from .dicom_tags import check_before_decoding, check_orientation, check_pixels, check_rescale, pixel_spacing, tags_of

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEP_TOLERANCE = 0.05  # of the slice distance: scanners round positions, a missing slice is off by 1


@dataclass(frozen=True)
class Slice:
    """What one DICOM image file says about itself; positions and axes in mm, LPS."""

    path: Path
    series: str
    title: str
    modality: str
    image_type: str
    placed: bool
    size: tuple[int, int, int]
    components: int
    stored: str
    position: np.ndarray
    axes: np.ndarray
    tags: Mapping[str, str]

    @property
    def localizer(self) -> bool:
        return "LOCALIZER" in self.image_type.upper()

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance of columns and of rows in mm; 1 where a projection does not tell it.

        GDCM looks at one tag only, by the kind of object, and so makes a calibrated radiograph's pixels 1 mm.
        """
        return pixel_spacing(self.tags, self.path.name) or (1.0, 1.0)

    def check(self) -> Slice:
        """The slice itself; InputError where what values, pixels' size or place depend on is missing or no number."""
        if self.components != 1 or self.size[2] != 1:
            return self  # colour, frames: refused with the series
        check_pixels(self.tags, self.path)
        check_rescale(self.tags, self.path.name)
        check_orientation(self.tags, self.path.name)
        pixel_spacing(self.tags, self.path.name)
        return self


def is_dicom(path: Path) -> bool:
    """Whether the file bears DICOM's mark or its suffix (old files have no mark)."""
    if not path.is_file() or path.name.upper() == "DICOMDIR" or path.name.startswith("."):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".ima")


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_dicom(path))


def read_header(path: Path) -> Slice:
    """The header of one DICOM image, to be checked by `Slice.check` before its values or its place are used.

    Raises:
        InputError: no readable image; a palette or a modality table.
    """
    import itk  # here, as loading ITK's modules costs seconds and about 450 MB, which NIfTI users need not pay

    check_utf8(path)
    check_before_decoding(path)
    reader = itk.GDCMImageIO.New()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"{path.name} must be a DICOM image, got none that can be read; it is truncated or another kind "
            "of object (a report, a structure set): move it out of the folder or export it again."
        ) from error
    tags = tags_of(reader.GetMetaDataDictionary())

    def size(axis: int) -> int:
        return int(reader.GetDimensions(axis)) if axis < reader.GetNumberOfDimensions() else 1

    return Slice(
        path=path,
        series=tags.get("SeriesInstanceUID", ""),
        title=tags.get("SeriesDescription", ""),
        modality=tags.get("Modality", ""),
        image_type=tags.get("ImageType", ""),
        placed="ImagePositionPatient" in tags and "ImageOrientationPatient" in tags,
        size=(size(0), size(1), size(2)),
        components=int(reader.GetNumberOfComponents()),
        stored=reader.GetComponentTypeAsString(reader.GetComponentType()),
        position=np.array([reader.GetOrigin(a) for a in range(3)]),
        axes=np.array([reader.GetDirection(a) for a in range(3)]).T,
        tags=tags,
    )


def read_pixels(path: Path) -> np.ndarray:
    """Real-world values (J, I) of one file as float32: rescaled, and inverted where it is MONOCHROME1."""
    import itk

    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(ImageIO=itk.GDCMImageIO.New(), FileName=str(path))
    try:
        reader.Update()
    except RuntimeError as error:
        raise InputError(
            f"{path.name} must hold DICOM pixels, got none that can be decoded; export the series again."
        ) from error
    return itk.array_from_image(reader.GetOutput())[0]


class SeriesVolume(Volume):
    """A DICOM series as a volume (I, J, K); a read decodes the slices that the box touches, and holds one at a time.

    CT becomes int16 HU; other images int16 or uint16 where their type allows, else float32.
    """

    def __init__(self, slices: list[Slice], affine: np.ndarray, name: str) -> None:
        self.slices = slices
        self.shape = (*slices[0].size[:2], len(slices))
        self.affine = checked_affine(affine, 3, name)
        self.dtype = _value_dtype(slices)
        self.name = name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        (i, j, k), (ni, nj, nk) = start, shape
        values = np.empty((ni, nj, nk), self.dtype, order="F")
        for n in range(nk):
            pixels = read_pixels(self.slices[k + n].path)[j : j + nj, i : i + ni]
            values[:, :, n] = real_world_cast(pixels, self.dtype).T
        return values


def open_series(path: str | Path) -> Volume:
    """The DICOM series in a folder, or the one that a file belongs to: (I, J, K), checked, slice by slice.

    A lone image (a radiograph, a single slice) is a 2-D volume in memory, (rows, columns).

    Raises:
        InputError: no DICOM image; files without a readable image; localizers among the slices; several series;
            mixed orientations, sizes or pixel spacings; duplicated positions; missing slices; multi-frame or colour;
            a header that leaves values, pixels' size or place open; two acquisitions between one another.
    """
    path = Path(path)
    if path.is_dir():
        slices = [read_header(file) for file in _files_of(path)]
        slices = [s.check() for s in _one_series(slices, path.name)]
    else:
        chosen = read_header(path).check()
        slices = [chosen]
        if chosen.placed:
            slices = _same_series(chosen)
    _check_alike(slices, path.name)
    if len(slices) == 1:
        return _flat(slices[0], path.name)
    slices, affine = _stack(slices, path.name)
    return SeriesVolume(slices, affine, path.name)


@lru_cache(maxsize=1024)
def lone_image(path: Path) -> Slice | None:
    """The header of a file or folder that `open_series` opens as a 2-D image (a radiograph, a lone slice), else None.

    Raises:
        InputError: no DICOM image.
    """
    files = _files_of(path) if path.is_dir() else [path]
    if len(files) > 1:
        return None
    chosen = read_header(files[0])
    return chosen if path.is_dir() or not chosen.placed or len(_same_series(chosen)) == 1 else None


def _files_of(folder: Path) -> list[Path]:
    files = dicom_files(folder)
    if files:
        return files
    inner = [child.name for child in sorted(folder.iterdir()) if child.is_dir()]
    hint = f"name one of its sub-folders ({', '.join(inner[:3])})" if inner else "name the folder of one series"
    raise InputError(f"{folder} must be a folder of DICOM images, got none in it; {hint}.")


def _same_series(chosen: Slice) -> list[Slice]:
    others = []
    for file in dicom_files(chosen.path.parent):
        if file == chosen.path:
            continue
        try:
            others.append(read_header(file))
        except InputError:  # something else in the folder; the user has named the file that counts
            continue
    return [chosen, *(s.check() for s in others if s.series == chosen.series and s.localizer == chosen.localizer)]


def _one_series(slices: list[Slice], name: str) -> list[Slice]:
    scouts = [s for s in slices if s.localizer]
    if scouts and len(scouts) < len(slices):
        raise InputError(
            f"{name} must hold the slices of one series, got {len(scouts)} localizers among its {len(slices)} "
            f"images (e.g. {scouts[0].path.name}); move them out, or give a file of the wanted series."
        )
    series = Counter(s.series for s in slices)
    if len(series) > 1:
        titles = {s.series: s.title or s.modality for s in slices}
        content = ", ".join(f"{titles[uid]!r} with {n} images" for uid, n in series.items())
        raise InputError(
            f"{name} must hold one series, got {len(series)} ({content}); "
            "put each in its own folder, or give a file of the wanted one."
        )
    return slices


def _check_alike(slices: list[Slice], name: str) -> None:
    first = slices[0]
    for s in slices:
        if s.components != 1:
            raise InputError(f"{name} must be grey, got {s.components} channels in {s.path.name}; convert it first.")
        if s.size[2] != 1:
            raise InputError(
                f"{name} must have one slice per file, got {s.size[2]} frames in {s.path.name}; "
                "convert it to NIfTI or to a classic series."
            )
        if ("RescaleSlope" in s.tags) != ("RescaleSlope" in first.tags):
            with_tags, without = (s, first) if "RescaleSlope" in s.tags else (first, s)
            raise InputError(
                f"{name} must have RescaleSlope in every slice or in none, got {with_tags.path.name} with and "
                f"{without.path.name} without; export the series again."
            )
        if len(slices) > 1 and not s.placed:
            raise InputError(
                f"{name} must hold slices with a position and an orientation, got {s.path.name} without, as "
                "radiographs are; give one such file at a time."
            )
        if not np.allclose(s.axes, first.axes, atol=1e-3):
            raise InputError(
                f"{name} must hold slices of one orientation, got {first.path.name} and {s.path.name} turned "
                "against each other; put each orientation in its own folder."
            )
        if s.size != first.size or not np.allclose(s.spacing, first.spacing, rtol=1e-3):
            raise InputError(
                f"{name} must hold slices of one size, got {first.path.name} with {first.size[:2]} pixels of "
                f"{first.spacing} mm and {s.path.name} with {s.size[:2]} of {s.spacing} mm; remove the odd ones."
            )


def _stack(slices: list[Slice], name: str) -> tuple[list[Slice], np.ndarray]:
    """Slices in ascending order along the normal, and the (4, 4) RAS affine of their voxels."""
    normal = np.cross(slices[0].axes[:, 0], slices[0].axes[:, 1])
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    steps = np.diff([s.position for s in slices], axis=0)
    gaps = steps @ normal
    if gaps.min() < 1e-3:
        twin = int(gaps.argmin())
        raise InputError(
            f"{name} must hold one slice per position, got {slices[twin].path.name} and "
            f"{slices[twin + 1].path.name} at the same one (copies, or several time points, echoes or phases); "
            "keep one of them."
        )
    # the smallest of the middle gaps: with 3 slices and one missing, the median would lie between the two
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    step = steps[int(np.abs(gaps - usual).argmin())]
    off = np.linalg.norm(steps - step, axis=1)
    if off.max() > STEP_TOLERANCE * usual:
        odd = int(off.argmax())
        raise InputError(
            f"{name} must hold slices at equal distances, got most {usual:g} mm apart and "
            f"{slices[odd].path.name} and {slices[odd + 1].path.name} {gaps[odd]:g} mm; a slice is missing or the "
            "spacing changes: export the whole series again."
        )
    check_one_acquisition(slices, name)
    affine = np.eye(4)
    affine[:3, :2] = slices[0].axes[:, :2] * slices[0].spacing
    affine[:3, 2] = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    affine[:3, 3] = slices[0].position
    return slices, RAS_FROM_LPS @ affine


def _flat(image: Slice, name: str) -> ArrayVolume:
    affine = np.eye(4)
    affine[:3, 0] = image.axes[:, 1] * image.spacing[1]  # one row further down
    affine[:3, 1] = image.axes[:, 0] * image.spacing[0]  # one column further right
    affine[:3, 2] = image.axes[:, 2]
    affine[:3, 3] = image.position
    pixels = real_world_cast(read_pixels(image.path), _value_dtype([image]))
    return ArrayVolume(pixels, checked_affine(RAS_FROM_LPS @ affine, 2, name), name)


def _value_dtype(slices: list[Slice]) -> np.dtype:
    stored = {s.stored for s in slices}
    if slices[0].modality == "CT" or stored <= {"char", "unsigned_char", "short"}:
        return np.dtype(np.int16)
    return np.dtype(np.uint16 if stored <= {"unsigned_char", "unsigned_short"} else np.float32)
