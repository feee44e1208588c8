"""Pictures in: PNG, JPEG and TIFF as grey 2-D volumes with their pixel spacing.

Through Pillow they are held whole; TIFFs that can be read box by box go through `tiff`. MONAI's PILReader turns rows
into columns and knows no spacing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from ..core.errors import InputError
from ..core.input_files import check_openable
from ..core.packed_size import DEFLATE, check_packed
from ..core.volumes import ArrayVolume, Volume, first_line, picture_affine, require_finite
from .tiff import open_tiff, resolution_spacing, white_is_zero

FORMATS = ("PNG", "JPEG", "TIFF")
# the most that the densest packing of a kind reaches; in a TIFF (LZMA, ZSTD, fax) it has no such bound
RATIOS = {"PNG": DEFLATE, "JPEG": 2**10, "MPO": 2**10, "TIFF": 2**14}
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of a TIFF
MONOCHROME_OF_TIFF = 262  # tag PhotometricInterpretation; 0: white is zero


def read_picture(path: str | Path) -> Volume:
    """A PNG, JPEG or TIFF as a 2-D volume (rows, columns), grey; transparency is dropped.

    Values are the stored ones (8 or 16 bit, 32 bit, float); colours become ITU-R 601 luma. Spacing in mm comes from
    the resolution of a PNG or TIFF, else it is 1 mm (a screen's 72 or 96 dpi mean nothing). Columns run to the left,
    rows to the back of the patient, as DICOM and ITK place an image without orientation; rows and columns are those
    that a viewer shows, turned as the file's EXIF says. PNG, JPEG and TIFFs of another kind than `open_tiff` streams
    are held in memory.

    Raises:
        InputError: not such a picture, truncated, several pages, NaN or infinite values.
    """
    path = Path(path)
    streamed = open_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else None
    if streamed is not None:
        return streamed
    try:
        with opened_picture(path) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages > 1:
                raise InputError(
                    f"{path.name} must be one 2-D image, got {pages} pages; save one of them, or the stack as NIfTI."
                )
            check_justified(picture, path)
            turn = _exif_turn(picture)
            spacing = _spacing(picture)
            values = _grey(picture)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds of a damaged file, from SyntaxError to struct.error
        raise InputError(
            f"{path.name} must be a PNG, JPEG or TIFF image, got one that cannot be read ({first_line(error)}); it is "
            "truncated or of another kind: export it again."
        ) from error
    if turn is not None:
        values = np.ascontiguousarray(turn(values))
        spacing = spacing[::-1] if turn in _SIDEWAYS else spacing
    return ArrayVolume(require_finite(values, path.name, (0, 0)), picture_affine(*spacing), path.name)


def read_colours(path: str | Path) -> np.ndarray:
    """A PNG, JPEG or TIFF as (rows, columns, 3) uint8 in RGB, turned as its EXIF says; transparency is dropped.

    Raises:
        InputError: not such a picture, or truncated.
    """
    path = Path(path)
    try:
        with opened_picture(path) as picture:
            check_justified(picture, path)
            picture.load()
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds of a damaged file, from SyntaxError to struct.error
        raise InputError(
            f"{path.name} must be a PNG, JPEG or TIFF image, got one that cannot be read ({first_line(error)}); it is "
            "truncated or of another kind: export it again."
        ) from error


def picture_shape(path: str | Path) -> tuple[int, int] | None:
    """(rows, columns) by the header alone; None where the file is no picture."""
    try:
        with opened_picture(Path(path)) as picture:
            rows, columns = picture.size[::-1]
            turn = _exif_turn(picture)
            return (rows, columns) if turn is None else turn(np.empty((rows, columns, 0))).shape[:2]
    except Exception:  # as in read_picture
        return None


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A PNG, JPEG or TIFF, its header read; OSError and others where it is none."""
    check_openable(path)
    # large images are what this library is for
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        # Pillow would start Ghostscript for a PostScript file, whatever its suffix
        with Image.open(path, formats=FORMATS) as picture:
            picture.filename = ""  # Pillow maps a named file into memory, and then turns a rotated TIFF wrongly
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# EXIF orientation -> what brings the stored rows and columns to those that a viewer shows
_TURNS = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
_SIDEWAYS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def _exif_turn(picture: Image.Image) -> Callable[[np.ndarray], np.ndarray] | None:
    """How a PNG or JPEG is to be turned by its EXIF; None: not at all. Pillow turns a TIFF itself."""
    if picture.format == "TIFF":
        return None
    return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))


def check_justified(picture: Image.Image, path: Path) -> None:
    """InputError before anything is allocated for more pixels than the file's bytes can be."""
    columns, rows = picture.size
    bits = {"1": 1, "P": 1, "L": 2}.get(picture.mode, 8) if picture.format == "PNG" else 8  # at the least
    pixels = rows * columns
    if isinstance(picture, TiffImageFile):  # a tile is unpacked whole, however small the picture
        pixels = max(pixels, _first(picture, TILE_WIDTH) * _first(picture, TILE_LENGTH))
    check_packed(path, pixels * bits // 8, RATIOS[picture.format or "TIFF"])


def _first(picture: TiffImageFile, tag: int) -> int:
    value = picture.tag_v2.get(tag, 0)
    return int(value[0] if isinstance(value, tuple) else value)


def _grey(picture: Image.Image) -> np.ndarray:
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode not in ("L", "I", "F") and not picture.mode.startswith("I;16"):
        if picture.mode in ("LA", "La"):
            return np.asarray(picture.getchannel(0))
        picture = picture.convert("RGB").convert("L")
    values = np.asarray(picture)
    values = values.astype(values.dtype.newbyteorder("="))
    if isinstance(picture, TiffImageFile) and picture.tag_v2.get(MONOCHROME_OF_TIFF) == 0 and picture.mode != "L":
        return white_is_zero(values)  # Pillow inverts 8 bits and fewer only
    return values


def _spacing(picture: Image.Image) -> tuple[float, float]:
    """Distance of rows and of columns in mm; 1 where the file does not say."""
    x = 0.0
    y = 0.0
    unit_mm = 0.0
    if picture.format == "PNG" and "dpi" in picture.info:
        (x, y), unit_mm = picture.info["dpi"], 25.4
    elif isinstance(picture, TiffImageFile):
        tags = picture.tag_v2
        x = float(tags.get(282, 0))
        y = float(tags.get(283, 0))
        unit_mm = {2: 25.4, 3: 10.0}.get(tags.get(296, 2), 0.0)
    return resolution_spacing(x, y, unit_mm)
