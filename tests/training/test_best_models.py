"""The best three stay, also over a restart that comes at a bad moment."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.training import BestModels
from ignite.engine import Engine
from torch import nn


def validate(kept: BestModels, values, first: int = 1) -> None:
    engine = Engine(lambda *_: None)
    kept.attach(engine)
    for epoch, value in enumerate(values, first):
        engine.state.metrics = {"distance": value}
        engine.state.key_metric_name = "distance"
        engine.state.epoch = epoch
        kept.saver(engine)


def epochs(folder) -> list[int]:
    return sorted(int(p.name.split("_")[2]) for p in (folder / "best").glob("*.pt"))


def test_the_three_smallest_distances_are_kept_as_flat_weights(tmp_path):
    network = nn.Linear(2, 1)
    validate(BestModels(tmp_path, network, mode="min"), [5.0, 3.0, 4.0, 9.0, 1.0])
    assert epochs(tmp_path) == [2, 3, 5]
    state = torch.load(next((tmp_path / "best").glob("*0005*.pt")), weights_only=True)
    assert torch.equal(state["weight"], network.weight) and set(state) == {"weight", "bias"}


def test_larger_is_better_where_asked_for(tmp_path):
    validate(BestModels(tmp_path, nn.Linear(1, 1), mode="max", count=2), [5.0, 3.0, 4.0])
    assert epochs(tmp_path) == [1, 3]
    with pytest.raises(InputError, match="'min' or 'max'"):
        BestModels(tmp_path, nn.Linear(1, 1), mode="least")


def test_a_resumed_run_goes_on_with_what_was_kept_even_if_a_file_is_gone_already(tmp_path):
    kept = BestModels(tmp_path, nn.Linear(1, 1), mode="min")
    validate(kept, [5.0, 3.0, 4.0])
    state = kept.state_dict()
    torch.save(state, tmp_path / "state.pt")
    validate(kept, [1.0], first=4)  # removes epoch 1, and is killed before the checkpoint
    again = BestModels(tmp_path, nn.Linear(1, 1), mode="min")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    validate(again, [1.0, 2.0], first=4)
    assert epochs(tmp_path) == [2, 4, 5]
