"""Images that are read box by box, wherever their voxels are stored.

Letters: S = spatial shape (D, H, W) or (H, W), in array order as the file's reader gives it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .errors import InputError
from .input_files import check_openable
from .nifti_geometry import nifti_affine
from .output_files import files_digest
from .packed_size import check_packed
from .tiles import box_index

_BLOCK = 2**20  # bytes
_MOST_BLOCKS = 256


class Volume(ABC):
    """One-channel image of spatial shape S that is read box by box, so that its size does not set the memory.

    Attributes:
        shape: spatial shape S in voxels, array order (for NIfTI: i, j, k).
        affine: (4, 4) float64, voxel index (cell centre) to mm in RAS+, as in nibabel and MONAI; for 2-D images
            the third axis has unit spacing.
        dtype: the dtype of the values: the stored one, or float where a stored scaling makes real numbers of them.
        name: file or folder name without directories; for reports.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    name: str

    @abstractmethod
    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Values of the box `start`, `shape` (both in voxels; wholly inside the volume), as real-world numbers."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbouring voxel centres along each array axis, in mm."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0))

    def read_extended(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Values of any box that touches the volume; outside, the nearest face's value is repeated.

        The extension is a property of the volume, not of the box, so that tiles agree on it. Edge replication adds no
        false edge, as constant air would.
        """
        low = [max(0, min(s, n - 1)) for s, n in zip(start, self.shape)]
        high = [max(1, min(s + m, n)) for s, m, n in zip(start, shape, self.shape)]
        inner = self.read(low, [h - lo for lo, h in zip(low, high)])
        pads = [(lo - s, s + m - h) for s, m, lo, h in zip(start, shape, low, high)]
        if not any(p > 0 for pair in pads for p in pair):
            return inner
        # a box wholly outside along an axis reads one face plane and repeats it
        widths = [(min(max(a, 0), m - 1), min(max(b, 0), m - 1)) for (a, b), m in zip(pads, shape)]
        return np.pad(inner, widths, mode="edge")


class ArrayVolume(Volume):
    """A volume in memory: an array or tensor of shape S."""

    def __init__(self, array, affine: np.ndarray | None = None, name: str = "array") -> None:
        self.array = np.asarray(array)
        self.shape = tuple(self.array.shape)
        self.affine = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
        self.dtype = self.array.dtype
        self.name = name

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        return self.array[box_index(start, shape)]


def voxels_of_pair(header: Path) -> Path:
    """The `.img` beside a `.hdr`.

    Raises:
        InputError: there is none.
    """
    for suffix in (".img", ".IMG"):
        voxels = header.with_suffix(suffix)
        check_openable(voxels)
        if voxels.is_file():
            return voxels
    raise InputError(
        f"{header.name} must have its voxels in {header.stem}.img beside it, got no such file; copy both, or convert "
        "the image to .nii."
    )


class NiftiVolume(Volume):
    """A volume in a plain NIfTI-1/2 file or pair, of any byte order and scaling; only the requested box is read.

    Trailing axes of length 1 are dropped as long as two axes remain. Units of metres or micrometres become mm. Values
    are real-world numbers (scl_slope, scl_inter applied); float values must be finite.

    Args:
        path: a `.nii` file, or the `.hdr` of a pair.
        name: the case's name in reports and errors; by default the file name.
        header_only: a `.nii.gz` whose header is to be checked; its voxels cannot be read box by box.

    Raises:
        InputError: not a NIfTI image (Analyze 7.5 is none), truncated, not 2-D or 3-D, more than one channel, a bad
            affine; at `read`: NaN or infinite values.
    """

    def __init__(self, path: str | Path, name: str | None = None, header_only: bool = False) -> None:
        self.path = Path(path)  # of the voxels
        self.name = name or self.path.name
        check_openable(self.path)
        if self.path.suffix.lower() == ".hdr":
            self.path = voxels_of_pair(self.path)
        try:
            image = nibabel.load(path, mmap="r")
        except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(
                f"{self.name} must be a NIfTI image, got a file that nibabel cannot read ({first_line(error)}); "
                "check or export the file again."
            ) from error
        if isinstance(image, nibabel.analyze.AnalyzeImage) and not isinstance(image, nibabel.nifti1.Nifti1Pair):
            raise InputError(
                f"{self.name} must be a NIfTI image, got Analyze 7.5, which does not say what is left and right; "
                "convert it to NIfTI with the program that wrote it."
            )
        if not isinstance(image, nibabel.nifti1.Nifti1Pair):
            raise InputError(f"{self.name} must be a NIfTI image, got {type(image).__name__}; convert it to NIfTI.")
        self._values = cast(ArrayProxy, image.dataobj)  # of a file on disk
        self.shape = spatial_shape(image.shape, self.name)
        self.dtype = self._real_dtype()
        self.affine = checked_affine(nifti_affine(image, Path(path), self.name), len(self.shape), self.name)
        if self.path.name.lower().endswith(".gz"):
            check_packed(self.path, self.file_bytes)
        elif not header_only:
            self._check_length()

    @property
    def file_bytes(self) -> int:
        """Bytes of the plain file, by its header."""
        return int(self._values.offset) + math.prod(self._values.shape) * self._values.dtype.itemsize

    def _real_dtype(self) -> np.dtype:
        stored = self._values.dtype
        if stored.kind not in "biuf" or stored.itemsize > 8:
            raise InputError(
                f"{self.name} must have one real value per voxel, got more than one channel or an unusual type "
                f"({stored}); convert it to one channel of int16 or float32."
            )
        self._scaled = (self._values.slope, self._values.inter) != (1, 0)
        if not self._scaled:
            return stored.newbyteorder("=")
        exact_in_float32 = stored.itemsize <= 2 or stored == np.float32
        return np.dtype(np.float32 if exact_in_float32 else np.float64)

    def _check_length(self) -> None:
        actual_bytes = self.path.stat().st_size
        if actual_bytes < self.file_bytes:
            raise InputError(
                f"{self.name} must be {self.file_bytes} bytes long by its header ({tuple(self._values.shape)} "
                f"{self._values.dtype}), got {actual_bytes}; the file is truncated: copy or export it again."
            )

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        first_of_others = (0,) * (len(self._values.shape) - len(start))
        box = (*(slice(s, s + n) for s, n in zip(start, shape)), *first_of_others)
        # mapped for the copy only: nibabel's slicing reads row by row, 8 times slower, and pages left mapped count as
        # resident memory
        values = self._values[box] if self._scaled else self._values.get_unscaled()[box]
        return require_finite(np.array(values, dtype=self.dtype, order="F"), self.name, start)


def iter_boxes(shape: Sequence[int], size: Sequence[int] | int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All (start, shape) of boxes of at most `size` voxels that tile `shape` once, last axis slowest.

    MONAI's dense_patch_slices moves the last box inwards, so that its boxes overlap.
    """
    sizes = [size] * len(shape) if isinstance(size, int) else list(size)
    for index in product(*(range(0, n, m) for n, m in zip(reversed(shape), reversed(sizes)))):
        start = tuple(reversed(index))
        yield start, tuple(min(m, n - s) for s, n, m in zip(start, shape, sizes))


def check_finite(volume: Volume, box: int = 128) -> None:
    """Reads the whole volume in boxes of `box` voxels per axis; InputError where a value is NaN or infinite."""
    for start, shape in iter_boxes(volume.shape, box):
        require_finite(volume.read(start, shape), volume.name, start)


def content_digest(volume: Volume) -> str:
    """Tells volumes of one name and shape apart by what they hold, so that a run is resumed with its own input.

    Of a file, and of each file of a store, all bytes up to 256 MiB are read, of a larger one as many spread over it; of
    a decoded volume boxes spread over it; a phantom is told by its seed and settings.
    """
    while hasattr(volume, "volume"):  # views
        volume = volume.volume
    content = hashlib.sha256(repr((volume.shape, str(volume.dtype))).encode())
    path = getattr(volume, "path", None)
    if isinstance(volume, ArrayVolume):
        content.update(np.ascontiguousarray(volume.array).tobytes())
    elif path is not None and Path(path).is_file():
        size = Path(path).stat().st_size
        content.update(str(size).encode())
        blocks = range(0, size, max(_BLOCK, size // _MOST_BLOCKS))
        with open(path, "rb") as file:
            for start in blocks:
                file.seek(start)
                content.update(file.read(_BLOCK))
    elif path is not None and Path(path).is_dir():
        content.update(files_digest(p for p in sorted(Path(path).rglob("*")) if p.is_file()).encode())
    elif hasattr(volume, "seed"):
        settings = (
            volume.name,
            volume.affine.tolist(),
            getattr(volume, "noise", None),
            getattr(volume, "contrast", None),
        )
        content.update(repr(settings).encode())
    else:
        box = [min(16, n) for n in volume.shape]
        for place in product(range(4), repeat=len(box)):
            first = [k * (n - m) // 3 for k, n, m in zip(place, volume.shape, box)]
            content.update(np.ascontiguousarray(volume.read(first, box)).tobytes())
    return content.hexdigest()[:16]


def require_finite(values: np.ndarray, name: str, start: Sequence[int]) -> np.ndarray:
    """The values themselves; InputError when one of them is NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        first = tuple(int(s + i) for s, i in zip(start, np.argwhere(~np.isfinite(values))[0]))
        raise InputError(
            f"{name} must hold finite values only, got NaN or infinity, e.g. at voxel {first}; "
            "replace them (e.g. by numpy.nan_to_num with the value of air)."
        )
    return values


def spatial_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """The 2-D or 3-D shape without trailing axes of length 1; InputError for any other or an empty one."""
    spatial = tuple(int(n) for n in shape)
    while len(spatial) > 2 and spatial[-1] == 1:
        spatial = spatial[:-1]
    if len(spatial) not in (2, 3):
        raise InputError(
            f"{name} must be one 2-D or 3-D image of one channel, got shape {tuple(shape)}; save the wanted "
            "volume (one channel, one time point) as a file of its own."
        )
    if min(spatial) < 1:
        raise InputError(f"{name} must have voxels along every axis, got shape {tuple(shape)}; export it again.")
    return spatial


def checked_affine(affine: np.ndarray, spatial_dims: int, name: str) -> np.ndarray:
    """The (4, 4) affine in float64; a 2-D image's missing third axis becomes the unit normal.

    Raises:
        InputError: values that are not finite, or axes that do not span the space.
    """
    affine = np.array(affine, dtype=np.float64)
    if affine.shape == (4, 4) and np.isfinite(affine).all():
        if spatial_dims == 2 and not _spans(affine[:3, :3]):
            normal = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = normal / max(np.linalg.norm(normal), np.finfo(float).tiny)
        if _spans(affine[:3, :3]):
            return affine
    raise InputError(
        f"{name} must have an invertible (4, 4) affine of finite values, got {affine.tolist()}; "
        "repair its sform/qform or its orientation and spacing."
    )


def picture_affine(rows: float, columns: float) -> np.ndarray:
    """Affine (4, 4) of a picture with this spacing of rows and columns in mm.

    Columns run to the left, rows to the back of the patient, as DICOM and ITK place an image without orientation.
    """
    return np.array([[0, -columns, 0, 0], [-rows, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)


def real_world_cast(values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Values in another dtype: rounded for an integer one, and limited to its range rather than wrapped."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu" or values.dtype == dtype or values.dtype.kind == "b":
        return values.astype(dtype, copy=False)
    if values.dtype.kind == "f":
        values = np.rint(values)
    limits = np.iinfo(dtype)
    return np.clip(values, limits.min, limits.max).astype(dtype)


def grey_values(values: np.ndarray, name: str) -> np.ndarray:
    """Values as uint8 or uint16, as pictures hold them: uint8 stays, others are rounded and limited to 0 ... 65535.

    Warns where that changes values by more than rounding.
    """
    if values.dtype in (np.uint8, np.bool_):
        return values.astype(np.uint8)
    outside = float(np.mean((values < -0.5) | (values > 65535.5)))
    if outside:
        warnings.warn(f"{name}: {outside:.1%} of the values lie outside 0 ... 65535 and are limited.", stacklevel=4)
    return real_world_cast(values, np.uint16)


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for quotation inside a sentence."""
    return next((line.strip().rstrip(".;") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _spans(axes: np.ndarray) -> bool:
    return bool(abs(np.linalg.det(axes)) > 1e-6 * np.prod(np.linalg.norm(axes, axis=0)))
