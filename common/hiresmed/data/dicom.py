"""DICOM images in and out: a checked series as a volume read slice by slice, and a synthetic CT series.

Letters: I, J, K = columns, rows and slices; array order (I, J, K) as ITK, MONAI and NIfTI have it. DICOM's
patient axes are LPS; affines here are RAS.

Reading goes through ITK's GDCM, which every installation has and which decodes all compressed transfer syntaxes;
pydicom (an extra) would need further plug-ins for that. ITK's own series reader is not used: of two series it takes
one, and a missing slice it hides in a wrong spacing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import InputError
from ..volumes import ArrayVolume, Volume, checked_affine, real_world_cast

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEP_TOLERANCE = 0.05  # of the slice distance: scanners round positions, a missing slice is off by 1
STUDY_ATTRIBUTES = (
    "PatientBirthDate",
    "PatientSex",
    "PatientPosition",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
SLAB_BYTES = 2**25  # what is held at a time when a series is written: 32 MiB


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
    spacing: tuple[float, float]
    position: np.ndarray
    axes: np.ndarray

    @property
    def localizer(self) -> bool:
        return "LOCALIZER" in self.image_type.upper()


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
    """The header of one DICOM image; InputError when the file holds no readable image."""
    import itk  # here, as loading ITK's modules costs seconds and about 450 MB, which NIfTI users need not pay

    reader = itk.GDCMImageIO.New()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"{path.name} should be a DICOM image, but no image can be read from it; it is truncated or another kind "
            "of object (a report, a structure set): move it out of the folder or export it again."
        ) from error
    tags = reader.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(tags[key]).strip() if tags.HasKey(key) else ""

    return Slice(
        path=path,
        series=tag("0020|000e"),
        title=tag("0008|103e"),
        modality=tag("0008|0060"),
        image_type=tag("0008|0008"),
        placed=bool(tag("0020|0032") and tag("0020|0037")),
        size=tuple(int(reader.GetDimensions(a)) if a < reader.GetNumberOfDimensions() else 1 for a in range(3)),
        components=int(reader.GetNumberOfComponents()),
        stored=reader.GetComponentTypeAsString(reader.GetComponentType()),
        spacing=(float(reader.GetSpacing(0)), float(reader.GetSpacing(1))),
        position=np.array([reader.GetOrigin(a) for a in range(3)]),
        axes=np.array([reader.GetDirection(a) for a in range(3)]).T,
    )


def read_pixels(path: Path) -> np.ndarray:
    """Real-world values (J, I) of one file as float32: rescaled, and inverted where it is MONOCHROME1."""
    import itk

    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(ImageIO=itk.GDCMImageIO.New(), FileName=str(path))
    try:
        reader.Update()
    except RuntimeError as error:
        raise InputError(
            f"{path.name} should hold DICOM pixels, but they cannot be decoded; export the series again."
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
            mixed orientations, sizes or pixel spacings; duplicated positions; missing slices; multi-frame or colour.
    """
    path = Path(path)
    if path.is_dir():
        slices = [read_header(file) for file in _files_of(path)]
        slices = _one_series(slices, path.name)
    else:
        chosen = read_header(path)
        slices = [chosen]
        if chosen.placed:
            slices = _same_series(chosen)
    _check_alike(slices, path.name)
    if len(slices) == 1:
        return _flat(slices[0], path.name)
    slices, affine = _stack(slices, path.name)
    return SeriesVolume(slices, affine, path.name)


def _files_of(folder: Path) -> list[Path]:
    files = dicom_files(folder)
    if files:
        return files
    inner = [child.name for child in sorted(folder.iterdir()) if child.is_dir()]
    hint = f"name one of its sub-folders ({', '.join(inner[:3])})" if inner else "name the folder of one series"
    raise InputError(f"{folder} should be a folder of DICOM images, but no file in it is DICOM; {hint}.")


def _same_series(chosen: Slice) -> list[Slice]:
    others = []
    for file in dicom_files(chosen.path.parent):
        if file == chosen.path:
            continue
        try:
            others.append(read_header(file))
        except InputError:  # something else in the folder; the user has named the file that counts
            continue
    return [chosen, *(s for s in others if s.series == chosen.series and s.localizer == chosen.localizer)]


