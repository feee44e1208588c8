"""What a discriminator learns of a batch as a whole: how much its images differ.

Letters: B = batch, C = channels, S = spatial shape.
"""

from __future__ import annotations

import torch
from torch import Tensor


def minibatch_deviation(x: Tensor, group_size: int) -> Tensor:
    """One more channel: mean standard deviation over the group of each image (Karras et al. 2018, section 3).

    Groups are neighbours in the batch (StyleGAN2 takes every B/g-th), so that a micro-batch of whole groups has the
    statistics of the whole batch; what is left over at its end is a smaller group.
    """
    shares = []
    for group in x.split(len(x) // group_size * group_size or len(x)):
        grouped = group.reshape(-1, min(group_size, len(group)), *group.shape[1:])
        deviation = (grouped.var(1, unbiased=False) + 1e-8).sqrt().flatten(1).mean(1)
        shares.append(deviation.repeat_interleave(grouped.shape[1]))
    channel = torch.cat(shares).view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)
