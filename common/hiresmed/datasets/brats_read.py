"""A BraTS case becomes one array of four sequences on one grid, or one sentence that says why it does not."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np

from ..core.errors import InputError
from ..core.nifti_geometry import nifti_affine
from ..core.packed_size import check_packed
from ..core.volumes import ArrayVolume, NiftiVolume, Volume, check_finite, checked_affine, first_line
from ..phantoms.brain import BrainPhantom
from .brats import Case, brats_case, sequences_in_words
from .brats_dicom import dicom_series, open_mr_series
from .brats_labels import DECATHLON
from .brats_names import ALIASES, SEQUENCES, stem

MSD_ORDER = ("flair", "t1", "t1ce", "t2")  # Medical Segmentation Decathlon, Task01_BrainTumour


def read_brats(
    source, label: str | Path | None = None, channel_order: str | Sequence[str] = "auto"
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, Case]:
    """Reads one case: (image (4, *S) float32, label (*S) as stored or None, affine (4, 4) to mm in RAS+, the case).

    The case says in "sequences" which file, series or channel each one came from; a phantom has none.

    Args:
        source: see brats_case.
        label: path of the label, instead of the one found beside the images.
        channel_order: which sequences the channels of a 4-channel NIfTI are, by any of their names; "msd" for the
            Medical Segmentation Decathlon's; "auto": that of a dataset.json beside or above it, or the Decathlon's for
            a file named as its are, BRATS_NNN. Files of one sequence each are known by their names.

    Raises:
        InputError: not each sequence once in channel_order, or an order that nothing tells; unreadable files, NaN,
            shapes or affines that differ, not four channels.
    """
    if channel_order != "auto":
        _order(channel_order)  # a mistake is said whatever the files are
    case = brats_case(source, label)
    if label is not None:
        case.setdefault("label", Path(label))
    if isinstance(case["image"], BrainPhantom):
        return *case["image"].read(), case["image"].affine, case
    if isinstance(case["image"], Path):
        image, affine, order = _read_channels(case["image"], channel_order)
        where = [f"{case['image'].name}, channel {n + 1} of 4" for n in order]
        case["sequences"] = dict(zip(SEQUENCES, where))
    else:
        image, affine = _read_stack(case["image"])
        case["sequences"] = sequences_in_words(case["image"])
    truth: np.ndarray | None = None
    if "label" in case:
        volume = NiftiVolume(case["label"], header_only=True)
        _check_same(volume, image.shape[1:], affine, Path(case["label"]).name, str(case["name"]))
        truth = _values(volume)
    return image, truth, affine, case


def _values(volume: Volume) -> np.ndarray:
    try:
        return volume.read((0, 0, 0), volume.shape)
    except (EOFError, OSError, zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{volume.name} must be a whole NIfTI file, got a truncated or damaged one ({first_line(error)}); copy or "
            "export it again."
        ) from error


def _read_stack(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    volumes = [_open(path) for path in paths]
    first = volumes[0]
    if len(first.shape) != 3:
        raise InputError(f"{first.name} must be a 3-D image, got shape {first.shape}; choose a volume.")
    for volume in volumes[1:]:
        _check_same(volume, first.shape, first.affine, volume.name, first.name)
    image = np.empty((4, *first.shape), dtype=np.float32)
    for channel, volume in zip(image, volumes):
        channel[...] = _values(volume)
    return image, first.affine


def _open(path: Path) -> Volume:
    return open_mr_series(path) if dicom_series(path) else NiftiVolume(path, header_only=True)


def _check_same(volume: Volume, shape: Sequence[int], affine: np.ndarray, name: str, other: str) -> None:
    if tuple(volume.shape) != tuple(shape):
        raise InputError(
            f"{name} must have the shape of {other}, {tuple(shape)}, got {tuple(volume.shape)}; register and "
            "resample all sequences and the label to one grid first."
        )
    apart = np.abs(volume.affine - affine).max()
    if apart > 1e-2:
        raise InputError(
            f"{name} must have the affine of {other}, got a difference of up to {apart:.3g} mm; register and resample "
            "all sequences and the label to one grid first."
        )


def _order(names: str | Sequence[str]) -> list[int]:
    """Places of t1, t1ce, t2, flair among the channels.

    >>> _order("msd"), _order(["T1w", "t1gd", "t2w", "FLAIR"])
    ([1, 2, 3, 0], [0, 1, 2, 3])
    """
    known = [ALIASES.get(str(n).lower()) for n in (MSD_ORDER if names == "msd" else names)]
    if sorted(map(str, known)) != sorted(SEQUENCES):
        raise InputError(
            f"channel_order must be msd or name t1, t1ce, t2 and flair once each, got {names!r}; correct it."
        )
    return [known.index(sequence) for sequence in SEQUENCES]


def channel_order_of(path: Path) -> list[int]:
    """Places of t1, t1ce, t2, flair among a file's channels, by the dataset.json of its set or by its own name.

    Raises:
        InputError: nothing tells them.
    """
    for folder in (path.parent, path.parent.parent):
        try:
            beside = folder / "dataset.json"
            said: Any = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            listed = said.get("modality") or said.get("channel_names")
            return _order([listed[str(n)] for n in range(4)])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    if DECATHLON.fullmatch(stem(path)):
        return _order("msd")
    raise InputError(
        f"{path.name} must tell the order of its four channels by a dataset.json or a name as the Decathlon's, "
        "BRATS_NNN, but does not; set channel_order, to msd or to a list such as [t1, t1ce, t2, flair]."
    )


def _read_channels(path: Path, channel_order: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A NIfTI of shape (*S, 4) or (*S, 1, 4), channels brought into the order t1, t1ce, t2, flair; and their places."""
    try:
        file = cast(nibabel.Nifti1Image, nibabel.load(path))
        shape = [n for n in file.shape if n != 1] if len(file.shape) == 5 else list(file.shape)
        if len(shape) != 4 or shape[3] != 4:
            raise InputError(
                f"{path.name} must be one of t1, t1ce, t2, flair by its name, or a NIfTI of four channels, got "
                f"shape {tuple(file.shape)}; rename it as BraTS does, or stack the four sequences."
            )
        if path.name.lower().endswith(".gz"):
            check_packed(path, math.prod(file.shape) * file.get_data_dtype().itemsize)
        order = channel_order_of(path) if channel_order == "auto" else _order(channel_order)
        values = np.asarray(file.dataobj, dtype=np.float32).reshape(shape)
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(
            f"{path.name} must be a NIfTI image, got one that nibabel cannot read ({first_line(error)}); check it."
        ) from error
    image = np.ascontiguousarray(np.moveaxis(values, 3, 0)[order])
    for channel, sequence in zip(image, SEQUENCES):
        check_finite(ArrayVolume(channel, name=f"{path.name} ({sequence})"), box=512)
    return image, checked_affine(nifti_affine(file, path, path.name), 3, path.name), order