def _one_series(slices: list[Slice], name: str) -> list[Slice]:
    scouts = [s for s in slices if s.localizer]
    if scouts and len(scouts) < len(slices):
        raise InputError(
            f"{name} should hold the slices of one series, but {len(scouts)} of its {len(slices)} images are "
            f"localizers (e.g. {scouts[0].path.name}); move them out, or give a file of the wanted series."
        )
    series = Counter(s.series for s in slices)
    if len(series) > 1:
        titles = {s.series: s.title or s.modality for s in slices}
        found = ", ".join(f"{titles[uid]!r} with {n} images" for uid, n in series.items())
        raise InputError(
            f"{name} should hold one series, but holds {len(series)} ({found}); "
            "put each in its own folder, or give a file of the wanted one."
        )
    return slices


def _check_alike(slices: list[Slice], name: str) -> None:
    first = slices[0]
    for s in slices:
        if s.components != 1:
            raise InputError(f"{name} should be grey, but {s.path.name} has {s.components} channels; convert it first.")
        if s.size[2] != 1:
            raise InputError(
                f"{name} should have one slice per file, but {s.path.name} is multi-frame with {s.size[2]} frames; "
                "convert it to NIfTI or to a classic series."
            )
        if len(slices) > 1 and not s.placed:
            raise InputError(
                f"{name} should hold slices with a position and an orientation, but {s.path.name} has none, as "
                "radiographs have; give one such file at a time."
            )
        if not np.allclose(s.axes, first.axes, atol=1e-3):
            raise InputError(
                f"{name} should hold slices of one orientation, but {first.path.name} and {s.path.name} are turned "
                "against each other; put each orientation in its own folder."
            )
        if s.size != first.size or not np.allclose(s.spacing, first.spacing, rtol=1e-3):
            raise InputError(
                f"{name} should hold slices of one size, but {first.path.name} has {first.size[:2]} pixels of "
                f"{first.spacing} mm and {s.path.name} {s.size[:2]} of {s.spacing} mm; remove the odd ones."
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
            f"{name} should hold one slice per position, but {slices[twin].path.name} and "
            f"{slices[twin + 1].path.name} lie at the same one (copies, or several time points, echoes or phases); "
            "keep one of them."
        )
    # the smallest of the middle gaps: with 3 slices and one missing, the median would lie between the two
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    step = steps[int(np.abs(gaps - usual).argmin())]
    off = np.linalg.norm(steps - step, axis=1)
    if off.max() > STEP_TOLERANCE * usual:
        odd = int(off.argmax())
        raise InputError(
            f"{name} should hold slices at equal distances, but most are {usual:g} mm apart and "
            f"{slices[odd].path.name} and {slices[odd + 1].path.name} are {gaps[odd]:g} mm; a slice is missing or the "
            "spacing changes: export the whole series again."
        )
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
    pydicom = _pydicom()
    if len(volume.shape) != 3:
        raise InputError(
            f"A DICOM series should be made of a 3-D image, but {volume.name} has shape {volume.shape}; "
            "write 2-D images as png or tiff."
        )
    folder = Path(folder)
    _check_replaceable(folder)
    series = _CtSeries(pydicom, volume, seed, description)
    series.describe(description, reference, keep_patient)
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for k, values in _slices(volume):
        series.write_slice(k, real_world_cast(values, np.int16), aside / f"IM{k + 1:05d}.dcm")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(aside, folder)
    return folder


