"""Brain MR in four sequences: loading as one image, the paper's intensities, and labels as nested regions and back.

Letters: S = spatial shape, R = number of regions. Padding to the reference grid is MONAI's SpatialPadd and
DivisiblePadd, which put 240 x 240 x 155 where PatchDDM does (8, 8; 8, 8; 50, 51) and are undone by Invertd.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ScaleIntensityRangePercentiles
from monai.utils import SpaceKeys

from ...core.errors import InputError
from ...datasets.brats import SEQUENCES
from ...datasets.brats_labels import label_codings
from ...datasets.brats_read import read_brats

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}  # whole tumour, tumour core, enhancing tumour: BraTS 2023 codes
CODINGS = {
    "brats2020": {0: 0, 1: 1, 2: 2, 4: 3},
    "brats2023": {0: 0, 1: 1, 2: 2, 3: 3},
    "brats2024": {0: 0, 1: 1, 2: 2, 3: 3, 4: 0},  # after treatment: 4 is the resection cavity, no tumour
    "msd": {0: 0, 1: 2, 2: 1, 3: 3},  # Medical Segmentation Decathlon, Task01: oedema, core, enhancing
}
BRAIN_LITRES = 2.6  # more than any brain; a head has 4 and more
TUMOUR_SHARE = 0.6  # of the brain: more than any tumour with its oedema; tissues and brain masks mark nearly all


class LoadImageBraind(MapTransform):
    """Loads a case's four sequences as one MetaTensor (4, *S) float32, and its label, if any, as (1, *S) uint8.

    No LoadImaged: it would need four keys or a list, and MONAI Label refuses lists to its subclasses, but wants
    "LoadImage" in a loader's name. Labels leave in BraTS 2023 codes 0-3; "name" is added where it is missing.
    A case of "tumour": false gets an empty label.

    Args:
        keys: image.
        channel_order: which sequences the channels of a 4-channel file are, see datasets.read_brats.
        label_key: where a label's path stands, if it stands there, and where the label goes.
        skull_stripped: check raises an error where more than a brain is shown, warn warns, ignore does nothing.
        label_coding: brats2020 (4 is enhancing), brats2023 (3), brats2024 (3; 4, the cavity, becomes 0), msd (1 and
            2 change places), or auto: as the case's "coding" says, which is decided for a data set (datasets.
            brats_labels.label_codings), or for the case alone where it has none.
        reader: (source, label path or None) -> (image (4, *S), label (*S) or None, affine (4, 4), case with "name" and
            "image"); None: datasets.read_brats.

    Raises:
        InputError: whatever the reader finds wrong, or the list of cases ("refused"); a sequence that is constant;
            skull; unknown label codes; a label of most of the brain, which is none of a tumour.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channel_order: str | Sequence[str] = "auto",
        label_key: str = "label",
        skull_stripped: str = "check",
        label_coding: str = "auto",
        reader: Callable | None = None,
    ) -> None:
        super().__init__(keys)
        if skull_stripped not in ("check", "warn", "ignore"):
            raise InputError(f"skull_stripped must be check, warn or ignore, got {skull_stripped!r}; choose one.")
        if label_coding not in ("auto", *CODINGS):
            raise InputError(f"label_coding must be auto or one of {', '.join(CODINGS)}, got {label_coding!r}.")
        self.reader = reader or partial(read_brats, channel_order=channel_order)
        self.label_key = label_key
        self.skull_stripped = skull_stripped
        self.label_coding = label_coding

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        if "refused" in case:
            raise InputError(str(case["refused"]))
        for key in self.key_iterator(case):
            image, label, affine, brats = self.reader(case[key], case.get(self.label_key))
            name = case.setdefault("name", brats["name"])
            if case.get("tumour") is False:
                label = np.zeros(image.shape[1:], dtype=np.uint8)
            _check_sequences(image, str(name))
            if self.skull_stripped != "ignore":
                self._check_skull(image, affine, str(name))
            case[key] = _with_meta(image, affine, brats)
            if label is not None:
                codes = contiguous_codes(label, self._coding(case, brats), str(name))[None]
                _check_tumour(codes[0], image, str(name))
                case[self.label_key] = _with_meta(codes, affine, brats)
        return case

    def _coding(self, case: Mapping, found: Mapping) -> str:
        """How the label's numbers are read.

        Raises:
            InputError: they do not tell.
        """
        if self.label_coding != "auto" or case.get("tumour") is False:
            return self.label_coding
        path = case.get(self.label_key)
        own = [{**found, "label": path}] if isinstance(path, (str, Path)) else [found]
        coding = case.get("coding") or label_codings(own)[0] or "auto"
        if coding == "unclear":
            raise InputError(
                f"The label of {case['name']} must tell what its code 4 is, but it, or its data set, holds a 4 "
                "beside a 3 or without a 1; set label_coding (inference: truth_coding) to brats2020 if 4 is enhancing "
                "tumour, to brats2024 if it is a cavity."
            )
        return coding

    def _check_skull(self, image: np.ndarray, affine: np.ndarray, name: str) -> None:
        litres = (~background(image)).sum() * abs(np.linalg.det(affine[:3, :3])) / 1e6
        if litres < BRAIN_LITRES:
            return
        sentence = (
            f"{name} must show a brain alone (at most {BRAIN_LITRES} litres on an even background), got "
            f"{litres:.1f} litres; strip the skull first (HD-BET, SynthStrip), or set skull_stripped to ignore."
        )
        if self.skull_stripped == "check":
            raise InputError(sentence)
        warnings.warn(sentence, stacklevel=3)


