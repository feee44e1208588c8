"""The middle planes of a large image, as radiologists hold them, read band by band so that memory stays constant.

Radiological convention: axial and coronal planes show the patient's right on the left, sagittal ones the anterior side
on the left; anterior and head point up.
Letters: S = spatial shape (D, H, W) or (H, W); R, A, S (world axes) = right, anterior, superior of the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation

from ..core.tiles import box_index
from ..core.views import picture_turn

BAND = 128  # plane rows read at a time: a whole number of chunks of the usual stores
# plane: the world axis (0 R, 1 A, 2 S) it lies across, of its columns, of its rows; letters at left, right, top, bottom
PLANES = {"axial": (2, 0, 1, "RLAP"), "coronal": (1, 0, 2, "RLSI"), "sagittal": (0, 1, 2, "APSI")}


class Source:
    """Shape, affine and boxes of what a panel holds; memory of one box."""

    def __init__(self, image) -> None:
        self.image = image if hasattr(image, "read") else np.asarray(getattr(image, "array", image))
        self.shape = tuple(int(n) for n in self.image.shape)
        if len(self.shape) not in (2, 3):
            raise ValueError(f"a preview shows images of two or three axes, not of shape {self.shape}")
        self.affine = self._find_affine(image)
        self.spacing = np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0)
        # PNG and JPEG hold no spacing, and readers then say 1 mm: better pixels than a wrong ruler
        known = hasattr(image, "affine") or hasattr(image, "spacing")
        self.in_mm = known and not (len(self.shape) == 2 and np.allclose(self.spacing, 1))

    def _find_affine(self, image) -> np.ndarray:
        if getattr(image, "affine", None) is not None:
            return np.asarray(image.affine, dtype=np.float64)
        spacing = list(getattr(image, "spacing", (1.0,) * len(self.shape)))
        return np.diag([*spacing, *[1.0] * (4 - len(spacing))])

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        if isinstance(self.image, np.ndarray):
            return self.image[box_index(start, shape)]
        values = self.image.read(start, shape)
        return np.asarray(values.cpu() if hasattr(values, "cpu") else values)


@dataclass
class PlaneView:
    """One plane of a source: which array axes make its rows and columns, and whether they are turned round."""

    name: str
    source: Source
    row_axis: int
    column_axis: int
    across: int | None
    flip_rows: bool
    flip_columns: bool
    letters: str

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        shape, spacing = self.source.shape, self.source.spacing
        return float(shape[self.column_axis] * spacing[self.column_axis]), float(
            shape[self.row_axis] * spacing[self.row_axis]
        )


def _flat_view(source: Source) -> PlaneView:
    """A 2-D image as rows and columns; one with a direction (a NIfTI slice) as that plane of a volume is shown.

    No letters: photographs and X-rays have affines too, which do not know the patient.
    """
    (rows, columns), (flip_rows, flip_columns) = picture_turn(source.affine)
    return PlaneView("", source, rows, columns, None, flip_rows, flip_columns, "")


def plane_views(source: Source) -> dict[str, PlaneView]:
    """The three middle planes by name; of a 2-D image the image itself, without a name."""
    if len(source.shape) == 2:
        return {"": _flat_view(source)}
    orientation = io_orientation(source.affine)  # row a: the world axis nearest to array axis a, and its sign
    array_axis = {int(world): a for a, (world, _) in enumerate(orientation)}
    sign = {int(world): s for world, s in orientation}
    # right to left, anterior to posterior, head to feet: always against the RAS+ axis
    return {
        name: PlaneView(name, source, array_axis[rows], array_axis[columns], array_axis[across],
                    sign[rows] > 0, sign[columns] > 0, letters)
        for name, (across, columns, rows, letters) in PLANES.items()
    }  # fmt: skip


def _band(view: PlaneView, first: int, rows: int) -> np.ndarray:
    """Rows `first` .. of the middle plane, (rows, columns)."""
    shape = view.source.shape
    start, extent = [0] * len(shape), list(shape)
    start[view.row_axis], extent[view.row_axis] = first, rows
    if view.across is not None:
        start[view.across], extent[view.across] = shape[view.across] // 2, 1
    band = np.transpose(
        view.source.read(start, extent),
        [a for a in (view.row_axis, view.column_axis, view.across) if a is not None],
    )
    return band.reshape(rows, shape[view.column_axis])


def read_plane(view: PlaneView, width: int, height: int, average: bool = True) -> np.ndarray:
    """The middle plane, read band by band and reduced by whole factors to no less than (height, width), float32.

    Reduced by means of blocks, or for labels (`average=False`) by each block's first value.
    """
    rows, columns = view.source.shape[view.row_axis], view.source.shape[view.column_axis]
    by_row, by_column = max(1, rows // max(height, 1)), max(1, columns // max(width, 1))
    step = max(by_row, BAND // by_row * by_row)
    reduced = []
    for first in range(0, rows, step):
        band = _band(view, first, min(step, rows - first)).astype(np.float32)
        if average:
            band = np.nan_to_num(band)
            # the last block of a row or column may be short: repeat its border rather than drop it
            band = np.pad(band, ((0, -len(band) % by_row), (0, -columns % by_column)), mode="edge")
            band = band.reshape(len(band) // by_row, by_row, -1, by_column).mean((1, 3))
        else:
            band = band[::by_row, ::by_column]
        reduced.append(band)
    plane = np.concatenate(reduced)
    plane = plane[::-1] if view.flip_rows else plane
    return plane[:, ::-1] if view.flip_columns else plane
