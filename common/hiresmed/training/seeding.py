"""Random numbers as a function of (seed, epoch, rank), so that an interrupted training repeats an epoch exactly."""

from __future__ import annotations

import random
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader as MonaiDataLoader
from monai.data import Dataset as MonaiDataset
from monai.data.utils import set_rnd
from monai.engines import Trainer
from torch.utils.data import DataLoader

from ..core.errors import InputError


class Seeding:
    """At each epoch's start, seeds python, numpy, torch, the loader and its workers by (seed, epoch, rank).

    Also calls set_epoch(epoch) of the dataset, sampler and batch sampler where they have it, and makes the engine
    create a new loader iterator *after* that: so workers copy the dataset of this epoch, and an `epoch_length` shorter
    than the loader starts each epoch at the loader's start, as a resumed run does. (MONAI's set_determinism seeds all
    ranks alike, once.) Random numbers drawn by a validation do not change the next epoch.

    Args:
        seed: of the whole training; any integer from 0 on.

    Raises:
        InputError: workers are persistent while the dataset has set_epoch, which could not reach them.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        seed_everything(seed)
        loader = cast(Trainer, engine).data_loader
        for owner in (loader, *(getattr(loader, n, None) for n in ("dataset", "sampler", "batch_sampler"))):
            if owner is not None and hasattr(owner, "set_epoch"):
                owner.set_epoch(engine.state.epoch)
        if isinstance(loader, DataLoader):
            _seed_loader(loader, seed)
        engine.set_data(loader)


def _seed_loader(loader: DataLoader, seed: int) -> None:
    if loader.persistent_workers and hasattr(loader.dataset, "set_epoch"):
        raise InputError(
            f"persistent_workers must be false for a dataset with set_epoch ({type(loader.dataset).__name__}), got "
            "true; set it to false."
        )
    if loader.generator is not None:
        loader.generator.manual_seed(seed)
    if isinstance(loader, MonaiDataLoader) or isinstance(loader.dataset, MonaiDataset):
        # MONAI's random transforms keep their own state, which without workers is seeded only once
        set_rnd(loader.dataset, seed)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """A seed below 2^32 for this epoch and process, hashed so that neighbouring seeds are independent."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of all random generators of this process, in tensors and plain types (so it loads without pickle)."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *map(int, rest[:2]), float(rest[2])],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what `random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
