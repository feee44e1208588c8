"""Images out, box by box: NIfTI (plain and gzip), PNG and TIFF; nothing bears its final name before it is whole.

DICOM is written by `dicom_series.write_ct_series` and `dicom_picture.write_secondary_capture`; OME-Zarr is the store
itself. MONAI's SaveImage and writers need the whole image in memory, which a volume larger than that does not allow.
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from ..core.errors import InputError
from ..core.in_words import format_bytes
from ..core.output_files import lock_folder, writable_folder, write_then_rename
from ..core.tiles import box_index
from ..core.volumes import Volume, grey_values, iter_boxes, real_world_cast
from .tiff import write_tiff

CHUNK = 2**20  # bytes copied at a time by the compressor
# zlib on a chest CT (63 MB int16): level 1 leaves 55.1 % in 1.6 s, level 6 53.8 % in 4.0 s, level 9 52.8 % in 31 s
GZIP_LEVEL = 1
PNG_PIXELS = 2**26
FORMATS = ("nii", "nii.gz", "dicom", "dcm", "png", "tiff")


def write_nifti(
    volume: Volume,
    path: str | Path,
    reference_header: nibabel.Nifti1Header | None = None,
    box: int | Sequence[int] = 128,
) -> Path:
    """Writes a volume to `.nii` or `.nii.gz`, box by box; memory is that of one box, whatever the volume's size.

    The file has the volume's affine (sform and qform, mm) and its dtype: uint8, int16, uint16, int32 or float32.
    The same values give the same bytes, compressed ones too.

    Args:
        reference_header: the input's header, whose sform/qform codes (scanner, aligned, template ...) are kept.
        box: voxels per axis that are read and written at a time.

    Raises:
        InputError: the disk is too small.
    """
    path = Path(path)
    if path.name.endswith(".gz"):
        plain = path.with_name(path.name + ".uncompressed")
        try:
            write_nifti(volume, plain, reference_header, box)
            with write_then_rename(path) as aside:
                _compress(plain, aside)
        finally:
            plain.unlink(missing_ok=True)
        return path
    header = _header(volume, reference_header)
    with write_then_rename(path) as aside:
        _allocate(aside, header)
        for start, shape in iter_boxes(volume.shape, box):
            _write_box(aside, header, start, real_world_cast(volume.read(start, shape), header.get_data_dtype()))
    return path


def _header(volume: Volume, reference: nibabel.Nifti1Header | None) -> nibabel.Nifti1Header:
    # a fresh header: the source's free text and extensions may name the patient
    large = max(volume.shape) > np.iinfo(np.int16).max
    header = nibabel.Nifti2Header() if large else nibabel.Nifti1Header()
    header.set_data_shape(volume.shape)
    header.set_data_dtype(_file_dtype(volume.dtype))
    known = nibabel.nifti1.xform_codes
    codes = (
        [known["scanner"]] * 2 if reference is None else [int(reference[f"{form}_code"]) for form in ("sform", "qform")]
    )
    if codes == [0, 0]:  # the source does not know where it lies, and no more does what is aligned with it
        codes = [known["aligned"]] * 2
    header.set_sform(volume.affine, codes[0] or codes[1])
    # qform cannot hold a shear; readers then take the sform, which can
    header.set_qform(volume.affine, codes[1] or codes[0], strip_shears=True)
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(1, 0)
    header.set_data_offset(header.single_vox_offset)
    return header


def _file_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    table = {"b1": "u1", "u1": "u1", "i1": "i2", "i2": "i2", "u2": "u2"}
    return np.dtype(table.get(f"{dtype.kind}{dtype.itemsize}", "i4"))


def _allocate(path: Path, header: nibabel.Nifti1Header) -> None:
    """A file of the header and as many zero bytes as the image needs, reserved on the disk where that is possible."""
    size = header.get_data_offset() + int(np.prod(header.get_data_shape(), dtype=object)) * header["bitpix"].item() // 8
    check_space(path.parent, size)
    with open(path, "wb") as file:
        header.write_to(file)
        file.truncate(size)
        _reserve(file.fileno(), size)


def _reserve(handle: int, size: int) -> None:
    """Room for that many bytes: a disk that fills up later would kill the process inside a mapped page (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # not every disk can reserve
            raise


def _write_box(path: Path, header: nibabel.Nifti1Header, start: Sequence[int], values: np.ndarray) -> None:
    # a mapping that lives for one box only: mapped pages count as resident memory
    pages = np.memmap(path, header.get_data_dtype(), "r+", header.get_data_offset(), header.get_data_shape(), order="F")
    pages[box_index(start, values.shape)] = values


def _compress(source: Path, target: Path) -> None:
    with open(source, "rb") as plain, open(target, "wb") as file:  # noqa: SIM117
        # no name and no time in the header, so that equal images are equal files
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as packed:
            shutil.copyfileobj(plain, packed, CHUNK)


def write_image_2d(volume: Volume, path: str | Path) -> Path:
    """Writes a 2-D volume (rows, columns) as PNG (8 or 16 bit) or TIFF (8, 16 or 32 bit, float), with its spacing.

    A TIFF is written tile by tile; it keeps signed integers (as 32 bit) and floats. A PNG is held whole in memory, so
    it ends at 64 megapixels (8192 x 8192: 128 MB of 16 bit, twice that at the peak); uint8 stays 8 bit, other values
    are rounded and limited to 0 ... 65535, with a warning where that changes them by more than rounding.

    Raises:
        InputError: not 2-D, a PNG that is too large, or a suffix other than .png, .tif, .tiff.
    """
    path = Path(path)
    if len(volume.shape) != 2:
        raise InputError(f"{path.name} must hold a 2-D image, got {volume.name} of shape {volume.shape}; write nii.")
    suffix = path.suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"A 2-D image must be written as .png or .tiff, got {path}; change it.")
    if suffix == ".png":
        check_png(volume.shape)
    with write_then_rename(path) as aside:
        if suffix == ".png":
            _write_png(volume, aside, path.name)
        else:
            write_tiff(volume, aside)
    return path


