"""Whole cases through MONAI's SupervisedEvaluator: one dict a batch, volumes that stay on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def single_case(samples: Sequence[Mapping]) -> Mapping:
    """collate_fn: the one case of the batch, as it is (volumes on disk have no batch axis)."""
    assert len(samples) == 1, "cases are worked on one at a time"
    return samples[0]


def case_batch(batchdata: Mapping, device, non_blocking: bool = False, **kwargs) -> tuple:
    """prepare_batch: the case is the network's input; there is no label."""
    return batchdata, None