class _CtSeries:
    """The attributes that all slices of a written series share, and those of each slice."""

    def __init__(self, pydicom, volume: Volume, seed: int | None, description: str) -> None:
        self.pydicom = pydicom
        self.affine = RAS_FROM_LPS @ volume.affine  # LPS from here on
        self.entropy = None if seed is None else _content_digest(volume, seed, description)
        self.common = pydicom.Dataset()
        self._set_geometry(volume)

    def uid(self, *what: object) -> str:
        """A new UID: random, or the function of the content that a given seed asks for."""
        entropy = None if self.entropy is None else [self.entropy, *map(str, what)]
        return self.pydicom.uid.generate_uid(entropy_srcs=entropy)

    def describe(self, description: str, reference: str | Path | None, keep_patient: bool) -> None:
        source = self.pydicom.Dataset() if reference is None else _reference_header(self.pydicom, Path(reference))
        ds = self.common
        ds.SOPClassUID = self.pydicom.uid.CTImageStorage
        ds.Modality = "CT"
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        ds.SeriesDescription = description if "synthetic" in description.lower() else f"Synthetic: {description}"
        ds.DerivationDescription = f"Synthetic image made by hiresmed {__version__}; not measured, not for diagnosis"
        ds.Manufacturer, ds.SoftwareVersions = "hiresmed", __version__
        ds.BurnedInAnnotation = "NO"
        ds.SeriesNumber = 9001  # far from the scanner's own numbers
        for keyword in (*STUDY_ATTRIBUTES, "PositionReferenceIndicator", "KVP", "AcquisitionNumber"):
            setattr(ds, keyword, "")
        ds.PatientName = ds.PatientID = "ANONYMOUS"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid("study"), self.uid("series")
        ds.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or self.uid("frame")
        if keep_patient:
            for keyword in (*STUDY_ATTRIBUTES, "PatientName", "PatientID", "StudyInstanceUID"):
                if keyword in source:
                    ds[keyword] = source[keyword]
            if "SpecificCharacterSet" in source:
                ds.SpecificCharacterSet = source.SpecificCharacterSet

    def _set_geometry(self, volume: Volume) -> None:
        as_text = self.pydicom.valuerep.format_number_as_ds
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        axes = self.affine[:3, :2] / spacing[:2]
        if abs(axes[:, 0] @ axes[:, 1]) > 1e-4:
            raise InputError(
                f"A DICOM slice should have rows and columns at right angles, but the affine of {volume.name} shears "
                f"them ({volume.affine.tolist()}); write nii instead."
            )
        ds = self.common
        ds.Columns, ds.Rows = volume.shape[:2]
        ds.PixelSpacing = [as_text(float(spacing[1])), as_text(float(spacing[0]))]  # between rows, between columns
        ds.ImageOrientationPatient = [as_text(float(v)) for v in axes.T.ravel()]
        ds.SliceThickness = as_text(float(spacing[2]))
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
        ds.WindowCenter, ds.WindowWidth = "40", "400"

    def write_slice(self, k: int, values: np.ndarray, path: Path) -> None:
        """Writes slice k, int16 values (I, J) in HU."""
        uid = self.pydicom.uid
        ds = self.pydicom.Dataset()
        ds.update(self.common)
        ds.SOPInstanceUID = self.uid("slice", k)
        ds.InstanceNumber = k + 1
        position = self.affine[:3, 3] + k * self.affine[:3, 2]
        ds.ImagePositionPatient = [self.pydicom.valuerep.format_number_as_ds(float(v)) for v in position]
        ds.PixelData = np.ascontiguousarray(values.T, dtype="<i2").tobytes()
        ds.file_meta = self.pydicom.dataset.FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.save_as(path, enforce_file_format=True)


def _pydicom():
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            "Writing DICOM should find the package pydicom, but it is not installed; run: pip install hiresmed[dicom]."
        ) from error
    return pydicom


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(f.match("IM*.dcm") for f in folder.iterdir())):
        raise InputError(
            f"{folder} should be a new folder for the DICOM series or hold an earlier one, but holds other files; "
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


def _content_digest(volume: Volume, seed: int, description: str) -> str:
    """A hash of seed, geometry and all values: equal UIDs must mean equal images, or archives would mix them."""
    digest = hashlib.sha256(repr((seed, description, volume.shape, volume.affine.tolist())).encode())
    for _, values in _slices(volume):
        digest.update(real_world_cast(values, np.int16).tobytes(order="F"))
    return digest.hexdigest()


def _reference_header(pydicom, path: Path):
    """The first readable header of the source series."""
    files = dicom_files(path) if path.is_dir() else [path]
    try:
        return pydicom.dcmread(files[0], stop_before_pixels=True)
    except (IndexError, OSError, pydicom.errors.InvalidDicomError) as error:
        raise InputError(
            f"reference should be the source DICOM series (a folder or one file), but {path} holds none; "
            "give its folder or leave it out."
        ) from error