def check_png(shape: Sequence[int], kind: str = "PNG") -> None:
    """InputError when an image of that shape is beyond what a PNG or a DICOM file of one picture is written for."""
    if math.prod(shape) > PNG_PIXELS:
        raise InputError(
            f"A {kind} must have at most {PNG_PIXELS} pixels, since it is held in memory, got "
            f"{' x '.join(map(str, shape))}; set output_format to tiff, or ask for a smaller size or region."
        )


def _write_png(volume: Volume, aside: Path, name: str) -> None:
    # a phantom's or a scaled volume's values come as floats, whatever it stores
    values = real_world_cast(volume.read((0, 0), volume.shape), volume.dtype)
    rows, columns = volume.spacing
    picture = Image.fromarray(grey_values(values, name))
    picture.save(aside, format="PNG", dpi=(25.4 / columns, 25.4 / rows))


def save_volume(
    volume: Volume,
    path_stem: str | Path,
    output_format: str,
    reference_header: nibabel.Nifti1Header | None = None,
    **dicom_options,
) -> list[Path]:
    """Writes `<path_stem>.<output_format>` (dicom: a folder `<path_stem>_dicom`) and returns what was made.

    Args:
        output_format: nii, nii.gz, dicom (a CT series), dcm (a 2-D secondary capture), png or tiff.
        dicom_options: reference, seed, keep_patient, description of the DICOM writers.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(final_name(stem.name, output_format))
    if output_format == "dicom":
        from .dicom_series import write_ct_series

        return [write_ct_series(volume, path, **dicom_options)]
    if output_format == "dcm":
        from .dicom_picture import write_secondary_capture

        return [write_secondary_capture(volume, path, **dicom_options)]
    if output_format in ("png", "tiff"):
        return [write_image_2d(volume, path)]
    return [write_nifti(volume, path, reference_header)]


def final_name(stem: str, output_format: str) -> str:
    """The file or folder name that `save_volume` gives; to be asked of `check_output` before any work."""
    if output_format not in FORMATS:
        raise InputError(f"output_format must be one of {', '.join(FORMATS)}, got {output_format!r}; choose one.")
    return f"{stem}_dicom" if output_format == "dicom" else f"{stem}.{output_format}"


def check_output(
    output_dir: str | Path,
    needed_bytes: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    final_names: Sequence[str] = (),
) -> Path:
    """Creates the output folder and makes sure, before any work, that the results can be written there.

    Raises:
        InputError: not writable; less than `needed_bytes` free; a result of `final_names` exists and neither
            `overwrite` nor `resume` is set.
    """
    folder = writable_folder(output_dir)
    existing = [name for name in final_names if (folder / name).exists()]
    if existing and not (overwrite or resume):
        raise InputError(
            f"{folder} must not yet hold {existing[0]}, got one; set overwrite to true to replace it, resume to "
            "true to continue it, or choose another output_dir."
        )
    check_space(folder, needed_bytes)
    lock_folder(folder)
    return folder


def check_space(folder: Path, needed_bytes: int) -> None:
    """InputError when the disk of `folder` has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"The disk of {folder} must have {format_bytes(needed_bytes)} free for this result, got "
            f"{format_bytes(free)}; free some, choose another folder, or ask for a smaller size or region."
        )
