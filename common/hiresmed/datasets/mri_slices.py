"""Axial slices of brain MR volumes as training images of 2-D generators, straight from NIfTI.

The published sets are screenshots, one of them with a viewer's caption on every image; these are the voxels. Letters:
C = channels, N = image side in pixels.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ..core.errors import InputError
from ..core.knobs import parse_int, parse_range
from ..core.output_files import scratch_folder
from ..core.progress import with_progress
from ..core.views import SliceView, TurnedView, picture_turn
from ..core.volumes import ArrayVolume, Volume
from ..core.windows import to_unit_range
from ..io.readers import open_volume
from ..phantoms.brain import BrainPhantom
from .brats import SEQUENCES, brain_cases, brats_cases
from .sections import section_of

FITS = ("pad", "bicubic", "square")


class AxialSlices:
    """A 3-D volume as its axial slices in LPS, as a radiologist sees them: anterior up, the patient's right at left.

    Rows run from anterior to posterior, columns from right to left, slices from inferior to superior, however the file
    stores them. One slice at a time is read. A 2-D image is its own only slice.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume: Volume
        if len(volume.shape) == 2:  # rows and columns, as the plane of a volume is shown
            self.volume = SliceView(TurnedView(volume, *picture_turn(volume.affine, undirected=False)))
            self._axes = [1, 0, 2]
            self._flips = [False, False, False]
            return
        self.volume = volume
        lps = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(volume.affine), lps)
        # turn[array axis] = (axis in LPS, direction)
        self._axes = [int(np.flatnonzero(turn[:, 0] == axis)[0]) for axis in range(3)]
        self._flips = [turn[axis, 1] < 0 for axis in self._axes]

    def __len__(self) -> int:
        return self.volume.shape[self._axes[2]]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.volume.shape[self._axes[1]], self.volume.shape[self._axes[0]]

    def __getitem__(self, k: int) -> np.ndarray:
        """Slice k from below, (rows, columns), in the volume's own values."""
        left, posterior, superior = self._axes
        start = [0, 0, 0]
        shape = list(self.volume.shape)
        start[superior], shape[superior] = (len(self) - 1 - k if self._flips[2] else k), 1
        plane = self.volume.read(start, shape).squeeze(superior)
        plane = plane if posterior < left else plane.T
        return plane[:: -1 if self._flips[1] else 1, :: -1 if self._flips[0] else 1]


def percentiles(slices: AxialSlices, low: float, high: float) -> tuple[float, float]:
    """The volume's `low` and `high` percentiles over all voxels, as numpy.percentile's, read slice by slice.

    Only the tails beyond them are kept: MONAI's ScaleIntensityRangePercentiles holds the volume, and
    windows.robust_window leaves out the background, which here is most of the image.
    """
    count = math.prod(slices.volume.shape)
    at = [share / 100 * (count - 1) for share in (low, high)]
    keep = [math.floor(at[0]) + 2, count - math.floor(at[1])]
    tails = [np.zeros(0), np.zeros(0)]
    for k in range(len(slices)):
        values = slices[k].astype(np.float64).ravel()
        tails[0] = _smallest(np.concatenate([tails[0], values]), keep[0])
        tails[1] = -_smallest(-np.concatenate([tails[1], values]), keep[1])
    upper = np.sort(tails[1])
    return _between(np.sort(tails[0]), at[0]), _between(upper, at[1] - (count - len(upper)))


def _smallest(values: np.ndarray, n: int) -> np.ndarray:
    return np.partition(values, n - 1)[:n] if n < len(values) else values


def _between(ordered: np.ndarray, place: float) -> float:
    whole = math.floor(place)
    following = ordered[min(whole + 1, len(ordered) - 1)]
    return float(ordered[whole] + (place - whole) * (following - ordered[whole]))


