"""Sets of 2-D images for training and comparing generators: cases of a list, views of a set, folders of pictures.

Letters: C = channels, N = image side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from ..distributed import distributed_sampler, own_share, per_process
from ..errors import InputError
from ..knobs import whole_number
from .brats import SEQUENCES, brain_cases, brats_cases
from .mri_slices import slice_cases
from .phantom_brain import BrainPhantom


def mri_cases(
    dataset_dir: str | Path | None = None,
    section: str = "training",
    cases_list: Sequence[Mapping] | None = None,
    subjects: str | Path | None = None,
    num_subjects: int | None = None,
    phantoms: int = 4,
    phantom: Mapping | None = None,
) -> list[Mapping]:
    """The cases of one section, for MriSlices(cases=...); a subject is never in two sections.

    Args:
        dataset_dir: a folder in BraTS's layout; None: phantoms.
        section: training or validation (a fifth of the subjects, by their names alone), or what `subjects` names.
        cases_list: instead of the split: list of {"t1": file, "flair": file, ... below dataset_dir, "subject",
            "section", "slices"} or {"phantom": seed, "section", "slices"}.
        subjects: a text file of subjects, see mri_slices.listed_subjects.
        num_subjects: only the first of them, in the order of their names.
        phantoms, phantom: see brain_cases; theirs are the middle slices.

    Raises InputError: nothing in the section, a bad list, too few subjects.
    """
    if cases_list is not None:
        found = [
            _listed(n, entry, dataset_dir, phantom)
            for n, entry in enumerate(cases_list)
            if entry.get("section", "training") == section
        ]
        if not found:
            raise InputError(f"the {section} section of cases_list should hold a case, but holds none; add cases.")
    elif dataset_dir is None:
        heads = brain_cases(None, section, phantoms, phantom)
        found = [{**case, "slices": _middle(case["image"])} for case in heads]
    else:
        found = slice_cases(brats_cases(dataset_dir), section, subjects)
    if num_subjects is None:
        return found
    wanted = whole_number(num_subjects, "num_subjects", least=1)
    if len(found) < wanted:
        raise InputError(
            f"num_subjects should be at most the {len(found)} subjects of the {section} section, but is {wanted}; "
            "lower it, or give more subjects."
        )
    return sorted(found, key=lambda case: str(case["subject"]))[:wanted]


def _listed(n: int, entry: Mapping, dataset_dir: str | Path | None, phantom: Mapping | None) -> dict:
    more = {"slices": entry["slices"]} if entry.get("slices") else {}
    if "phantom" in entry:
        head = BrainPhantom(**{"shape": (64, 64, 64), **(phantom or {}), "seed": int(entry["phantom"])})
        return {"image": head, "subject": head.name, "slices": _middle(head), **more}
    root = Path(dataset_dir or ".").expanduser()
    paths = [root / entry[s] if s in entry else None for s in SEQUENCES]
    if not any(paths) or "subject" not in entry:
        raise InputError(
            f"Each case of cases_list should name its subject and a file of {', '.join(SEQUENCES)}, or a phantom, but "
            f"number {n} has {sorted(entry)}; correct it."
        )
    return {"image": paths, "subject": str(entry["subject"]), **more}


def _middle(head: BrainPhantom) -> tuple[int, int]:
    """The slices of a phantom of any size that are 60 to 107 of BraTS's 155: through the ventricles."""
    return round(60 / 155 * head.shape[2]), round(107 / 155 * head.shape[2])


class ImageSet(Dataset):
    """A view of a set of images {"image": (C, N, N) in [-1, 1]}: thinned, shared out, in another range.

    Items get "number", their place in the whole view, which is the same in every process.

    Args:
        images: the set.
        most: at most so many, evenly spaced; None: all.
        channels: a grey image is repeated to so many.
        value_range: what -1 and 1 become.
        share: only this process's images, every world-size-th.
    """

    def __init__(
        self,
        images: Dataset,
        most: int | None = None,
        channels: int = 1,
        value_range: Sequence[float] = (-1.0, 1.0),
        share: bool = False,
    ) -> None:
        self.images, self.channels = images, whole_number(channels, "channels", least=1)
        self.low, self.high = (float(v) for v in value_range)
        if not self.low < self.high:
            raise InputError(f"value_range should be two rising numbers, but is {list(value_range)}; correct it.")
        count = len(images) if most is None else min(len(images), whole_number(most, "most", least=1))
        places = [k * len(images) // count for k in range(count)]
        self.places = [(number, places[number]) for number in (own_share(count) if share else range(count))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        number, place = self.places[index]
        item = self.images[place]
        image = item["image"]
        if image.shape[0] == 1:
            image = image.expand(self.channels, *image.shape[1:])
        if (self.low, self.high) != (-1.0, 1.0):
            image = (image + 1) * ((self.high - self.low) / 2) + self.low
        return {**item, "image": image.contiguous(), "number": number}


class ImagesOnly(Sequence):
    """The images of a set, (C, N, N), without their names: what the metrics take."""

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]["image"]


def image_loader(dataset: Dataset, batch_size: int, seed: int = 0, num_workers: int = 0) -> DataLoader:
    """This process's share of shuffled global batches; the k-th holds the same images for any number of processes.

    Args:
        batch_size: global; what remains of the last batch is left out.
        seed: of the order, which changes with each epoch (handlers.Seeding).
        num_workers: processes that read.

    Raises InputError: fewer images than one batch, or a batch that the processes cannot share.
    """
    batch_size, num_workers = whole_number(batch_size, "batch_size", 1), whole_number(num_workers, "num_workers")
    own = per_process(batch_size)
    if len(dataset) < batch_size:
        raise InputError(
            f"batch_size should be at most the {len(dataset)} training images, but is {batch_size}; lower it, or give "
            "more slices."
        )
    sampler = distributed_sampler(dataset, seed=seed)
    return DataLoader(dataset, own, sampler=sampler, drop_last=True, num_workers=num_workers)
