"""Image files in: one case opened as a volume without loading it, and the list of cases to work on.

Formats that cannot be read box by box (gzip, NRRD, MetaImage, DICOM series) become a plain NIfTI in a working folder
first, in constant memory where the format allows; MONAI's LoadImage would hold the whole image.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import InputError, system_refusals
from ..core.input_files import check_openable, path_exists
from ..core.names import check_utf8, result_name, result_names
from ..core.output_files import new_file
from ..core.views import as_picture
from ..core.volumes import NiftiVolume, Volume, checked_affine, first_line, spatial_shape, voxels_of_pair
from .dicom import RAS_FROM_LPS, SeriesVolume, dicom_files, is_dicom, open_series, read_header
from .itk_headers import METAIMAGE, NRRD, data_files
from .ome_zarr import is_zarr, open_level
from .pictures import read_picture
from .writers import check_space, write_nifti

NIFTI = (".nii", ".nii.gz")
ITK_FORMATS = (*NRRD, *METAIMAGE)
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PAIR = (".hdr", ".img")  # header and voxels of a NIfTI in two files
SUFFIXES = (*reversed(NIFTI), *PAIR, *ITK_FORMATS, *PICTURES, ".dcm", ".zarr")
LOGGER = logging.getLogger(__name__)
CHUNK = 2**20  # bytes decompressed at a time
TAIL = 2**20  # bytes behind the voxels that a writer may have padded its file with
SLAB = 16  # slices converted at a time
NIFTI_HEADER = 352  # bytes, at the least


def open_volume(path: str | Path | Volume, work_dir: str | Path) -> Volume:
    """Opens one case without loading it.

    Args:
        path: `.nii`, `.nii.gz`, NRRD, MetaImage, PNG, JPEG, TIFF, DICOM (a series folder or a file of it), or a
            `.zarr` folder; a Volume is returned as it is.
        work_dir: where a plain NIfTI is put for formats that cannot be read box by box; made if needed, and what lies
            there from an earlier run over the same unchanged file is used again.

    Returns:
        A volume of shape (I, J, K), the axes of the file (DICOM: columns, rows, slices); or a 2-D image of (rows,
        columns). A NIfTI, NRRD or MetaImage of one slice, (I, J) or (I, J, 1), is such an image, turned as its affine
        says: ITK writes columns first. Without a direction (along +R and +A, as nibabel's default) I are the rows.

    Raises:
        InputError: nothing there, empty, not an image, truncated, not 2-D or 3-D, several channels, a bad affine.
    """
    if isinstance(path, Volume):
        return path
    source = _existing(path)
    suffix = _suffix(source)
    if is_zarr(source):
        return as_picture(open_level(source))
    if source.is_dir():
        if not dicom_files(source) and _image_files(source):
            raise InputError(
                f"{source} must be one image, got a folder with {_image_files(source)[0].name} and others in it; "
                "name one of them as image, or the folder as dataset_dir."
            )
        return _open_dicom(source, Path(work_dir))
    if suffix in (".nii", ".hdr"):
        return as_picture(NiftiVolume(source))
    if suffix == ".nii.gz":
        return as_picture(_open_compressed(source, Path(work_dir)))
    if suffix in ITK_FORMATS:
        files = data_files(source)
        volume = ItkVolume(source)
        return as_picture(_converted(volume, files, Path(work_dir), (*volume.shape[:-1], volume.slab)))
    if suffix in PICTURES:
        return read_picture(source)
    if is_dicom(source):
        return _open_dicom(source, Path(work_dir))
    raise InputError(
        f"{source} must be an image ({', '.join(SUFFIXES)} or a DICOM folder), got none of these; convert it."
    )


def _existing(path: str | Path) -> Path:
    if not str(path).strip():
        raise InputError("image must be the path of an image, got nothing; give a file or a DICOM folder.")
    source = Path(path).expanduser()
    if not path_exists(source):
        raise InputError(
            f"image must be an existing file or folder, got {source}, which does not exist; check the path."
        )
    check_openable(source)
    if source.is_file() and source.stat().st_size == 0:
        raise InputError(f"{source} must be an image, got an empty file; copy or export it again.")
    return header_of_pair(source) if source.suffix.lower() == ".img" and source.is_file() else source


def header_of_pair(voxels: Path) -> Path:
    """The `.hdr` beside a `.img`.

    Raises:
        InputError: there is none.
    """
    for suffix in (".hdr", ".HDR"):
        if voxels.with_suffix(suffix).is_file():
            return voxels.with_suffix(suffix)
    raise InputError(
        f"{voxels.name} must have its header in {voxels.stem}.hdr beside it, got no such file; copy both, or convert "
        "the image to .nii."
    )


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def case_name(path: str | Path) -> str:
    """The name of a case: its file or folder name without the image suffix."""
    path = Path(os.path.expanduser(path))  # Path.expanduser fails for a file named ~.nii.gz, which is nobody's home
    name = path.name or path.resolve().name
    return name[: -len(_suffix(path))] if _suffix(path) in SUFFIXES and len(name) > len(_suffix(path)) else name


def _open_compressed(source: Path, work_dir: Path) -> NiftiVolume:
    # a mistake in the header shows before gigabytes are written
    wanted = NiftiVolume(source, header_only=True).file_bytes

    def decompress(target: Path) -> None:
        try:
            with gzip.open(source, "rb") as packed, open(target, "wb") as plain:
                while chunk := packed.read(CHUNK):  # to the end, as that is where the checksum stands
                    plain.write(chunk)
                    if plain.tell() > wanted + TAIL:
                        raise InputError(
                            f"{source.name} must unpack to the {wanted} bytes of its header, got more than "
                            f"{wanted + TAIL}; it is damaged: copy or export it again."
                        )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{source.name} must be a whole gzip file, got a truncated or damaged one ({first_line(error)}); "
                "copy or export it again."
            ) from error

    return NiftiVolume(_made_once([source], work_dir, decompress, needed_bytes=wanted), name=source.name)


def _open_dicom(source: Path, work_dir: Path) -> Volume:
    volume = open_series(source)
    if not isinstance(volume, SeriesVolume):
        return volume
    return _converted(volume, [s.path for s in volume.slices], work_dir, (*volume.shape[:2], 1))


def _converted(volume: Volume, sources: Sequence[Path], work_dir: Path, box: Sequence[int]) -> NiftiVolume:
    needed = NIFTI_HEADER + math.prod(volume.shape) * volume.dtype.itemsize
    plain = _made_once(sources, work_dir, lambda target: write_nifti(volume, target, box=box), volume.name, needed)
    return NiftiVolume(plain, name=volume.name)


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Path, size and time of last change of a file: a corrected file under its old name has another stamp."""
    state = path.stat()
    return str(path.resolve()), state.st_size, state.st_mtime_ns


def source_stamps(path: str | Path) -> list[tuple[str, int, int]]:
    """Stamps of a case's file, or of all files of its folder, sorted."""
    return [file_stamp(file) for file in files_of(Path(path).expanduser())]


def files_of(source: Path) -> list[Path]:
    """The files that a case's image is made of: itself, all files of its folder, or its header and its data."""
    if source.is_dir():
        return sorted(f for f in source.rglob("*") if f.is_file())
    if _suffix(source) == ".hdr":
        return [source, voxels_of_pair(source)]
    return data_files(source) if _suffix(source) in ITK_FORMATS else [source]


def _made_once(
    sources: Sequence[Path],
    work_dir: Path,
    make: Callable[[Path], object],
    name: str | None = None,
    needed_bytes: int = 0,
) -> Path:
    """The `.nii` of `needed_bytes` made from `sources`; its name holds a hash of their paths, sizes and times, so
    that it is made anew for other or changed files."""
    stamps = [file_stamp(source) for source in sources]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]
    target = work_dir / f"{result_name(case_name(name or sources[0].name))}-{key}.nii"
    # a shorter one was cut off by a power failure
    if target.is_file() and not target.is_symlink() and target.stat().st_size >= needed_bytes:
        return target
    # the process id keeps processes apart that open the same case at once
    aside = target.with_name(f"{target.name}.{os.getpid()}.nii")
    try:
        with system_refusals():
            work_dir.mkdir(parents=True, exist_ok=True)
            check_space(work_dir, needed_bytes)
            try:
                new_file(aside)
                make(aside)
                os.replace(aside, target)
            finally:
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"The working folder {work_dir} must take a plain copy of {sources[0].name}, got one that cannot be "
            f"written ({error.strerror or error}); choose another output_dir or free some space."
        ) from error
    return target


