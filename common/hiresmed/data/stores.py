"""Pyramids of levels that are written tile by tile: OME-Zarr 0.5 on disk, or arrays in memory with the same face.

Level 0 is the finest. A cascade's stages are the levels of one pyramid, so the result is itself a multiscale image that
a viewer can open while it grows. MONAI has no zarr dataset or writer; zarr v3 keeps the chunks, we keep the geometry
and the journal of finished tiles.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Sequence

import ignite.distributed as idist
import numpy as np
import zarr

from ..errors import InputError
from ..volumes import Volume

_AXES = {2: ("y", "x"), 3: ("x", "y", "z")}


def level_affine(affine: np.ndarray, scale: Sequence[float]) -> np.ndarray:
    """Affine of a grid whose cells are `scale` voxels wide and share the first voxel's outer corner."""
    step = np.eye(4)
    for axis, s in enumerate(scale):
        step[axis, axis], step[axis, 3] = s, (s - 1) / 2
    return affine @ step


class Level(Volume):
    """One array of a pyramid: values = slope x stored numbers, with a journal of finished tiles.

    Args:
        array: zarr or NumPy array of spatial shape S.
        slope: what one stored unit is worth (1 for HU, 1/255 for a sketch kept in uint8).
        journal: file with one byte a tile, or None for a journal in memory.
    """

    def __init__(self, array, affine: np.ndarray, name: str, slope: float = 1.0, journal: pathlib.Path | None = None):
        self.array, self.affine, self.name, self.slope = array, affine, name, slope
        self.shape, self._stored = tuple(array.shape), np.dtype(array.dtype)
        self.dtype = self._stored if slope == 1.0 else np.dtype(np.float32)
        self._journal_path, self._journal = journal, bytearray()

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        values = self.array[tuple(slice(s, s + n) for s, n in zip(start, shape))]
        if self.slope == 1.0 or np.issubdtype(self._stored, np.floating):
            return values
        return values * np.float32(self.slope)

    def write(self, start: Sequence[int], values: np.ndarray) -> None:
        """Store one box; integers are rounded to the nearest stored unit and clipped to the dtype."""
        if np.issubdtype(self._stored, np.integer):
            limits = np.iinfo(self._stored)
            values = np.rint(values / self.slope if self.slope != 1.0 else values).clip(limits.min, limits.max)
        self.array[tuple(slice(s, s + n) for s, n in zip(start, values.shape))] = values.astype(self._stored)

    def done(self, number: int) -> bool:
        """Whether tile `number` is whole on disk; a tile is marked only after it is written."""
        if self._journal_path is not None and self._journal_path.exists():
            self._journal = bytearray(self._journal_path.read_bytes()) if not self._journal else self._journal
        return number < len(self._journal) and self._journal[number] == 1

    def mark(self, number: int) -> None:
        """Note that tile `number` is whole. One byte a tile at its own offset: processes do not disturb each other."""
        self._journal.extend(b"\0" * (number + 1 - len(self._journal)))
        self._journal[number] = 1
        if self._journal_path is not None:
            handle = os.open(self._journal_path, os.O_CREAT | os.O_WRONLY)
            os.pwrite(handle, b"\1", number)
            os.close(handle)


class MemoryStores:
    """Pyramids in memory: for tensors in a notebook, under MONAI Label and in tests."""

    def __init__(self, dtype: str | None = "float32") -> None:
        self.dtype = dtype

    def stores(self, case, recipe) -> MemoryStores:
        """These serve any case."""
        return self

    def pyramid(self, name: str, shapes, scales, affine, dtype: str, slope: float, tile) -> list[Level]:
        """Empty levels of the given shapes; kept in this object's dtype, so that nothing is rounded."""
        kept = np.dtype(self.dtype or dtype)
        return [
            Level(np.zeros(tuple(shape), kept), level_affine(affine, [scale] * len(shape)), name, slope)
            for shape, scale in zip(shapes, scales)
        ]

    def finish(self) -> None:
        """Nothing to tidy in memory."""


