"""The first postprocessing step of inference: a case's result leaves the device."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform


class ToHostd(MapTransform):
    """Brings a case's tensors to the host's memory, geometry included, before anything inverts, writes or reports them.

    It is the one place where a tensor that a network returned leaves the device: whatever comes after it may call
    `numpy`. MONAI's ToDeviced refuses a key that is no tensor, such as a Rendering, whose tiles are on the disk.

    Args:
        keys: pred, label; missing keys and what is no tensor pass.

    Example:
        >>> ToHostd(["pred", "label"])({"pred": torch.ones(2), "label": None})["pred"].device
        device(type='cpu')
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.keys:
            if torch.is_tensor(case.get(key)):
                case[key] = case[key].detach().cpu()
        return case