class ItkVolume(Volume):
    """A NRRD or MetaImage file: uncompressed MetaImage is read slab by slab, others are held whole (ITK's limit)."""

    def __init__(self, path: str | Path) -> None:
        import itk  # here, as loading ITK's modules costs seconds and about 450 MB

        check_utf8(path)
        self.name = Path(path).name
        try:
            # not by the file's content: ITK has readers of many other kinds, some of which follow links to other files
            info = (itk.NrrdImageIO if Path(path).suffix.lower() in NRRD else itk.MetaImageIO).New()
            info.SetFileName(str(path))
            info.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(
                f"{self.name} must be a NRRD or MetaImage file, got one that ITK cannot read; it is damaged, or "
                "its data file is missing."
            ) from error
        dims = info.GetNumberOfDimensions()
        sizes = [int(info.GetDimensions(a)) for a in range(dims)]
        if info.GetNumberOfComponents() != 1:
            sizes = [info.GetNumberOfComponents(), *sizes]
            raise InputError(
                f"{self.name} must have one channel, got {sizes[0]} per voxel (shape {tuple(sizes)}); "
                "save the wanted channel as a file of its own."
            )
        self.shape = spatial_shape(sizes, self.name)
        self.affine = checked_affine(RAS_FROM_LPS @ _lps_affine(info), len(self.shape), self.name)
        self.dtype = ITK_TYPES.get(info.GetComponentTypeAsString(info.GetComponentType()), np.dtype(np.float32))
        self.slab = SLAB if info.CanStreamRead() else self.shape[-1]
        pixel = itk.D if self.dtype.itemsize > 2 else itk.F  # double holds every int32
        image = itk.Image[pixel, dims]
        self._region = itk.ImageRegion[dims]
        # an ITK image does not keep its source alive
        self._reader = itk.ImageFileReader[image].New(FileName=str(path), ImageIO=info, UseStreaming=True)
        self._extract = itk.RegionOfInterestImageFilter[image, image].New(Input=self._reader.GetOutput())
        self._array = itk.array_view_from_image

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        region = self._region()
        rest = region.GetImageDimension() - len(start)
        region.SetIndex([*map(int, start), *[0] * rest])
        region.SetSize([*map(int, shape), *[1] * rest])
        self._extract.SetRegionOfInterest(region)
        try:
            self._extract.Update()
        except RuntimeError as error:
            raise InputError(
                f"{self.name} must hold {self.shape} voxels, got fewer that ITK can read; it is truncated or "
                "damaged: export it again."
            ) from error
        return self._array(self._extract.GetOutput()).T.reshape(shape, order="F").astype(self.dtype)


