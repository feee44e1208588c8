"""Folders of images -> prepared training cases, split once and for all."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..levels import check_region
from ..views import RegionView
from ..volumes import ArrayVolume, Volume
from .patches import PreparedCase, prepare_case
from .phantom_thorax import ThoraxPhantom
from .readers import cases, open_volume

_PHANTOM_SHAPES = ((128, 128, 128), (128, 128, 96), (128, 112, 128), (128, 128, 40), (112, 128, 72), (128, 128, 24))


def section_of(name: str, validation_share: float = 0.2) -> str:
    """training or validation: fixed by the case's name alone, so that added cases move no other one."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "validation" if draw < validation_share else "training"


def list_cases(
    dataset_dir: str | None, section: str, cases_list: Sequence[Mapping] | None = None, phantoms: int = 12
) -> list[dict]:
    """Cases of one section, each {"image": path or Volume, "name", "region", "stages"}.

    Args:
        dataset_dir: folder of images; None gives phantoms (the last quarter of them for validation).
        section: training or validation.
        cases_list: explicit list of {"image": path below dataset_dir, "region": box or nothing, "stages": list or
            nothing, "section": training or validation}; instead of the split by name. {"phantom": seed} is one, too.
        phantoms: how many, without dataset_dir.

    Raises:
        InputError: the section is empty.
    """
    if cases_list is None and dataset_dir is None:
        cases_list = [
            {"phantom": n, "section": "validation" if 4 * n >= 3 * phantoms else "training"} for n in range(phantoms)
        ]
    if cases_list is None:
        found = [c for c in cases(dataset_dir=dataset_dir) if section_of(c["name"]) == section]
    else:
        found = [_listed(entry, dataset_dir) for entry in cases_list if entry.get("section", "training") == section]
    if not found:
        raise InputError(f"the {section} section should hold at least one case, but holds none; add images or a list.")
    return found


def _listed(entry: Mapping, dataset_dir: str | None) -> dict:
    case = {"region": entry.get("region"), "stages": entry.get("stages")}
    if "phantom" in entry:
        seed = int(entry["phantom"])
        shape = entry.get("shape") or _PHANTOM_SHAPES[seed % len(_PHANTOM_SHAPES)]
        return case | {"image": ThoraxPhantom(shape, seed=seed), "name": f"phantom_{seed}"}
    path = pathlib.Path(dataset_dir or ".") / entry["image"]
    return case | {"image": path, "name": path.name.split(".")[0]}


def training_cases(
    dataset_dir: str | None,
    section: str,
    network,
    sketcher,
    window: Sequence[float] = (-1024.0, 1024.0),
    base_size: int = 32,
    cache_dir: str | None = None,
    cases_list: Sequence[Mapping] | None = None,
    phantoms: int = 12,
) -> list[PreparedCase]:
    """Prepared cases of one section: pyramids and sketches of every image.

    Args:
        network: the generator (its factor is read).
        sketcher: as at inference.
        cache_dir: where pyramids are kept (made once, memory does not grow with the dataset); None keeps them in RAM.

    Other arguments: see list_cases and MultiScalePatches.
    """

    def encode(values: np.ndarray) -> np.ndarray:
        a, b = window
        return ((values.astype(np.float32) - a) * (2 / (b - a)) - 1).clip(-1, 1)

    prepared = []
    for case in list_cases(dataset_dir, section, cases_list, phantoms):
        folder = None if cache_dir is None else pathlib.Path(cache_dir) / f"{case['name']}_{_digest(case)}"
        volume = case["image"]
        if not isinstance(volume, Volume):
            volume = open_volume(volume, folder or pathlib.Path(_scratch()))
        if case.get("region"):
            volume = RegionView(volume, check_region(case["region"], volume.shape))
        if folder is None:
            values = volume.read([0] * len(volume.shape), volume.shape)
            volume = ArrayVolume(np.rint(values.clip(-32768, 32767)).astype(np.int16), volume.affine, volume.name)
        made = prepare_case(volume, sketcher, encode, network.factor, base_size, folder)
        made.stages = case.get("stages")
        prepared.append(made)
    return prepared


def _digest(case: Mapping) -> str:
    image = case["image"]
    identity = (image.name, image.shape) if isinstance(image, Volume) else str(image)
    return hashlib.sha256(repr((identity, case.get("region"))).encode()).hexdigest()[:8]


def _scratch() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="hiresmed_")
