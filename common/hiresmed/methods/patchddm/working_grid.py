"""The grid that a network sees: one orientation, one voxel size, the box around the brain; undone by Invertd.

Letters: C = channels, S = spatial shape of the file, N = that of the working grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform, Orientation, SpatialResample
from torch import Tensor

from ...core.errors import InputError


class WorkingGridd(MapTransform, InvertibleTransform):
    """Images (C, *S) turned to LPS, resampled to one voxel size, cut to what is not background: (C, *N).

    The grids' centres coincide, so at half the resolution a voxel is the mean of eight. MONAI's Spacingd samples every
    other voxel there, or with scale_extent is half a voxel off, and fails under MONAI Label (it updates every key that
    begins with `image_`): so its SpatialResample, with the affine made here.

    Args:
        keys: image first, then labels on the same grid.
        spacing: mm, in every axis; None leaves the image's own.
        crop: cut to the box in which some channel of the image is above `outside`.
        outside: value of the background, that of NormalizeBraind.
        axcodes: orientation of the working grid; BraTS is LPS.

    Raises:
        InputError: a spacing that is not a positive number.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float | None = None,
        crop: bool = True,
        outside: float = -1.0,
        axcodes: str = "LPS",
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if spacing is not None and not (isinstance(spacing, (int, float)) and spacing > 0):
            raise InputError(f"spacing must be a positive number of mm, or null, got {spacing!r}; change it.")
        self.spacing = spacing
        self.crop = crop
        self.outside = outside
        self.orient = Orientation(axcodes=axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))
        self.resample = SpatialResample(mode="bilinear", padding_mode="border")
        self.cut = Crop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        keys = list(self.key_iterator(case))
        for key in keys:
            case[key] = self._resampled(cast(MetaTensor, self.orient(case[key])))
        if self.crop:
            box = self._bounds(case[keys[0]])
            for key in keys:
                case[key] = self.cut(case[key], box)
        return case

    def inverse(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            image = self.cut.inverse(case[key]) if self.crop else case[key]
            image = image if self.spacing is None else self.resample.inverse(image)
            case[key] = self.orient.inverse(image)
        return case

    def _resampled(self, image: MetaTensor) -> Tensor:
        if self.spacing is None:
            return image
        old = image.affine.to(torch.float64)
        voxel = old[:3, :3].norm(dim=0)
        shape = torch.tensor(image.shape[1:], dtype=torch.float64)
        size = (shape * voxel / self.spacing).round().clamp(min=1)
        step = torch.eye(4, dtype=torch.float64)
        step[:3, :3] = torch.diag(self.spacing / voxel)
        step[:3, 3] = (shape - 1) / 2 - step[:3, :3] @ (size - 1) / 2  # centre to centre
        return self.resample(image, dst_affine=old @ step, spatial_size=[int(n) for n in size])

    def _bounds(self, image: MetaTensor) -> tuple[slice, ...]:
        foreground = (image.as_tensor() > self.outside).any(dim=0)
        if not foreground.any():
            return tuple(slice(0, n) for n in foreground.shape)
        lines = [
            foreground.amax(dim=[b for b in range(foreground.ndim) if b != a]).nonzero()[:, 0]
            for a in range(foreground.ndim)
        ]
        return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)