ITK_TYPES: dict[str, np.dtype] = {
    "unsigned_char": np.dtype(np.uint8),
    "char": np.dtype(np.int16),
    "short": np.dtype(np.int16),
    "unsigned_short": np.dtype(np.uint16),
    "int": np.dtype(np.int32),
    "unsigned_int": np.dtype(np.int32),  # label numbers; NIfTI writers and MONAI do not go beyond
    "float": np.dtype(np.float32),
}


def _lps_affine(info) -> np.ndarray:
    dims = min(3, info.GetNumberOfDimensions())
    affine = np.eye(4)
    for axis in range(dims):
        affine[:dims, axis] = np.array(info.GetDirection(axis))[:dims] * info.GetSpacing(axis)
        affine[axis, 3] = info.GetOrigin(axis)
    return affine


def cases(
    image: str | Path | Volume | None = None,
    dataset_dir: str | Path | None = None,
    default: Volume | None = None,
) -> list[dict]:
    """The cases to work on, sorted, each `{"image": path or Volume, "name": str}`; names are distinct.

    Args:
        image: one case.
        dataset_dir: a folder of cases: image files, DICOM files, sub-folders with a DICOM series, `.zarr` folders.
        default: what is used when neither is given (a phantom).

    Raises:
        InputError: both given; none and no default; nothing in the folder.
    """
    if image is not None and dataset_dir is not None:
        raise InputError(
            f"Either image or dataset_dir must be given, got both ({image}, {dataset_dir}); leave one out."
        )
    if dataset_dir is not None:
        return _named(_cases_in(_existing(dataset_dir)))
    chosen = default if image is None else image
    if chosen is None:
        raise InputError("An image or a dataset_dir must be given, got neither; give one of them.")
    return _named([chosen if isinstance(chosen, Volume) else _existing(chosen)])


