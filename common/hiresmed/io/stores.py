"""Pyramids of levels that are written tile by tile, on disk: OME-Zarr 0.5 with the same face as `pyramids` in memory.

Level 0 is the finest. A cascade's stages are the levels of one pyramid, so the result is itself a multiscale image that
a viewer can open while it grows. MONAI has no zarr dataset or writer; zarr v3 keeps the chunks, we keep the geometry
and the journal of finished tiles.
"""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import zarr

from ..core.errors import InputError
from ..core.output_files import remove_path
from ..core.pyramids import Level, MemoryStores, level_affine

__all__ = ["Level", "MemoryStores", "ZarrStores", "level_affine"]

_AXES = {2: ("y", "x"), 3: ("x", "y", "z")}


class ZarrStores:
    """OME-Zarr 0.5 pyramids in one working folder, resumable.

    Args:
        folder: where the pyramids and their journals lie; created.
        fingerprint: what the content depends on (weights, seed, tile size, input); a store made with another one is
            refused on resume.
        resume: go on with stores that exist instead of starting them anew.
    """

    def __init__(self, folder: str | pathlib.Path, fingerprint: dict | None = None, resume: bool = False) -> None:
        self.folder = pathlib.Path(folder)
        self.fingerprint = fingerprint or {}
        self.resume = resume
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
        tiles: Sequence[Sequence[int]],
    ) -> list[Level]:
        """Levels on disk, chunks of half a tile, uncompressed (chunks are read many times).

        Args:
            name: of the pyramid, in this folder.
            shapes: spatial shape S of each level, finest first.
            scales: voxels of the volume per cell of each level.
            affine: (4, 4), of the volume's own grid (scale 1).
            dtype: of the stored numbers.
            slope: what one stored unit is worth.
            tiles: shape in which each level's tiles are written.

        Raises:
            InputError: resume was asked for with other settings than the pyramid was begun with.
        """
        path = self.path(name)
        recipe = {
            "fingerprint": self.fingerprint,
            "shapes": [[int(n) for n in shape] for shape in shapes],
            "scales": [int(n) for n in scales],
            "tiles": [[int(n) for n in tile] for tile in tiles],
            "dtype": dtype,
        }
        if idist.get_rank() == 0 and not self._resumed(path, recipe):
            self._create(path, name, affine, recipe, tiles)
        idist.barrier()
        return self._open(path, name, slope)

    def finish(self) -> None:
        """Drop the journals: what is left is a plain OME-Zarr."""
        for journal in self.folder.glob("*.tiles"):
            journal.unlink()

    def _resumed(self, path: pathlib.Path, recipe: dict) -> bool:
        """Whether the pyramid is there to go on with."""
        if not self.resume or path.is_symlink() or not path.is_dir():
            return False
        try:
            group = zarr.open_group(path, mode="r")
            begun_with = dict(_attributes(group)["hiresmed"]["recipe"])
            for k, shape in enumerate(begun_with["shapes"]):
                journal = self._journal(path, k)
                whole = list(_array_of(group, str(k)).shape) == list(shape)
                if not whole or journal.is_symlink() or (journal.exists() and not journal.is_file()):
                    raise ValueError
        except Exception as error:  # of a damaged store: of any kind
            raise InputError(
                f"resume must find {path.name} as it was left, got a damaged one; start anew with --overwrite true, or "
                "remove it."
            ) from error
        changed = sorted(_changes(recipe, begun_with))
        if changed:
            raise InputError(
                f"resume must have the settings that {path.name} was begun with, got another {', '.join(changed)}; "
                "set them back, or start anew with --overwrite true."
            )
        return True

    def _create(self, path: pathlib.Path, name: str, affine: np.ndarray, recipe: dict, tiles) -> None:
        # under a name of its own until whole, so that a run killed here leaves nothing that looks like a store
        half = path.with_suffix(".begun")
        for old in (path, half):
            remove_path(old)
        for journal in self.folder.glob(f"{glob.escape(name)}.*.tiles"):
            remove_path(journal)
        self.folder.mkdir(parents=True, exist_ok=True)
        # a path, as zarr takes text that holds :: for a chain of URLs
        group = zarr.open_group(half, mode="w", zarr_format=3)
        for k, (shape, tile) in enumerate(zip(recipe["shapes"], tiles)):
            group.create_array(
                str(k),
                shape=tuple(shape),
                chunks=tuple(_chunk(t, n) for t, n in zip(tile, shape)),
                dtype=recipe["dtype"],
                compressors=None,
                fill_value=0,
                dimension_names=_AXES[len(shape)],
            )
        group.attrs.update(_ome_attributes(name, affine, recipe) | {"hiresmed": _ours(affine, recipe)})
        os.replace(half, path)

    def _journal(self, path: pathlib.Path, k: int) -> pathlib.Path:
        return self.folder / f"{path.name.removesuffix('.ome.zarr')}.{k}.tiles"

    def _open(self, path: pathlib.Path, name: str, slope: float) -> list[Level]:
        group = zarr.open_group(path, mode="r+")
        ours = _attributes(group)["hiresmed"]
        levels = []
        for k, scale in enumerate(ours["recipe"]["scales"]):
            # with chunks of zeros on disk, too, a chunk that is absent from a finished store was lost
            array = _array_of(group, str(k)).with_config({"write_empty_chunks": True})
            affine = level_affine(np.array(ours["affine"]), [scale] * array.ndim)
            levels.append(Level(array, affine, name, slope, self._journal(path, k)))
        return levels


def _attributes(group: zarr.Group) -> dict[str, Any]:
    return group.attrs.asdict()


def _array_of(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"array {name}")
    return array


def _chunk(tile: int, size: int) -> int:
    """Half a tile, or a whole one where that is odd: a chunk of two tiles would be written by two processes at once."""
    return min(tile // 2 if tile % 2 == 0 else tile, size)


def _changes(wanted: dict, found: dict, prefix: str = "") -> list[str]:
    names = []
    for key in wanted.keys() | found.keys():
        a = wanted.get(key)
        b = found.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _changes(a, b)
        elif a != b:
            names.append(str(key))
    return names


def _ours(affine: np.ndarray, recipe: dict) -> dict:
    return {
        "affine": np.asarray(affine).tolist(),
        "affine_frame": "RAS+ mm, voxel centres",
        "every_chunk": True,  # chunks of zeros are stored, too
        "recipe": recipe,
    }


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
