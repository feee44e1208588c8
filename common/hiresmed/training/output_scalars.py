"""The scalars of an engine's output, for loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def scalars(output: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers and 0-dim tensors of a dict output, by name, as floats; one device sync for all of them.

    An `output_transform` for MONAI's TensorBoardStatsHandler and StatsHandler, whose default expects a decollated list.

    >>> scalars({"loss_g": torch.tensor(0.5), "pred": torch.zeros(1, 1, 2, 2)}, prefix="train/")
    {'train/loss_g': 0.5}
    """
    values = {name: v for name, v in output.items() if isinstance(v, (int, float)) or getattr(v, "ndim", None) == 0}
    if not values:
        return {}
    device = next((v.device for v in values.values() if isinstance(v, torch.Tensor)), None)
    numbers = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in values.values()]).tolist()
    return {f"{prefix}{name}": number for name, number in zip(values, numbers)}
