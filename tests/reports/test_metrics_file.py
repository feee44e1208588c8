"""An evaluation without any truth is refused before work; where some cases have none, that is said."""

from __future__ import annotations

import logging

import pytest
from hiresmed.core.errors import InputError
from hiresmed.reports.metrics_file import MetricsFile
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset


def check(cases: list[dict]) -> None:
    """What happens when a run over these cases starts; nothing of them is read."""
    engine = Engine(lambda engine, batch: None)
    MetricsFile("nowhere", {}, "by hand", truth="label").attach(engine)
    engine.state.dataloader = DataLoader(Dataset(cases))
    engine.fire_event(Events.STARTED)


def test_without_any_truth_nothing_is_worked_on():
    cases = [{"name": "a", "image": "a.nii"}, {"name": "b", "image": ["b.nii"]}]
    with pytest.raises(
        InputError, match=r"must have the label of a case, got none for a and the other 1; give --label"
    ):
        check(cases)


def test_cases_without_it_are_named_among_others(caplog):
    with caplog.at_level(logging.WARNING):
        check([{"name": "a", "image": "a.nii", "label": "s.nii"}, {"name": "b", "image": "b.nii"}])
    assert "1 of 2 cases have no label and are not scored, such as b." in caplog.text


def test_what_is_made_on_the_spot_brings_its_truth():
    check([{"name": "phantom", "image": object()}])
