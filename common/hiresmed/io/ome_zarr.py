"""OME-Zarr images in, of this library and of other programs (0.4 and 0.5), as volumes that are read box by box.

Letters: N = axes of the stored array (time, channel, space in any order), S = its axes of space. Axes of other kinds
must have length 1. What the metadata leave open is said; what they contradict is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ..core.errors import InputError
from ..core.input_files import check_openable
from ..core.packed_size import check_packed
from ..core.pyramids import level_affine
from ..core.volumes import Volume, checked_affine, first_line, require_finite, spatial_shape

LOGGER = logging.getLogger(__name__)
MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of them lies in every zarr folder
OURS = "hiresmed"  # attribute of the stores that this library writes
KINDS = {"t": "time", "c": "channel", "x": "space", "y": "space", "z": "space"}  # of an axis that has no type
SPATIAL = ("x", "y", "z")
_PREFIXES = {
    "": 1e3, "kilo": 1e6, "deci": 1e2, "centi": 1e1, "milli": 1.0, "micro": 1e-3, "nano": 1e-6, "pico": 1e-9,
}  # fmt: skip
MM_PER_UNIT = {
    **{f"{prefix}{metre}": mm for prefix, mm in _PREFIXES.items() for metre in ("meter", "metre")},
    **{"m": 1e3, "dm": 1e2, "cm": 1e1, "mm": 1.0, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "nm": 1e-6},
    **{"micron": 1e-3, "angstrom": 1e-7, "inch": 25.4},
}
# of NGFF's anatomical orientations those of a patient, as directions in RAS
DIRECTIONS = {
    "left-to-right": (1, 0, 0), "right-to-left": (-1, 0, 0), "posterior-to-anterior": (0, 1, 0),
    "anterior-to-posterior": (0, -1, 0), "inferior-to-superior": (0, 0, 1), "superior-to-inferior": (0, 0, -1),
}  # fmt: skip
# where nothing is said: x to the left, y to the back, z up, as DICOM and ITK place what has no orientation
USUAL = {"x": "right-to-left", "y": "anterior-to-posterior", "z": "inferior-to-superior"}
CHUNKS = 2**22  # of one image, at most
CHUNK_RATIO = 2**16  # of unpacked to packed bytes, more than codecs reach
LOOKED_AT = 64  # chunks that are read to find out whether absent ones were lost


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr store, by its name or by what lies in it."""
    return folder.is_dir() and (folder.suffix.lower() == ".zarr" or any((folder / mark).exists() for mark in MARKS))


def open_level(path: str | Path, level: int = 0) -> Volume:
    """One level of an OME-Zarr image as a volume, 0 being the finest; a 2-D image as rows and columns.

    The affine of a store of this library is its own; of other programs' it follows from the axes' names, units and
    orientations and from both lists of coordinateTransformations. Warns where unit or orientation is not given, and
    where chunks are not stored, which by zarr's definition have the fill value.

    Raises:
        InputError: no OME-Zarr image, or odd metadata; several channels or times; a scale, unit or axis without
            meaning; chunks that were lost; at reading: a chunk that cannot be decoded, NaN or infinite values.
    """
    path = Path(path)
    image = _Image(path)
    array = image.array(level)
    volume = OmeZarrVolume(path, array, *image.geometry(array, level))
    _Chunks(image, array, level).check()
    return volume


class OmeZarrVolume(Volume):
    """A level of an OME-Zarr image as a volume of its axes of space, in their stored order.

    Args:
        path: the image's folder.
        array: (*N).
        affine: (4, 4) of the axes of space.
        axes: which axes of the array they are; the others have length 1.
    """

    def __init__(self, path: Path, array: zarr.Array, affine: np.ndarray, axes: Sequence[int]) -> None:
        self.path = path
        self.name = path.name
        self.shape = spatial_shape([array.shape[axis] for axis in axes], path.name)
        self.affine = checked_affine(affine, len(self.shape), path.name)
        stored = np.dtype(array.dtype)
        if stored.kind not in "biuf" or stored.itemsize > 8:
            raise InputError(
                f"{self.name} must have one real value per voxel, got {stored}; convert it to int16 or float32."
            )
        self.dtype = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")
        self._array = array
        self._axes = list(axes)

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        index: list[int | slice] = [0] * self._array.ndim
        for axis, first, count in zip(self._axes, start, shape):
            index[axis] = slice(int(first), int(first) + int(count))
        values = _decoded(self._array, tuple(index), self.name)
        return require_finite(values.astype(self.dtype, copy=False).reshape(tuple(shape)), self.name, start)


