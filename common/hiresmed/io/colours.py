"""Colour pictures out: three channels of one shape as RGB, PNG of 8 or TIFF of 8 or 16 bits.

Pillow has no PNG of 16 bits and three channels; NIfTI's RGB is read by few programs, so both are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ..core.errors import InputError
from ..core.output_files import write_then_rename
from ..core.volumes import Volume, real_world_cast
from .tiff import LEVEL, TILE
from .writers import check_png, final_name

KINDS = {"png": ("uint8",), "tiff": ("uint8", "uint16")}


def check_colours(output_format: str, dtype: str) -> None:
    """InputError where three channels of that dtype cannot be written so."""
    if dtype not in KINDS.get(output_format, ()):
        raise InputError(
            f"A colour picture must be png (uint8) or tiff (uint8, uint16), got {output_format} of {dtype}; "
            "change output_format, or dtype and window ([0, 255] for uint8)."
        )


def save_colours(channels: Sequence[Volume], path_stem: str | Path, output_format: str) -> Path:
    """Writes three 2-D volumes as `<path_stem>.png` or `.tiff`, RGB, with their spacing.

    A TIFF is written tile by tile, a PNG held in memory.

    Raises:
        InputError: another format or dtype; a PNG that is too large.
    """
    stem, (rows, columns) = Path(path_stem), channels[0].spacing
    check_colours(output_format, str(channels[0].dtype))
    path = stem.with_name(final_name(stem.name, output_format))
    shape = channels[0].shape
    path.parent.mkdir(parents=True, exist_ok=True)
    if output_format == "png":
        check_png(shape)
    with write_then_rename(path) as aside:
        if output_format == "png":
            values = np.stack([real_world_cast(c.read((0, 0), shape), np.uint8) for c in channels], -1)
            Image.fromarray(values).save(aside, format="PNG", dpi=(25.4 / columns, 25.4 / rows))
        else:
            _write_tiff(channels, aside, (10 / columns, 10 / rows))
    return path


def _write_tiff(channels: Sequence[Volume], path: Path, resolution: tuple[float, float]) -> None:
    shape = channels[0].shape
    with tifffile.TiffWriter(path, bigtiff=3 * np.prod(shape, dtype=float) * channels[0].dtype.itemsize > 4e9) as file:
        file.write(
            _tiles(channels),
            shape=(*shape, 3),
            dtype=channels[0].dtype,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
            compressionargs={"level": LEVEL},
            predictor=2,
            resolution=resolution,
            resolutionunit="CENTIMETER",
            metadata=None,
            software=False,
            maxworkers=1,
        )


def _tiles(channels: Sequence[Volume]) -> Iterator[np.ndarray]:
    rows, columns = channels[0].shape
    for r in range(0, rows, TILE):
        for c in range(0, columns, TILE):
            box = (r, c), (min(TILE, rows - r), min(TILE, columns - c))
            yield np.ascontiguousarray(np.stack([channel.read(*box) for channel in channels], -1))
