"""Brain MR for generators of slices: the cases of one section, of a folder, a list or phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from monai.data import CacheDataset
from monai.transforms import Compose

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.progress import Counted
from ..io.readers import PICTURES
from ..phantoms.brain import BrainPhantom
from .brats import SEQUENCES, brain_cases, brats_cases
from .image_sets import ImageSet
from .mri_slices import MriSlices, slice_cases
from .sections import sections_of


def mri_cases(
    dataset_dir: str | Path | None = None,
    section: str = "training",
    cases_list: Sequence[Mapping] | None = None,
    subjects: str | Path | None = None,
    num_subjects: int | None = None,
    phantoms: int = 4,
    phantom: Mapping | None = None,
    split: str | None = None,
) -> list[Mapping]:
    """The cases of one section, for MriSlices(cases=...); a subject is never in two sections.

    Args:
        dataset_dir: a folder in BraTS's layout, or one of pictures (PNG, JPEG, TIFF), each a subject with one slice;
            None: phantoms.
        section: training or validation (a fifth of the subjects, by their names alone), or what `subjects` names, or
            `split` makes.
        cases_list: instead of the split: list of {"t1": file, "flair": file, ... below dataset_dir, "subject",
            "section", "slices"} or {"phantom": seed, "section", "slices"}.
        subjects: a text file of subjects, see mri_slices.listed_subjects.
        num_subjects: only the first of them, in the order of their names.
        phantoms, phantom: see brain_cases; theirs are the middle slices.
        split: of the subjects of cases_list, instead of its own sections: tenths, see sections.sections_of.

    Raises InputError: nothing in the section, a bad list, too few subjects.
    """
    cases: list[Mapping]
    if cases_list is not None:
        sections = {} if split is None else sections_of((_subject(entry) for entry in cases_list), split)
        cases = [
            _listed(n, entry, dataset_dir, phantom)
            for n, entry in enumerate(cases_list)
            if sections.get(_subject(entry), entry.get("section", "training")) == section
        ]
        if not cases:
            raise InputError(f"the {section} section of cases_list must hold a case, got none; add cases.")
    elif dataset_dir is None:
        heads = brain_cases(None, section, phantoms, phantom)
        cases = [{**case, "slices": _middle(case["image"])} for case in heads]
    else:
        cases = slice_cases(_pictures(dataset_dir) or brats_cases(dataset_dir), section, subjects)
    if num_subjects is None:
        return cases
    count = parse_int(num_subjects, "num_subjects", least=1)
    if len(cases) < count:
        raise InputError(
            f"num_subjects must be at most the {len(cases)} subjects of the {section} section, got {count}; "
            "lower it, or give more subjects."
        )
    return sorted(cases, key=lambda case: str(case["subject"]))[:count]


def _pictures(folder: str | Path) -> list[Mapping]:
    """The pictures of a folder as cases of one slice, which is there for whatever contrast; [] if there is NIfTI."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file())
    if any(path.name.lower().endswith((".nii", ".nii.gz")) for path in files):
        return []
    pictures = [path for path in files if path.name.lower().endswith(PICTURES)]
    return [{"image": [path] * len(SEQUENCES), "subject": path.stem, "slices": (0, 0)} for path in pictures]


def _subject(entry: Mapping) -> str:
    return str(entry.get("subject", f"phantom_{entry.get('phantom')}"))


def _listed(n: int, entry: Mapping, dataset_dir: str | Path | None, phantom: Mapping | None) -> dict:
    more = {"slices": entry["slices"]} if entry.get("slices") else {}
    if "phantom" in entry:
        head = BrainPhantom(**{"shape": (64, 64, 64), **(phantom or {}), "seed": int(entry["phantom"])})
        return {"image": head, "subject": head.name, "slices": _middle(head), **more}
    root = Path(dataset_dir or ".").expanduser()
    paths = [root / entry[s] if s in entry else None for s in SEQUENCES]
    if not any(paths) or "subject" not in entry:
        raise InputError(
            f"Each case of cases_list must name its subject and a file of {', '.join(SEQUENCES)}, or a phantom, got "
            f"{sorted(entry)} in number {n}; correct it."
        )
    return {"image": paths, "subject": str(entry["subject"]), **more}


def _middle(head: BrainPhantom) -> tuple[int, int]:
    """The slices of a phantom of any size that are 60 to 107 of BraTS's 155: through the ventricles."""
    return round(60 / 155 * head.shape[2]), round(107 / 155 * head.shape[2])


def mri_images(
    section: str,
    dataset_dir: str | Path | None = None,
    subjects: str | Path | None = None,
    num_subjects: int | None = None,
    cases_list: Sequence[Mapping] | None = None,
    phantoms: int = 12,
    phantom: Mapping | None = None,
    split: str | None = None,
    contrasts: Sequence[str] = ("flair",),
    slices: Sequence[int] | None = (60, 107),
    size: int = 256,
    fit: str = "pad",
    percentiles: Sequence[float] = (0.1, 99.8),
    cache_dir: str | Path | None = None,
    cache_num: int = 0,
    channels: int = 1,
    value_range: Sequence[float] = (-1.0, 1.0),
    most: int | None = None,
    share: bool = False,
) -> ImageSet:
    """The slices of one section as a generator's images: cases (mri_cases), slices (MriSlices), their view (ImageSet).

    Args:
        section: training or validation; `num_subjects` is of the training.
        percentiles: of each volume, which become the ends of value_range.
        cache_num: at most so many slices are kept in memory.

    Other arguments: see mri_cases, MriSlices and ImageSet.
    """
    if dataset_dir is not None and cases_list is None and _pictures(dataset_dir):
        contrasts = contrasts[:1]  # a picture has one
    only = num_subjects if section == "training" else None
    cases = mri_cases(dataset_dir, section, cases_list, subjects, only, phantoms, phantom, split)
    slices_of_cases = MriSlices(
        cases=cases, contrasts=contrasts, slices=slices, size=size, fit=fit, window=percentiles, cache_dir=cache_dir
    )
    slices_read = min(cache_num, len(slices_of_cases))
    with Counted(cast(Sequence, slices_of_cases), f"{section} images", slices_read) as counted:
        images = CacheDataset(counted, Compose(), cache_num=cache_num, progress=False, copy_cache=False)
    return ImageSet(images, most, channels, value_range, share)
