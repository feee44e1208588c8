"""Loaded cases kept on disk, because loading four volumes costs more than the crops that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.data import PersistentDataset, pickle_hashing
from monai.transforms import Compose

from ..core.errors import InputError


def cached_dataset(data: Sequence, transform: Compose, cache_dir: str | Path | None = None) -> PersistentDataset:
    """MONAI's PersistentDataset, whose files also depend on the transforms' settings (by default they do not).

    Args:
        data: cases.
        transform: a Compose; what comes before its first random transform is kept.
        cache_dir: made if needed; None keeps nothing.

    Raises:
        InputError: a folder that cannot be made.
    """
    if cache_dir is not None:
        try:
            Path(cache_dir).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cache_dir should be a folder that can be written to, but {cache_dir} cannot ({error.strerror}); "
                "choose another one, or null."
            ) from error
        cache_dir = Path(cache_dir).expanduser()
    # a Compose within a Compose counts as random as a whole
    return PersistentDataset(data, transform.flatten(), cache_dir, hash_transform=pickle_hashing)