class ZarrStores:
    """OME-Zarr 0.5 pyramids in one working folder, resumable.

    Args:
        folder: where the pyramids and their journals lie; created.
        fingerprint: what the content depends on (weights, seed, tile size, input); a store made with another one is
            refused on resume.
        resume: go on with stores that exist instead of starting them anew.
    """

    def __init__(self, folder: str | pathlib.Path, fingerprint: dict | None = None, resume: bool = False) -> None:
        self.folder, self.fingerprint, self.resume = pathlib.Path(folder), fingerprint or {}, resume
        # one reader thread: zarr's pool fragments glibc's arenas and the resident size creeps with the volume
        zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})

    def path(self, name: str) -> pathlib.Path:
        """Folder of one pyramid."""
        return self.folder / f"{name}.ome.zarr"

    def pyramid(
        self,
        name: str,
        shapes: Sequence[Sequence[int]],
        scales: Sequence[int],
        affine: np.ndarray,
        dtype: str,
        slope: float,
        tile: Sequence[int],
    ) -> list[Level]:
        """Levels on disk, chunks of half a tile, uncompressed (chunks are read many times).

        Args:
            name: of the pyramid, in this folder.
            shapes: spatial shape S of each level, finest first.
            scales: voxels of the volume per cell of each level.
            affine: (4, 4), of the volume's own grid (scale 1).
            dtype: of the stored numbers.
            slope: what one stored unit is worth.
            tile: shape in which tiles are written.

        Raises:
            InputError: resume was asked for with other settings than the pyramid was begun with.
        """
        path = self.path(name)
        recipe = {
            "fingerprint": self.fingerprint,
            "shapes": [[int(n) for n in shape] for shape in shapes],
            "scales": [int(n) for n in scales],
            "tile": [int(n) for n in tile],
            "dtype": dtype,
        }
        if idist.get_rank() == 0 and not self._resumed(path, recipe):
            self._create(path, name, affine, recipe)
        idist.barrier()
        return self._open(path, name, slope)

    def finish(self) -> None:
        """Drop the journals: what is left is a plain OME-Zarr."""
        for journal in self.folder.glob("*.tiles"):
            journal.unlink()

    def _resumed(self, path: pathlib.Path, recipe: dict) -> bool:
        """Whether the pyramid is there to go on with."""
        if not (self.resume and path.exists()):
            return False
        found = dict(zarr.open_group(str(path), mode="r").attrs["hiresmed"]["recipe"])
        changed = sorted(_changes(recipe, found))
        if changed:
            raise InputError(
                f"resume wants the settings that {path.name} was begun with, but {', '.join(changed)} changed; "
                "set them back, or start anew with --overwrite true."
            )
        return True

    def _create(self, path: pathlib.Path, name: str, affine: np.ndarray, recipe: dict) -> None:
        # under a name of its own until whole, so that a run killed here leaves nothing that looks like a store
        half = path.with_suffix(".begun")
        for old in (path, half):
            shutil.rmtree(old, ignore_errors=True)
        for journal in self.folder.glob(f"{name}.*.tiles"):
            journal.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(str(half), mode="w", zarr_format=3)
        for k, shape in enumerate(recipe["shapes"]):
            group.create_array(
                str(k),
                shape=tuple(shape),
                chunks=tuple(max(1, min(-(-t // 2), n)) for t, n in zip(recipe["tile"], shape)),
                dtype=recipe["dtype"],
                compressors=None,
                fill_value=0,
                dimension_names=_AXES[len(shape)],
            )
        group.attrs.update(_ome_attributes(name, affine, recipe) | {"hiresmed": _ours(affine, recipe)})
        os.replace(half, path)

    def _open(self, path: pathlib.Path, name: str, slope: float) -> list[Level]:
        group = zarr.open_group(str(path), mode="r+")
        ours = group.attrs["hiresmed"]
        levels = []
        for k, scale in enumerate(ours["recipe"]["scales"]):
            array = group[str(k)]
            affine = level_affine(np.array(ours["affine"]), [scale] * array.ndim)
            levels.append(Level(array, affine, name, slope, self.folder / f"{name}.{k}.tiles"))
        return levels


def open_level(path: str | pathlib.Path, level: int = 0) -> Level:
    """One level of an OME-Zarr image as a volume, read-only; geometry from our affine, else from its scale."""
    path = pathlib.Path(path)
    try:
        group = zarr.open_group(str(path), mode="r")
        image = group.attrs["ome"]["multiscales"][0]
        array = group[image["datasets"][level]["path"]]
    except (KeyError, IndexError, FileNotFoundError, ValueError) as error:
        raise InputError(f"{path.name} should be an OME-Zarr 0.5 image, but {error!r} is missing in it.") from error
    if array.ndim not in (2, 3):
        raise InputError(f"{path.name} should have 2 or 3 spatial axes, but its shape is {array.shape}.")
    ours = group.attrs.get("hiresmed")
    if ours:
        affine = level_affine(np.array(ours["affine"]), [ours["recipe"]["scales"][level]] * array.ndim)
    else:
        scale = image["datasets"][level]["coordinateTransformations"][0]["scale"]
        affine = np.diag([*scale, *[1.0] * (4 - array.ndim)])
    return Level(array, affine, path.name)


def _changes(wanted: dict, found: dict, prefix: str = "") -> list[str]:
    names = []
    for key in wanted.keys() | found.keys():
        a, b = wanted.get(key), found.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _changes(a, b)
        elif a != b:
            names.append(str(key))
    return names


def _ours(affine: np.ndarray, recipe: dict) -> dict:
    return {"affine": np.asarray(affine).tolist(), "affine_frame": "RAS+ mm, voxel centres", "recipe": recipe}


def _ome_attributes(name: str, affine: np.ndarray, recipe: dict) -> dict:
    """OME-NGFF 0.5 multiscales metadata; axes in array order."""
    dims = len(recipe["shapes"][0])
    spacing = np.linalg.norm(affine[:3, :dims], axis=0)
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": (spacing * scale).tolist()},
                {"type": "translation", "translation": (spacing * (scale - 1) / 2).tolist()},
            ],
        }
        for k, scale in enumerate(recipe["scales"])
    ]
    axes = [{"name": n, "type": "space", "unit": "millimeter"} for n in _AXES[dims]]
    return {"ome": {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}}
