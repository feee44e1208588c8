"""Sets of images for training and comparing generators: views, batches.

Letters: C = channels, N = image side in pixels, S = spatial shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import ignite.distributed as idist
import numpy as np
import torch
from torch.utils.data import Dataset

from ..core.distributed import local_batch_size, rank_share
from ..core.knobs import parse_bool, parse_int, parse_range


class Items(Protocol):
    """What holds dicts {"image": (C, *S), ...} by number: a list of them, or a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class ImageSet(Dataset):
    """A view of a set of images {"image": (C, *S) in [-1, 1]}: thinned or repeated, shared out, in another range.

    Items get "number", their place in the whole view, which is the same in every process.

    Args:
        images: the set.
        most: at most so many, evenly spaced; None: all.
        exactly: so many, in turn where the set has fewer.
        channels: a grey image is repeated to so many.
        value_range: what -1 and 1 become.
        share: only this process's images, every world-size-th.
    """

    def __init__(
        self,
        images: Items,
        most: int | None = None,
        channels: int = 1,
        value_range: Sequence[float] = (-1.0, 1.0),
        share: bool = False,
        exactly: int | None = None,
    ) -> None:
        self.images = images
        self.channels = parse_int(channels, "channels", least=1)
        self.low, self.high = parse_range(value_range, "value_range")
        count = len(images) if most is None else min(len(images), parse_int(most, "most", least=1))
        if exactly is not None:
            count = parse_int(exactly, "exactly", least=1)
        spread = max(count, len(images))
        places = [k * spread // count % len(images) for k in range(count)]
        self.places = [(number, places[number]) for number in (rank_share(count) if share else range(count))]

    @property
    def subjects(self) -> list[str] | None:
        """The patient of each image, if the set tells them."""
        subjects = subjects_of(self.images)
        return subjects and [subjects[place] for _, place in self.places]

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


def subjects_of(images: Items) -> list[str] | None:
    """The patient of each image, without opening one; None where a set does not tell all of them.

    >>> subjects_of([{"image": "a.png", "subject": "p1"}, {"image": "b.png", "subject": "p1"}])
    ['p1', 'p1']
    """
    if hasattr(images, "subjects"):
        return images.subjects
    cases = getattr(images, "data", images)  # MONAI's datasets hold their cases as `data`
    if not isinstance(cases, Sequence) or not all("subject" in case for case in cases):
        return None
    return [str(case["subject"]) for case in cases]


class ImagesOnly:
    """The images of a set, (C, N, N), without their names: what the metrics take."""

    def __init__(self, images: Items) -> None:
        self.images = images
        self.subjects = subjects_of(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]["image"]


class ShuffledImages(Dataset):
    """Endless batches of a dataset: `iterations` an epoch, each image as often as any other, mirrored by chance.

    A sample depends on (seed, epoch, place in the global batch) alone, so a resumed training sees what an
    uninterrupted one would, and processes share a global batch. ignite's and torch's samplers end an epoch with the
    images, which for sixteen of them is after two batches.

    Args:
        images: dataset of {"image": (C, *S), "name"}.
        iterations: batches an epoch.
        batch_size: global, over all processes.
        flip: mirror half of the images along their last axis.
        seed: of the whole training.
    """

    def __init__(
        self, images: Sequence, iterations: int, batch_size: int, flip: bool | str = True, seed: int = 0
    ) -> None:
        self.images = images
        self.flip = parse_bool(flip, "flip")
        self.seed = parse_int(seed, "seed")
        self.epoch = 1
        self.iterations = parse_int(iterations, "iterations", 1)
        self.batch_size = parse_int(batch_size, "batch_size", 1)
        self.per_rank = local_batch_size(self.batch_size)

    def __len__(self) -> int:
        return self.iterations * self.per_rank

    def set_epoch(self, epoch: int) -> None:
        """Other images: called by the seeding handler at each epoch's start."""
        self.epoch = epoch

    def number(self, index: int) -> int:
        """The sample's number in the whole training, over all processes and epochs."""
        batch, place = divmod(index, self.per_rank)
        return ((self.epoch - 1) * self.iterations + batch) * self.batch_size + idist.get_rank() * self.per_rank + place

    def __getitem__(self, index: int) -> dict:
        number = self.number(range(len(self))[index])
        turn, place = divmod(number, len(self.images))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.images))
        image = self.images[int(order[place])]["image"]
        mirrored = self.flip and np.random.default_rng([self.seed, number, 1]).random() < 0.5
        return {"image": image.flip(-1) if mirrored else image}