class NormalizeBraind(MapTransform):
    """Each sequence clipped at two percentiles of its whole volume and scaled to [-1, 1]; the background is exactly -1.

    PatchDDM, sec. 4.1 (clip at .1 and 99.9, min-max, 2 x - 1). Where skull stripping left small negative values, the
    paper's law would make the background brighter than -1, and unequal to the padding; here it stays -1.

    Args:
        keys: image, (4, *S).
        lower, upper: percentiles, 0-100.
    """

    def __init__(self, keys: KeysCollection, lower: float = 0.1, upper: float = 99.9) -> None:
        super().__init__(keys)
        self.scale = ScaleIntensityRangePercentiles(lower, upper, -1, 1, clip=True, channel_wise=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            outside = torch.from_numpy(background(np.asarray(case[key])))
            case[key] = self.scale(case[key])
            case[key][:, outside] = -1
        return case


class LabelsToRegionsd(MapTransform):
    """Codes (1, *S) -> nested regions (R, *S), float32 in {0, 1}.

    MONAI's ConvertToMultiChannelBasedOnBratsClasses has another order (TC, WT, ET), which is not nested.

    Args:
        keys: label, in BraTS 2023 codes.
        regions: WT, TC, ET or some of them, from the outermost inwards; [WT] is the paper's setting.
    """

    def __init__(self, keys: KeysCollection, regions: Sequence[str] = ("WT", "TC", "ET")) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.regions = check_regions(regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            label = case[key]
            parts = [sum(label == code for code in REGIONS[region]) for region in self.regions]
            case[key] = torch.cat(parts).to(torch.float32)
        return case


class SplitEnsembled(MapTransform):
    """What a SegmentationInferer returned, (2 R, *S) -> (R, *S), and beside it `probability` and `variance` (R, *S).

    Args:
        keys: pred.
        probability, variance: where the two halves go; the key itself keeps the first.
    """

    def __init__(self, keys: KeysCollection, probability: str = "probability", variance: str = "variance") -> None:
        super().__init__(keys)
        self.probability = probability
        self.variance = variance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            regions = len(case[key]) // 2
            case[key], case[self.variance] = case[key][:regions], case[key][regions:]
            case[self.probability] = case[key]
        return case


class RegionsToLabelsd(MapTransform):
    """Region scores (R, *S) -> codes (1, *S) uint8; what lies outside an outer region is in no inner one.

    Three regions give 0, 1 (necrosis and core without enhancement), 2 (oedema), 3 (enhancing); one gives 0, 1.

    Args:
        keys: pred; channels in the order of `regions`.
        regions: as in LabelsToRegionsd.
        threshold: a voxel belongs to a region whose score is larger (.5 for {0, 1}, 0 for {-1, 1}).
        label_coding: brats2023, or brats2020, which writes 4 for the enhancing tumour.

    Raises:
        InputError: unknown regions or label_coding, a threshold that no score or every score is above.
    """

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        threshold: float = 0.5,
        label_coding: str = "brats2023",
    ) -> None:
        super().__init__(keys)
        if label_coding not in ("brats2020", "brats2023"):
            raise InputError(f"label_coding must be brats2020 or brats2023, got {label_coding!r}; choose one.")
        if not 0 <= threshold < 1:
            raise InputError(f"threshold must lie between 0 and 1, got {threshold}; 0.5 is usual.")
        self.regions = check_regions(regions)
        self.threshold = threshold
        self.enhancing = 4 if label_coding == "brats2020" else 3

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            scores = case[key]
            assert scores.shape[0] == len(self.regions), (tuple(scores.shape), self.regions)
            label = torch.zeros_like(scores[:1], dtype=torch.uint8)
            within = torch.ones_like(scores[:1], dtype=torch.bool)
            for region, score in zip(self.regions, scores):
                within = within & (score > self.threshold)[None]
                label[within] = self._code(region)
            case[key] = label
        return case

    def _code(self, region: str) -> int:
        if len(self.regions) == 1:
            return 1
        return {"WT": 2, "TC": 1, "ET": self.enhancing}[region]


def check_regions(regions: Sequence[str]) -> tuple[str, ...]:
    """The regions as a tuple; InputError unless they are some of WT, TC, ET in this order."""
    names = tuple(regions)
    if not names or names != tuple(r for r in REGIONS if r in names):
        raise InputError(f"regions must be some of WT, TC, ET in this order, got {list(names)}; correct them.")
    return names


def region_codes(regions: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Name -> BraTS 2023 codes of each region; InputError as check_regions."""
    return {region: REGIONS[region] for region in check_regions(regions)}


def contiguous_codes(label: np.ndarray, coding: str, name: str) -> np.ndarray:
    """A label (*S) in BraTS 2023 codes 0-3, uint8.

    Raises:
        InputError: values that the coding does not know (a 3 beside a 4 under auto; fractions; NaN).

    >>> contiguous_codes(np.array([0, 1, 2, 4]), "auto", "case").tolist()
    [0, 1, 2, 3]
    """
    present = np.unique(label)
    if coding == "auto":
        coding = "brats2020" if 4 in present else "brats2023"
    known = CODINGS[coding]
    strange = [v for v in present.tolist() if v not in known]
    if strange:
        hint = "set label_coding to brats2024" if {3, 4} <= set(present.tolist()) else "check that the file is a label"
        raise InputError(
            f"The label of {name} must hold the codes {sorted(known)} ({coding}), got "
            f"{', '.join(f'{v:g}' for v in strange[:5])}; {hint}."
        )
    table = np.zeros(5, dtype=np.uint8)
    for old, new in known.items():
        table[old] = new
    return table[label.astype(np.uint8)]


def background(image: np.ndarray) -> np.ndarray:
    """Voxels (*S) that have the first corner's value in every sequence of (C, *S): the outside of a stripped brain."""
    return np.logical_and.reduce([channel == channel.flat[0] for channel in image])


def _check_tumour(codes: np.ndarray, image: np.ndarray, name: str) -> None:
    brain = ~background(image)
    marked = int(np.count_nonzero(codes[brain])) / max(1, int(np.count_nonzero(brain)))
    if marked > TUMOUR_SHARE:
        raise InputError(
            f"The label of {name} must mark a tumour, but marks {marked:.0%} of the brain; it is a segmentation of "
            "tissues or a brain mask: name the tumour's as label, or move this one out of the folder."
        )


def _check_sequences(image: np.ndarray, name: str) -> None:
    for n, channel in enumerate(image):
        if channel.min() == channel.max():
            raise InputError(
                f"{name} must show something in every sequence, got a {SEQUENCES[n]} that is "
                f"{channel.flat[0]:g} everywhere; export it again."
            )


def _with_meta(image: np.ndarray, affine: np.ndarray, found: Mapping) -> MetaTensor:
    """(C, *S) with what SaveImaged and viewers ask for, as MONAI's NibabelReader names it."""
    source = found["image"]
    first = source[0] if isinstance(source, list) else source
    folder = Path(first).parent if isinstance(first, (str, Path)) else Path(".")
    meta = {
        "filename_or_obj": str(folder / f"{found['name']}.nii.gz"),  # results are named after the subject
        "original_affine": affine.copy(),
        "spatial_shape": np.array(image.shape[1:]),
        "original_channel_dim": 0,
        "space": SpaceKeys.RAS,
    }
    if found.get("sequences"):
        meta["sequences"] = dict(found["sequences"])
    return MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine), meta=meta)
