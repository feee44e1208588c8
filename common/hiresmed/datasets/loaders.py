"""Data loaders whose batches do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Protocol, cast

from monai.data import DataLoader as MonaiDataLoader
from monai.data import list_data_collate
from torch.utils.data import DataLoader, Dataset

from ..core.distributed import distributed_sampler, local_batch_size
from ..core.errors import InputError
from ..core.knobs import parse_int


def case_loader(dataset: Dataset, batch_size: int, seed: int = 0, num_workers: int = 0) -> MonaiDataLoader:
    """This process's share of shuffled global batches of cases, each with one or several crops (MONAI's collation).

    Args:
        batch_size: cases, over all processes.
        seed: of the order, which changes with each epoch (Seeding).
        num_workers: processes that read.

    Raises:
        InputError: a batch that the processes cannot share.
    """
    sampler = distributed_sampler(dataset, seed=seed)
    own = local_batch_size(batch_size)
    return MonaiDataLoader(dataset, batch_size=own, sampler=sampler, num_workers=num_workers, collate_fn=collate_shared)


def collate_shared(batch: Sequence[Mapping | Sequence[Mapping]]) -> dict:
    """MONAI's collation of cases or of lists of crops, of the keys that all of them have.

    Listed cases differ in what their list says of them ("lesion", "tumour"), which is used up before they are a batch.

    >>> collate_shared([{"side": 1}, [{"side": 2, "lesion": "filled"}] * 2])
    {'side': tensor([1, 2, 2])}
    """
    crops = [crop for case in batch for crop in ([case] if isinstance(case, Mapping) else case)]
    shared = set.intersection(*(set(crop) for crop in crops))
    return list_data_collate([{key: value for key, value in crop.items() if key in shared} for crop in crops])


def image_loader(dataset: Dataset, batch_size: int, seed: int = 0, num_workers: int = 0) -> DataLoader:
    """This process's share of shuffled global batches; the k-th holds the same images for any number of processes.

    Args:
        batch_size: global; what remains of the last batch is left out.
        seed: of the order, which changes with each epoch (Seeding).
        num_workers: processes that read.

    Raises:
        InputError: fewer images than one batch, or a batch that the processes cannot share.
    """
    batch_size = parse_int(batch_size, "batch_size", 1)
    num_workers = parse_int(num_workers, "num_workers")
    own = local_batch_size(batch_size)
    count = len(cast(Sized, dataset))
    if count < batch_size:
        raise InputError(
            f"batch_size must be at most the number of training images, {count}, got {batch_size}; lower it, or "
            "give more slices."
        )
    sampler = distributed_sampler(dataset, seed=seed)
    return DataLoader(dataset, own, sampler=sampler, drop_last=True, num_workers=num_workers)


class WholeBatches(Protocol):
    """A dataset that makes whole batches: `per_rank` items in a row are this process's share of one."""

    per_rank: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


def batch_loader(dataset: WholeBatches, num_workers: int = 0) -> DataLoader:
    """Loads a dataset that makes whole batches by itself, such as ShuffledImages.

    Args:
        dataset: with `collate` if its items need one of their own.
        num_workers: processes that read.
    """
    collate = getattr(dataset, "collate", None)
    workers = parse_int(num_workers, "num_workers")
    return DataLoader(cast(Dataset, dataset), dataset.per_rank, collate_fn=collate, num_workers=workers)
