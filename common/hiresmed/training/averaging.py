"""Exponential moving average of a network's weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.distributed import unwrap
from ..core.knobs import parse_share


def averaged_model(network: nn.Module, decay: float = 0.999) -> AveragedModel:
    """torch's AveragedModel with w_ema <- decay w_ema + (1 - decay) w; its first update copies the weights.

    Args:
        network: plain or wrapped for several processes; the plain one is averaged.
        decay: per generator step; the average looks back about 1 / (1 - decay) steps.

    Raises:
        InputError: a decay that is no number from 0 to 1.
    """
    decay = parse_share(decay, "ema_decay")
    return AveragedModel(unwrap(network), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
