"""Data loaders whose batches do not depend on the number of processes."""

from __future__ import annotations

from monai.data import DataLoader as MonaiDataLoader
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
    return MonaiDataLoader(dataset, batch_size=local_batch_size(batch_size), sampler=sampler, num_workers=num_workers)


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
    if len(dataset) < batch_size:
        raise InputError(
            f"batch_size must be at most the number of training images, {len(dataset)}, got {batch_size}; lower it, or "
            "give more slices."
        )
    sampler = distributed_sampler(dataset, seed=seed)
    return DataLoader(dataset, own, sampler=sampler, drop_last=True, num_workers=num_workers)


def batch_loader(dataset: Dataset, num_workers: int = 0) -> DataLoader:
    """Loads a dataset that makes whole batches by itself, such as ShuffledImages: `per_rank` items in a row.

    Args:
        dataset: with `per_rank`, this process's share of a batch, and `collate` if its items need one of their own.
        num_workers: processes that read.
    """
    collate = getattr(dataset, "collate", None)
    return DataLoader(dataset, dataset.per_rank, collate_fn=collate, num_workers=parse_int(num_workers, "num_workers"))
