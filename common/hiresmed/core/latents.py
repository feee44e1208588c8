"""Latents that depend on the seed and the image's number alone, and paths between them.

Image 17 of a seed is the same whether four or ten thousand are made, by any number of processes, in any order.

Letters: N = number of images, Z = latent size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .errors import InputError
from .knobs import parse_int
from .noise import place_noise

STREAM = 0x1A7E17  # a noise stream of their own, independent of other noise of the same seed


def latents_of(seed: int, numbers: Sequence[int], size: int) -> torch.Tensor:
    """z (N, Z) of N(0, 1), float32: row n is a function of (seed, numbers[n]) alone.

    >>> bool((latents_of(3, [5, 9], 8)[1] == latents_of(3, range(10), 8)[9]).all())
    True
    """
    rows = [place_noise(seed, (int(n), 0), (1, size), STREAM) for n in numbers]
    return torch.from_numpy(np.concatenate(rows) if rows else np.zeros((0, size), np.float32))


def slerp(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation from a (Z,) to b (Z,) (White 2016, arXiv:1609.04468, section 2.1); share from 0 to 1.

    A straight line would pass nearer to the origin than normal latents of many dimensions ever are.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if angle < 1e-6:
        return torch.lerp(a, b, share)
    weighted = torch.sin((1 - share) * angle) * a.double() + torch.sin(share * angle) * b.double()
    return (weighted / torch.sin(angle)).to(a.dtype)


def latent_path(seed: int, stations: Sequence[int], steps: int, size: int) -> torch.Tensor:
    """z (1 + (K - 1) x steps, Z): spherical interpolation between K numbered latents, ends included.

    Args:
        seed: of the latents.
        stations: numbers of the K latents.
        steps: from one to the next.
        size: Z.

    Raises:
        InputError: for fewer than two stations, or no step between them.
    """
    named = isinstance(stations, Sequence) and not isinstance(stations, str)
    numbers = [parse_int(n, "interpolate") for n in stations] if named else []
    if len(numbers) < 2:
        raise InputError(
            f"interpolate must be the numbers of at least two samples, got {stations!r}; write [0, 1], for example."
        )
    steps = parse_int(steps, "steps", least=1)
    ends = latents_of(seed, numbers, size)
    points = [
        ends[k] if s == 0 else slerp(ends[k], ends[k + 1], s / steps)
        for k in range(len(ends) - 1)
        for s in range(steps)
    ]
    return torch.stack([*points, ends[-1]])