def _decoded(array: zarr.Array, index: tuple, name: str) -> np.ndarray:
    try:
        return np.asarray(array[index])
    except Exception as error:  # any that a codec raises
        raise InputError(
            f"{name} must hold whole zarr chunks, got one that cannot be decoded ({first_line(error)}); the store is "
            "damaged or needs another codec: copy or export it again."
        ) from error


class _Image:
    """The metadata of one OME-Zarr image, checked as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        for mark in MARKS:
            check_openable(path / mark)
        try:
            # consolidated metadata may be older than the arrays; a path, as zarr takes text that holds :: for URLs
            self.group = zarr.open_group(path, mode="r", use_consolidated=False)
            attributes: Any = self.group.attrs.asdict()
        except Exception as error:  # of a damaged zarr.json or .zattrs: of any kind
            raise self._no_image(f"none that zarr can open ({first_line(error)})") from error
        attributes = self._object(attributes, "attributes")
        self.ours = attributes.get(OURS)
        ngff = attributes
        if "ome" in attributes:
            ngff = self._object(attributes["ome"], "attribute ome")
        if "multiscales" not in ngff:
            raise self._no_image(self._other_content(ngff))
        images = self._list(ngff["multiscales"], "multiscales")
        self.multiscale = self._object(images[0], "multiscales[0]")
        if len(images) > 1:
            LOGGER.warning("%s holds %d images; the first is taken, as NGFF says.", self.name, len(images))
        self.datasets = [
            self._object(d, f"datasets[{k}]")
            for k, d in enumerate(self._list(self.multiscale.get("datasets"), "datasets"))
        ]

    def _other_content(self, ngff: Mapping) -> str:
        inner = sorted(child.name for child in self.path.iterdir() if child.is_dir() and is_zarr(child))
        hint = f"; give one of its folders ({', '.join(inner[:3])})" if inner else ""
        for key, what in (("plate", "a plate"), ("well", "a well"), ("bioformats2raw.layout", "a collection")):
            if key in ngff:
                return f"{what} of several images{hint}"
        return f"one without multiscales{hint}"

    def _no_image(self, what: str) -> InputError:
        return InputError(f"{self.name} must be an OME-Zarr image (0.4 or 0.5), got {what}; export it again.")

    def _object(self, value: Any, what: str) -> Mapping:
        if not isinstance(value, Mapping):
            raise self._no_image(f"{what} that is no object ({_short(value)})")
        return value

    def _list(self, value: Any, what: str) -> Sequence:
        if not isinstance(value, list) or not value:
            raise self._no_image(f"{what} that is no list with something in it ({_short(value)})")
        return value

    def array(self, level: int) -> zarr.Array:
        """The array of one level."""
        if not 0 <= level < len(self.datasets):
            raise InputError(f"{self.name} must have a level {level}, got {len(self.datasets)} levels; choose another.")
        path = self.datasets[level].get("path")
        if not isinstance(path, str) or not path.strip("/") or {"..", "."} & {*path.split("/")}:
            raise self._no_image(f"a dataset whose path is {_short(path)}")
        for mark in MARKS:
            check_openable(self.path / path.strip("/") / mark)
        try:
            array = self.group[path]
        except Exception as error:  # missing, or odd metadata of any kind
            raise self._no_image(
                f"a dataset whose array {_short(path)} cannot be opened ({first_line(error)})"
            ) from error
        if not isinstance(array, zarr.Array):
            raise self._no_image(f"a dataset whose path {_short(path)} is no array")
        return array

    def geometry(self, array: zarr.Array, level: int) -> tuple[np.ndarray, list[int]]:
        """(affine (4, 4) of the axes of space, which axes of the array they are)."""
        if self.ours is not None:
            return self._own_affine(array.ndim, level), list(range(array.ndim))
        names, kinds, units, orientations = self._axes(array.ndim)
        for name, kind, length in zip(names, kinds, array.shape):
            if kind != "space" and length != 1:
                what = {"time": "time points", "channel": "channels"}.get(kind, f"places along its axis {name}")
                raise InputError(
                    f"{self.name} must be one image of one channel and one time, got {length} {what} (shape "
                    f"{tuple(array.shape)}, axes {', '.join(names)}); save the wanted one as an image of its own."
                )
        space = [n for n, kind in enumerate(kinds) if kind == "space"]
        spatial = [names[n] for n in space]
        if not 2 <= len(space) <= 3 or len({*spatial}) < len(space) or not {*spatial} <= {*SPATIAL}:
            raise self._no_image(f"axes of space that are not two or three of x, y, z ({', '.join(names)})")
        if len(space) == 3 and array.shape[space[0]] == 1 < min(array.shape[n] for n in space[1:]):
            space = [*space[1:], space[0]]  # a stack of one slice is a picture
        scale, shift = self._transformed(level, array.ndim)
        affine = np.eye(4)
        missing = [name for name in SPATIAL if name not in spatial]
        for column, n in enumerate(space):
            direction = np.array(DIRECTIONS[orientations[n] or USUAL[names[n]]], dtype=float)
            affine[:3, column] = direction * scale[n] * units[n]
            affine[:3, 3] += direction * shift[n] * units[n]
        for name in missing:
            affine[:3, 2] = np.abs(DIRECTIONS[USUAL[name]])
        if len(space) == 3 and array.shape[space[2]] > 1 and not all(orientations[n] for n in space):
            axes = ", ".join(f"{name} {USUAL[name]}" for name in spatial)
            LOGGER.warning(
                "%s does not say how it is oriented; its axes are taken as %s, which may exchange left and right.",
                self.name, axes,
            )  # fmt: skip
        return affine, space

    def _own_affine(self, ndim: int, level: int) -> np.ndarray:
        try:
            affine = np.array(self.ours["affine"], dtype=np.float64)
            scale = float(self.ours["recipe"]["scales"][level])
            if affine.shape != (4, 4) or not scale > 0:
                raise ValueError
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._no_image(f"an attribute {OURS} without its affine and scales") from error
        return level_affine(affine, [scale] * ndim)

    def _axes(self, ndim: int) -> tuple[list[str], list[str], list[float], list[str]]:
        """Names, kinds, mm per unit and orientations (empty where none is given) of the array's axes."""
        axes = self._list(self.multiscale.get("axes"), "axes")
        if len(axes) != ndim:
            raise self._no_image(f"{len(axes)} axes of an array that has {ndim}")
        names, kinds, units, orientations = [], [], [], []
        without_unit = []
        for axis in axes:
            axis = {"name": axis} if isinstance(axis, str) else self._object(axis, "an axis")
            name = str(axis.get("name", "")).lower()
            kind = str(axis.get("type") or KINDS.get(name, "")).lower()
            if not kind:
                raise self._no_image(f"an axis of no type, {_short(axis.get('name'))}")
            unit = axis.get("unit")
            if kind == "space" and unit in (None, "", "pixel", "pixels"):
                without_unit.append(name)
                unit = "millimeter"
            if kind == "space" and str(unit) not in MM_PER_UNIT and str(unit).lower() not in MM_PER_UNIT:
                raise self._no_image(f"the unit {_short(unit)} of its axis {name}, which is no known length")
            names.append(name)
            kinds.append(kind)
            units.append(MM_PER_UNIT.get(str(unit), MM_PER_UNIT.get(str(unit).lower(), 1.0)))
            orientations.append(self._orientation(axis, name) if kind == "space" else "")
        if without_unit:
            LOGGER.warning(
                "%s gives no unit of length of %s; its scale is taken as mm.", self.name, ", ".join(without_unit)
            )
        return names, kinds, units, orientations

    def _orientation(self, axis: Mapping, name: str) -> str:
        said = axis.get("orientation", axis.get("anatomicalOrientation"))
        if isinstance(said, Mapping):
            said = said.get("value")
        if said is None:
            return ""
        if said not in DIRECTIONS:
            raise self._no_image(
                f"the orientation {_short(said)} of its axis {name}, which is none of {', '.join(DIRECTIONS)}"
            )
        return str(said)

    def _transformed(self, level: int, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """(scale (N,), translation (N,)) of a level's voxels: the level's own, then that of all levels."""
        own = self.datasets[level].get("coordinateTransformations")
        for_all = self.multiscale.get("coordinateTransformations")
        steps = [*self._list(own, f"coordinateTransformations of datasets[{level}]")]
        if not any(isinstance(step, Mapping) and step.get("type") == "scale" for step in steps):
            raise self._no_image(f"datasets[{level}] without a scale")
        if for_all:
            steps += self._list(for_all, "coordinateTransformations")
        scale = np.ones(ndim)
        shift = np.zeros(ndim)
        for step in steps:
            step = self._object(step, "a transformation")
            kind = step.get("type")
            if kind == "identity":
                continue
            if kind not in ("scale", "translation"):
                raise self._no_image(f"a transformation {_short(kind)}, which is no scale, translation or identity")
            values = self._numbers(step.get(kind), ndim, str(kind))
            if kind == "translation":
                shift += values
            elif not values.all():
                raise self._no_image(f"the scale {values.tolist()}")
            else:
                scale *= values
                shift *= values
        return scale, shift

    def _numbers(self, values: Any, count: int, what: str) -> np.ndarray:
        try:
            numbers = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.zeros(0)
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise self._no_image(f"a {what} that is not {count} finite numbers ({_short(values)})")
        return numbers


class _Chunks:
    """Which chunks of a level are stored.

    zarr leaves out chunks that hold nothing but the fill value, so an absent one is no proof of a loss. It was lost
    where the store says that it holds every chunk (this library's), where chunks of nothing but the fill value are
    stored as well, and where the next coarser level shows something at its place.
    """

    def __init__(self, image: _Image, array: zarr.Array, level: int) -> None:
        self.image = image
        self.array = array
        self.level = level
        self.size = tuple(int(n) for n in array.shards or array.chunks)
        self.folder = image.path / str(image.datasets[level]["path"]).strip("/")

    def check(self) -> None:
        """Refuses or warns, as `open_level` says."""
        name = self.image.name
        if min(self.size) < 1:
            raise InputError(f"{name} must have chunks of at least one voxel, got {self.size}; export it again.")
        counts = [-(-n // m) for n, m in zip(self.array.shape, self.size)]
        total = math.prod(counts)
        if total > CHUNKS:
            raise InputError(f"{name} must have at most {CHUNKS} chunks, got {total}; export it with larger ones.")
        chunk_bytes = math.prod(self.size) * np.dtype(self.array.dtype).itemsize
        stored, absent = [], []
        for place in product(*map(range, counts)):
            file = self._file(place)
            if not file.exists():
                absent.append(place)
                continue
            check_openable(file)
            check_packed(file, chunk_bytes, CHUNK_RATIO)
            stored.append(place)
        if not absent:
            return
        example = self._file(absent[0]).relative_to(self.image.path)
        what = f"{len(absent)} of {total} chunks of level {self.level} are absent (e.g. {example})"
        reason = self._why_lost(stored, absent)
        if reason:
            raise InputError(f"{name} must hold all of its chunks, but {what} and {reason}; copy or export it again.")
        LOGGER.warning(
            "%s: %s; by zarr's definition all their values are %s, but if they were lost, the image has holes.",
            name, what, self.array.fill_value,
        )  # fmt: skip

    def _file(self, place: Sequence[int]) -> Path:
        return self.folder / self.array.metadata.encode_chunk_key(tuple(place))

    def _why_lost(self, stored: Sequence[tuple], absent: Sequence[tuple]) -> str | None:
        if not stored:
            return "none is stored"
        if self.array.fill_value is None:
            return "no fill value says what they hold"
        ours = self.image.ours
        if isinstance(ours, Mapping) and ours.get("every_chunk"):
            return "this store was written with every chunk"
        coarser = self._coarser()
        if coarser is not None and any(self._shows(coarser, place) for place in _some(absent)):
            return "the next coarser level shows something there"
        if any(self._empty(place) for place in _some(stored)):
            return "others that hold nothing but the fill value are stored"
        return None

    def _box(self, place: Sequence[int]) -> list[tuple[int, int]]:
        return [(k * m, min((k + 1) * m, n)) for k, m, n in zip(place, self.size, self.array.shape)]

    def _empty(self, place: Sequence[int]) -> bool:
        values = _decoded(self.array, tuple(slice(a, b) for a, b in self._box(place)), self.image.name)
        return bool((values == self.array.fill_value).all())

    def _coarser(self) -> zarr.Array | None:
        if self.level + 1 >= len(self.image.datasets):
            return None
        array = self.image.array(self.level + 1)
        return array if array.ndim == self.array.ndim else None

    def _shows(self, coarser: zarr.Array, place: Sequence[int]) -> bool:
        """Whether a coarser level has other values than the fill value well inside a chunk's box."""
        index = []
        for (a, b), n, m in zip(self._box(place), self.array.shape, coarser.shape):
            margin = 0 if n == m else 2  # voxels that interpolation may have filled from beside the chunk
            first = math.ceil(a * m / n) + (margin if a > 0 else 0)
            last = math.floor(b * m / n) - (margin if b < n else 0)
            if last <= first:
                return False
            index.append(slice(first, last))
        return bool((_decoded(coarser, tuple(index), self.image.name) != self.array.fill_value).any())


def _some(places: Sequence[tuple]) -> Iterator[tuple]:
    """At most LOOKED_AT of them, evenly spread."""
    return islice(places, 0, None, max(1, -(-len(places) // LOOKED_AT)))


def _short(value: Any) -> str:
    """What came, for quotation inside a sentence."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
