"""Grey TIFFs in and out in the memory of a few tiles, through tifffile; Pillow holds the whole picture both ways."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

from ..core.errors import InputError
from ..core.tiles import box_index
from ..core.volumes import Volume, first_line, picture_affine, real_world_cast, require_finite

TILE = 256  # pixels an axis of a written tile
# zlib with differences on 16-bit chest images: level 1 leaves 39-67 % in .1 s a megapixel, level 6 37-66 % in .5 s
LEVEL = 1
CLASSIC_BYTES = 2**32 - 2**25  # beyond, 32-bit offsets may not reach the last tile
SEGMENT_BYTES = 2**26  # largest tile or strip that is decoded at once
CACHED_BYTES = 2**22  # decoded tiles kept: a halo asks for its neighbours' tiles again
DEFLATE = (8, 32946)
INCH = 25.4  # mm
SCREEN_DPI = (72, 96, 120, 144, 192)

# what it says of a damaged file comes as our own sentence
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def open_tiff(path: str | Path) -> Volume | None:
    """A TIFF of one grey page as a volume that is read box by box; None where tifffile cannot do that by itself.

    It can where pixels lie one after the other, and where tiles or strips are plain or deflated, of up to 64 MiB each.

    Raises:
        InputError: several pages; the file ends before its pixels do.
    """
    path = Path(path)
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) > 1:
                raise InputError(
                    f"{path.name} must be one 2-D image, got {len(file.pages)} pages; save one of them, or the stack "
                    "as NIfTI."
                )
            page = file.pages.first
            return TiffVolume(path, page) if _streams(page) else None
    except InputError:
        raise
    except Exception:  # tifffile raises many kinds of a damaged header, from struct.error to ZeroDivisionError
        return None  # Pillow knows what is wrong with it


def _streams(page: tifffile.TiffPage) -> bool:
    dtype = page.dtype
    grey = len(page.shape) == 2 and page.samplesperpixel == 1 and int(page.photometric) in (0, 1)
    if not grey or dtype is None or dtype.kind not in "uif" or page.bitspersample != 8 * dtype.itemsize:
        return False
    if page.tags.valueof(274, 1) != 1:  # turned or mirrored
        return False
    pieces = math.prod(-(-n // m) for n, m in zip(page.shape, _segment_shape(page)))
    if not len(page.dataoffsets) == len(page.databytecounts) == pieces:  # the header itself is cut
        return False
    if not all(isinstance(n, int) and n >= 0 for n in (*page.dataoffsets, *page.databytecounts)):
        return False
    if page.is_contiguous:
        return True
    # differences of floats want another library
    plain = int(page.compression) in (1, *DEFLATE) and int(page.predictor) in ((1,) if dtype.kind == "f" else (1, 2))
    return plain and math.prod(_segment_shape(page)) * dtype.itemsize <= SEGMENT_BYTES


def _segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


class TiffVolume(Volume):
    """A TIFF page (rows, columns), stored values; a picture where white is zero is inverted.

    Decoded tiles are kept up to 16 MiB. The file is opened anew for each of them, so that processes may share a volume.
    """

    def __init__(self, path: Path, page: tifffile.TiffPage) -> None:
        self.path = path
        self.name = path.name
        self.shape = tuple(int(n) for n in page.shape)
        dtype = np.dtype(page.dtype)
        self.dtype = dtype.newbyteorder("=")
        self._stored = dtype.newbyteorder(page.parent.byteorder)
        unit = {2: 25.4, 3: 10.0}.get(int(page.tags.valueof(296, 2)), 0.0)
        self.affine = picture_affine(*resolution_spacing(_number(page, 282), _number(page, 283), unit))
        self._inverted = int(page.photometric) == 0
        self._offsets = list(page.dataoffsets)
        self._counts = list(page.databytecounts)
        self._contiguous = page.is_contiguous
        self._segment_shape = _segment_shape(page)
        self._decode = page.decode
        held = CACHED_BYTES // (math.prod(self._segment_shape) * self.dtype.itemsize)
        self._segment = lru_cache(maxsize=max(1, held))(self._read_segment)
        self._check_length()

    def _check_length(self) -> None:
        wanted = max((a + n for a, n in zip(self._offsets, self._counts)), default=0)
        if self._contiguous:
            wanted = max(wanted, self._offsets[0] + math.prod(self.shape) * self.dtype.itemsize)
        found = self.path.stat().st_size
        if found < wanted:
            raise InputError(
                f"{self.name} must be {wanted} bytes long by its header, got {found}; the file is truncated: "
                "copy or export it again."
            )

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        if self._contiguous:
            pages = np.memmap(self.path, self._stored, "r", self._offsets[0], self.shape)
            values = pages[box_index(start, shape)].astype(self.dtype)
        else:
            values = self._from_segments(start, shape)
        if self._inverted:
            values = white_is_zero(values)
        return require_finite(values, self.name, start)

    def _from_segments(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        values = np.empty(tuple(shape), self.dtype)
        (r, c), (height, width) = start, self._segment_shape
        across = -(-self.shape[1] // width)
        for row in range(r // height, -(-(r + shape[0]) // height)):
            for column in range(c // width, -(-(c + shape[1]) // width)):
                top = row * height
                left = column * width
                a = max(r, top)
                b = min(r + shape[0], top + height)
                d = max(c, left)
                e = min(c + shape[1], left + width)
                piece = self._segment(row * across + column)
                values[a - r : b - r, d - c : e - c] = piece[a - top : b - top, d - left : e - left]
        return values

    def _read_segment(self, number: int) -> np.ndarray:
        if not self._counts[number]:  # a tile that was left out
            return np.zeros(self._segment_shape, self.dtype)
        with open(self.path, "rb") as file:
            file.seek(self._offsets[number])
            data = file.read(self._counts[number])
        try:
            values, _, _ = self._decode(data, number)
        except (tifffile.TiffFileError, ValueError, zlib.error) as error:
            raise InputError(
                f"{self.name} must hold whole TIFF tiles, got tile {number} that cannot be decoded "
                f"({first_line(error)}); the file is damaged: copy or export it again."
            ) from error
        assert values is not None, "only what is not there decodes to nothing"
        return values[0, :, :, 0]


def _number(page: tifffile.TiffPage, tag: int) -> float:
    """A resolution, stored as a fraction; 0 where there is none."""
    over, under = page.tags.valueof(tag, (0, 1))
    return over / under if under else 0.0


def white_is_zero(values: np.ndarray) -> np.ndarray:
    """Stored values of a TIFF whose zeros are white, as shown: bright is large."""
    return (np.iinfo(values.dtype).max if values.dtype.kind == "u" else 0) - values


def resolution_spacing(x: float, y: float, unit_mm: float) -> tuple[float, float]:
    """Distance of rows and of columns in mm, of x columns and y rows to a unit; 1 where that makes no sense.

    A screen's dots per inch (72, 96 and their multiples), which programs write unasked, say nothing of a detector.
    """
    if unit_mm == INCH and x == y and any(abs(x - dpi) < 0.02 for dpi in SCREEN_DPI):
        return 1.0, 1.0
    usable = x > 0 and y > 0 and unit_mm > 0 and np.isfinite([x, y]).all()
    return (unit_mm / y, unit_mm / x) if usable else (1.0, 1.0)


def write_tiff(volume: Volume, path: str | Path) -> None:
    """Writes a 2-D volume as TIFF tiles of 256 x 256, deflated, one in memory at a time; BigTIFF from 4 GB on.

    uint8, uint16 and float32 stay, other integers become int32, other floats float32. The resolution keeps the spacing
    in mm. The same values give the same bytes.
    """
    dtype = _file_dtype(volume.dtype)
    rows, columns = volume.spacing
    with tifffile.TiffWriter(path, bigtiff=math.prod(volume.shape) * dtype.itemsize > CLASSIC_BYTES) as file:
        file.write(
            _tiles(volume, dtype),
            shape=volume.shape,
            dtype=dtype,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": LEVEL},
            predictor=2 if dtype.kind in "ui" else None,
            resolution=(10 / columns, 10 / rows),
            resolutionunit="CENTIMETER",
            metadata=None,  # no description and no software's name, so that equal images are equal files
            software=False,
            maxworkers=1,  # workers would queue tiles
        )


def _file_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype({"b1": "u1", "u1": "u1", "u2": "u2"}.get(f"{dtype.kind}{dtype.itemsize}", "i4"))


def _tiles(volume: Volume, dtype: np.dtype) -> Iterator[np.ndarray]:
    """In a TIFF's order: along the rows."""
    rows, columns = volume.shape
    for r in range(0, rows, TILE):
        for c in range(0, columns, TILE):
            box = volume.read((r, c), (min(TILE, rows - r), min(TILE, columns - c)))
            yield np.ascontiguousarray(real_world_cast(box, dtype))