def _cases_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"dataset_dir must be a folder of images, got the file {folder}; give it as image.")
    paths = _image_files(folder)
    paths += [child for child in folder.iterdir() if child.is_dir() and _folder_is_case(child)]
    loose = dicom_files(folder)
    paths += _loose_dicom(loose)
    used = {path.name for path in (*paths, *loose)}
    others = [p for p in sorted(folder.iterdir()) if p.name not in used and not p.name.startswith(".")]
    companions = _companions(paths, others)
    others = [p for p in others if p not in companions]
    if paths and others:
        names = [f"{p.name} (a folder without a series in it)" if p.is_dir() else p.name for p in others]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        LOGGER.warning("Left out, as they are no images: %s%s.", ", ".join(names[:6]), more)
    if not paths:
        deeper = _folder_of_images_below(folder)
        cure = "check the path" if deeper is None else f"give {deeper}, or link the images of all such folders into one"
        raise InputError(f"dataset_dir must hold images or DICOM sub-folders, got none in {folder}; {cure}.")
    return sorted(paths)


def _folder_of_images_below(folder: Path, levels: int = 3) -> Path | None:
    """The first folder below that is a dataset_dir, for archives that sort their cases into folders of folders."""
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if _image_files(child) or any(_folder_is_case(p) for p in child.iterdir() if p.is_dir()):
            return child
        deeper = _folder_of_images_below(child, levels - 1) if levels > 1 else None
        if deeper is not None:
            return deeper
    return None


def _companions(images: Sequence[Path], others: Sequence[Path]) -> set[Path]:
    """Those of the other files that belong to an image: a JSON, or the voxels that a header names."""
    companions = {path for path in others if path.suffix.lower() == ".json"}
    if len(companions) == len(others):
        return companions
    for image in images:
        if image.suffix.lower() in (".hdr", ".mhd", ".nhdr"):
            try:
                companions.update(files_of(image))
            except InputError:  # said when its turn comes
                continue
    return companions


def _image_files(folder: Path) -> list[Path]:
    endings = (*NIFTI, ".hdr", *ITK_FORMATS, *PICTURES)
    files = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
    return [f for f in files if _suffix(f) in endings]


def _folder_is_case(folder: Path) -> bool:
    return is_zarr(folder) or bool(dicom_files(folder))


def _loose_dicom(files: Sequence[Path]) -> list[Path]:
    """DICOM files of one folder: a radiograph is a case of its own, a series is named by its first file.

    A file without a readable image is a case, too: what is wrong with it is said when its turn comes.
    """
    headers = []
    broken = []
    for file in files:
        try:
            headers.append(read_header(file))
        except InputError:
            broken.append(file)
    series = {h.series: h.path for h in reversed(headers) if h.placed}
    return [h.path for h in headers if not h.placed] + list(series.values()) + broken


def _named(found: Sequence[Path | Volume]) -> list[dict]:
    names = [case_name(f.name if isinstance(f, Volume) else f) for f in found]
    twice = {name for name, n in Counter(names).items() if n > 1}
    # a.nii and a.png would write the same result
    names = [f.name.replace(".", "_") if name in twice else name for f, name in zip(found, names)]
    return [{"image": f, "name": name} for f, name in zip(found, result_names(names))]
