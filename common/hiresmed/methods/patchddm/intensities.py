"""Another scanner: each of a brain's sequences with a contrast, coil field, resolution and noise drawn anew.

MONAI's random intensity transforms treat all channels alike or move the background, which here is exactly -1, and
says where the brain ends. Letters: C = sequences, S = spatial shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from ...core.errors import InputError
from .lesions import BACKGROUND, brain_mask, smooth_noise

KNOTS = 6
GAMMA = 0.3  # greatest logarithm of the tone curve's exponent
LEAST = 1e-3  # of a brain's voxel above the background


class RandScannerd(RandomizableTransform, MapTransform):
    """With a probability, each sequence (C, *S) in [-1, 1] gets another tone curve, field, resolution and noise.

    The tone curve is continuous and rises on the whole, but may fall in between, as the order of two tissues differs
    from protocol to protocol. Afterwards a sequence's 99.9th percentile is 1 again, as NormalizeBraind leaves it. The
    background stays -1, and no voxel of the brain becomes background.

    Args:
        keys: image.
        prob: of a case.
        curve: deviation of the curve's knots, of a range of 1.
        field: greatest deviation of the logarithm of the coil's field.
        noise: greatest deviation of the noise, of a range of 1.
        blur: probability, for each sequence, of a lower resolution along one axis.

    Raises:
        InputError: a negative size.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.8,
        curve: float = 0.06,
        field: float = 0.15,
        noise: float = 0.04,
        blur: float = 0.25,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if min(curve, field, noise, blur) < 0:
            raise InputError(f"curve, field, noise and blur must be at least 0, got {(curve, field, noise, blur)}.")
        self.curve = float(curve)
        self.field = float(field)
        self.noise = float(noise)
        self.blur = float(blur)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict:
        case = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return case
        for key in self.key_iterator(case):
            image = case[key].clone()
            plain = image.as_tensor() if hasattr(image, "as_tensor") else image
            brain = brain_mask(plain)
            if not brain.any():
                continue
            for sequence in plain:
                sequence[brain] = self._seen((sequence + 1) / 2, brain)
                sequence[~brain] = BACKGROUND
            case[key] = image
        return case

    def _seen(self, values: Tensor, brain: Tensor) -> Tensor:
        """One sequence's brain (voxels,) in [-1, 1], from its volume (*S) in [0, 1]."""
        gamma = np.exp(self.R.uniform(-GAMMA, GAMMA))
        knots = torch.from_numpy((np.linspace(0, 1, KNOTS) ** gamma).astype(np.float32))
        knots[1:] += self.curve * torch.from_numpy(self.R.standard_normal(KNOTS - 1).astype(np.float32))
        values = _curve(values, knots)
        if self.R.random_sample() < self.blur:
            values = self._coarser(values)
        strength = self.R.uniform(0, self.field)
        values = values * (strength * smooth_noise(values.shape, 4, self.R)).exp()
        tissue = values[brain]
        seed = int(self.R.randint(2**31))
        noise = torch.randn(len(tissue), generator=torch.Generator().manual_seed(seed))
        tissue = tissue + self.R.uniform(0, self.noise) * noise
        top = torch.quantile(tissue[::5], 0.999).clamp(min=0.05)
        return 2 * (tissue / top).clamp(LEAST, 1) - 1

    def _coarser(self, values: Tensor) -> Tensor:
        axis = self.R.randint(3)
        size = list(values.shape)
        size[axis] = max(2, round(size[axis] / self.R.uniform(1.2, 3.0)))
        low = F.interpolate(values[None, None], size, mode="trilinear", align_corners=False)
        return F.interpolate(low, values.shape, mode="trilinear", align_corners=False)[0, 0]


def _curve(values: Tensor, knots: Tensor) -> Tensor:
    """Values in [0, 1] along the line through evenly spaced knots."""
    place = values.clamp(0, 1) * (len(knots) - 1)
    low = place.floor().clamp(max=len(knots) - 2)
    index = low.long()
    return torch.lerp(knots[index], knots[index + 1], place - low)
