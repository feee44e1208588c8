"""Data and random numbers of an epoch belong to (seed, epoch, rank), however the epoch was reached."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.training.seeding import Seeding, epoch_seed, random_state, set_random_state
from ignite.engine import Events
from monai.data import DataLoader as MonaiDataLoader
from monai.data import Dataset as MonaiDataset
from monai.engines import Trainer
from monai.transforms import RandGaussianNoise
from torch.utils.data import DataLoader, Dataset


class Epochs(Dataset):
    """Says the epoch that it was told, its index, and a random number."""

    epoch = -1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([self.epoch, index, torch.rand(()).item()], dtype=torch.float64)


def epochs_of(loader, first=1, last=3, **engine) -> dict[int, list]:
    """What each epoch's iterations got: (batch, a random number drawn in the step)."""
    got: dict[int, list] = {}

    def step(engine, batch):
        draws = torch.rand(1).item(), np.random.rand(), random.random()
        values = batch if isinstance(batch, torch.Tensor) else torch.as_tensor(batch)
        got.setdefault(engine.state.epoch, []).append((values.flatten().tolist(), draws))

    trainer = Trainer("cpu", last, loader, iteration_update=step, handlers=[Seeding(7)], decollate=False, **engine)
    trainer.state.epoch = first - 1
    trainer.state.iteration = (first - 1) * trainer.state.epoch_length
    trainer.run()
    return got


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("epoch_length", [None, 2])
def test_every_epoch_gets_its_own_data_and_a_run_begun_later_gets_the_same(workers, epoch_length):
    def run(**span):
        return epochs_of(DataLoader(Epochs(), 2, shuffle=True, num_workers=workers), epoch_length=epoch_length, **span)

    whole = run()
    told = {epoch: {batch[0] for batch, _ in got} for epoch, got in whole.items()}
    assert told == {1: {1.0}, 2: {2.0}, 3: {3.0}}, "each worker's dataset knows its epoch"
    assert run(first=2) == {epoch: whole[epoch] for epoch in (2, 3)}
    assert len({tuple(batch[1::3]) for got in whole.values() for batch, _ in got}) > 3, "shuffled anew"


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_of_monai_repeat_with_the_epoch(workers):
    def run(first):
        data = MonaiDataset([torch.zeros(1, 3)] * 4, RandGaussianNoise(prob=1.0))
        return epochs_of(MonaiDataLoader(data, batch_size=2, num_workers=workers), first=first)

    whole = run(1)
    assert whole[1] != whole[2]
    assert run(3)[3] == whole[3]


def test_a_loader_with_its_own_generator_repeats_too():
    def run(first):
        return epochs_of(DataLoader(Epochs(), 2, shuffle=True, generator=torch.Generator()), first=first)

    assert run(3)[3] == run(1)[3]


def test_samplers_are_told_the_epoch():
    told = []
    sampler = SimpleNamespace(set_epoch=told.append)
    loader = SimpleNamespace(dataset=Epochs(), sampler=sampler)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=4), data_loader=loader, set_data=told.append)
    Seeding(0)(engine)
    assert told == [4, loader], "the iterator is made after the epoch is told"
    assert loader.dataset.epoch == 4


def test_persistent_workers_are_refused_where_the_epoch_could_not_reach_them():
    loader = DataLoader(Epochs(), 2, num_workers=1, persistent_workers=True)
    with pytest.raises(InputError, match="persistent_workers"):
        epochs_of(loader)


def test_seeds_differ_by_seed_epoch_and_rank():
    seeds = {epoch_seed(s, e, r) for s in range(4) for e in range(4) for r in range(4)}
    assert len(seeds) == 64
    assert epoch_seed(1, 2, 3) == epoch_seed(1, 2, 3)


def test_the_random_state_comes_back_through_a_file_without_pickle(tmp_path):
    np.random.standard_normal()  # leaves a second number waiting inside numpy
    random.gauss(0, 1)
    torch.save(random_state(), tmp_path / "state.pt")

    def draw():
        return torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()

    first = draw()
    assert draw() != first
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first


def test_ignite_makes_the_loaders_iterator_only_after_the_epochs_start():
    """The order that Seeding relies on for the first epoch; a change in ignite should be noticed here."""
    order = []

    class Loader:
        def __iter__(self):
            order.append("iterator")
            return iter([0])

        def __len__(self):
            return 1

    trainer = Trainer("cpu", 1, Loader(), iteration_update=lambda *_: None, decollate=False)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: order.append("epoch"))
    trainer.run()
    assert order == ["epoch", "iterator"]