def fitted(image: torch.Tensor, size: int, fit: str, fill: float, name: str) -> torch.Tensor:
    """(C, rows, columns) in [-1, 1] -> (C, size, size): with a margin of `fill` all round, or by bicubic resampling.

    `square` resamples what a margin first made square, so that nothing is stretched.
    """
    if fit == "square":
        return fitted(fitted(image, max(image.shape[1:]), "pad", fill, name), size, "bicubic", fill, name)
    if fit == "bicubic":
        return F.interpolate(image[None], (size, size), mode="bicubic", antialias=True, align_corners=False)[0].clamp(
            -1, 1
        )
    margins = [size - n for n in image.shape[1:]]
    if min(margins) < 0:
        raise InputError(
            f"{name} must fit into {size} x {size} pixels, got {tuple(image.shape[1:])}; raise the "
            "size, or give fit: bicubic."
        )
    top, left = (m // 2 for m in margins)
    return F.pad(image, (left, margins[1] - left, top, margins[0] - top), value=fill)


def listed_subjects(path: str | os.PathLike) -> dict[str, str | None]:
    """{subject: section or None} of a text file: a subject a line, a section after it if wanted; `#` begins a comment.

    Raises InputError: no such file, an unknown section, a subject twice, no subject.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(
            f"subjects must be a text file with a subject a line, got {path}, which does not exist; check it."
        )
    sections: dict[str, str | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        section = words[1] if len(words) > 1 else None
        if len(words) > 2 or section not in (None, "training", "validation", "test") or words[0] in sections:
            raise InputError(
                f"{path.name} must name each subject once, with training, validation or test after it or nothing, "
                f"got the line '{line.strip()}'; correct it."
            )
        sections[words[0]] = section
    if not sections:
        raise InputError(f"{path.name} must name at least one subject, got none; add some.")
    return sections


def slice_cases(
    cases: Sequence[Mapping], section: str | None = None, subjects: str | os.PathLike | None = None
) -> list[Mapping]:
    """Those of the cases ({"image": four paths, "subject"}) that belong to the section.

    All slices of a subject come into one section: the one in the subjects' file, else the one that the name alone
    decides (a fifth for validation). Raises InputError for a listed subject that is not there, or an empty section.
    """
    listed = listed_subjects(subjects) if subjects is not None else {str(c["subject"]): None for c in cases}
    missing = sorted(set(listed) - {str(c["subject"]) for c in cases})
    if missing:
        raise InputError(
            f"{Path(subjects or '').name} names {len(missing)} subjects that are not in the data, e.g. {missing[0]}; "
            "correct the list, or give the whole data set."
        )
    matching = [c for c in cases if str(c["subject"]) in listed]
    if section is not None:
        matching = [c for c in matching if (listed[str(c["subject"])] or section_of(str(c["subject"]))) == section]
    if not matching:
        raise InputError(f"the {section} section must hold at least one subject, got none; add subjects.")
    return matching


class MriSlices(Dataset):
    """Axial slices of BraTS-layout volumes as {"image": (C, N, N) float32 in [-1, 1], "name", "subject"}.

    Values are scaled for each volume, its percentiles to -1 and 1. Only one slice is read at a time; compressed files
    are unpacked once into `cache_dir`.

    Args:
        dataset_dir: a folder of cases (brats_cases); None: `cases`, or phantoms.
        section: training, validation, test, or None for all.
        contrasts: of t1, t1ce, t2, flair.
        slices: first and last slice, both included, counted from below; None: all.
        subjects: a text file of subjects, see listed_subjects.
        size: N.
        fit: pad (a margin at the volume's value 0), bicubic, or square (a margin to a square, then bicubic).
        window: percentiles of the volume that become -1 and 1.
        stack: contrasts as channels of one image (C of them) instead of images of their own (C = 1).
        cases: instead of a folder: list of {"image": paths in the order t1, t1ce, t2, flair, "subject"}, with "slices"
            where a case's are others.
        phantoms, phantom: without dataset_dir and cases, see brain_cases; they are held in memory.
        cache_dir: where compressed files are unpacked; None: a new temporary folder.

    Raises InputError: nothing there, unknown contrasts, slices outside a volume, a constant volume, slices too large.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike | None = None,
        section: str | None = None,
        contrasts: Sequence[str] = ("flair",),
        slices: Sequence[int] | None = (60, 107),
        subjects: str | os.PathLike | None = None,
        size: int = 256,
        fit: str = "pad",
        window: Sequence[float] = (0.1, 99.8),
        stack: bool = False,
        cases: Sequence[Mapping] | None = None,
        cache_dir: str | os.PathLike | None = None,
        phantoms: int = 12,
        phantom: Mapping | None = None,
    ) -> None:
        if dataset_dir is not None and cases is not None:
            raise InputError("Either dataset_dir or cases must be given, got both; leave one out.")
        self.contrasts = list(contrasts)
        self.size = parse_int(size, "size", least=1)
        self.fit = fit
        self.stack = stack
        if slices is not None and len(slices) != 2:
            raise InputError(f"slices must be the first and the last one, got {list(slices)}; give two numbers.")
        self.slices = None if slices is None else (int(slices[0]), int(slices[1]))
        self._check(window)
        self._window = window
        self._folder = Path(cache_dir) if cache_dir else scratch_folder()
        in_section: Sequence[Mapping]
        if cases is not None:
            in_section = slice_cases(cases, section, subjects)
        elif dataset_dir is not None:
            in_section = slice_cases(brats_cases(Path(dataset_dir)), section, subjects)
        else:
            in_section = brain_cases(None, section, phantoms, phantom)
        groups = [self.contrasts] if stack else [[c] for c in self.contrasts]
        volumes = with_progress(in_section, "MR volumes")
        self.sources = [source for case in in_section for source in self._sources(case)]
        self._stacks = [self._opened(case, group) for case in volumes for group in groups]
        self._ends = np.cumsum([last - first + 1 for _, _, _, (first, last) in self._stacks]).tolist()

    def _check(self, window: Sequence[float]) -> None:
        unknown = [c for c in self.contrasts if c not in SEQUENCES]
        if unknown or not self.contrasts:
            raise InputError(f"contrasts must be some of {', '.join(SEQUENCES)}, got {self.contrasts}.")
        if self.fit not in FITS:
            raise InputError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}; choose one of them.")
        low, high = parse_range(window, "percentiles")
        if low < 0 or high > 100:
            raise InputError(f"percentiles must lie in 0 ... 100, got {list(window)}; change them.")

    def _opened(self, case: Mapping, contrasts: Sequence[str]) -> tuple:
        """(name, subject, [(slices, window) of each contrast], (first, last))."""
        subject = str(case["subject"])
        channels = []
        for volume in self._volumes(case, contrasts):
            slices = AxialSlices(volume)
            first, last = case.get("slices") or self.slices or (0, len(slices) - 1)
            if not 0 <= first <= last < len(slices):
                raise InputError(
                    f"{subject} has {len(slices)} slices, but slices {first} to {last} are wanted; correct `slices`."
                )
            window = percentiles(slices, *self._window)
            if not window[0] < window[1]:
                raise InputError(
                    f"{slices.volume.name} must hold a picture, got one whose percentiles {list(self._window)} are "
                    f"both {window[0]:g}; leave the subject out."
                )
            channels.append((slices, window))
        return f"{subject}_{'+'.join(contrasts)}", subject, channels, (first, last)

    def _sources(self, case: Mapping) -> list:
        """The phantom, or the files of the contrasts."""
        image = case["image"]
        return [image] if isinstance(image, BrainPhantom) else [image[SEQUENCES.index(c)] for c in self.contrasts]

    def _volumes(self, case: Mapping, contrasts: Sequence[str]) -> list[Volume]:
        places = [SEQUENCES.index(contrast) for contrast in contrasts]
        image = case["image"]
        if isinstance(image, BrainPhantom):
            values, _ = image.read()
            # copies, so that the sequences not asked for can go
            return [ArrayVolume(values[place].copy(), image.affine, image.name) for place in places]
        return [open_volume(image[place], self._folder) for place in places]

    @property
    def subjects(self) -> list[str]:
        """The subject of each slice."""
        return [subject for _, subject, _, (first, last) in self._stacks for _ in range(first, last + 1)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]  # as a list's: negative from the end, IndexError beyond it
        which = bisect.bisect_right(self._ends, index)
        name, subject, channels, (_, last) = self._stacks[which]
        k = last - (self._ends[which] - 1 - index)
        image = torch.cat([self._channel(slices, window, k) for slices, window in channels])
        return {"image": image, "name": f"{name}_{k:03d}", "subject": subject}

    def _channel(self, slices: AxialSlices, window: tuple[float, float], k: int) -> torch.Tensor:
        plane = torch.from_numpy(np.ascontiguousarray(to_unit_range(slices[k], window))).float()[None]
        fill = float(to_unit_range(np.zeros(1), window)[0])
        return fitted(plane, self.size, self.fit, fill, slices.volume.name)
