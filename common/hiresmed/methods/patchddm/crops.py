"""Random crops that know where they lie: image, label, and the crop's coordinates in the padded reference grid.

Letters: N = the grid's size along an axis, n = the crop's, F = N - n: the crop may begin at 0 ... F.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, SpatialCrop, SpatialPad
from monai.transforms.traits import MultiSampleTrait
from monai.utils import ensure_tuple_rep

from ...core.coordinates import patch_coordinates
from ...core.errors import InputError

LAWS = ("trapezoid", "uniform", "foreground")
BACKGROUND = -1.0  # of an image in [-1, 1]


def trapezoid_start(free: int, random: np.random.RandomState) -> int:
    """Where a crop begins along one axis by PatchDDM's law, 0 ... F: the middle is more likely than the borders.

    The paper has N = 256, n = 128: U{0 ... 32} + U{0 ... 96}. For any F: U{0 ... a} + U{0 ... F - a}, a = F // 4, which
    is the paper's at F = 128 and keeps the trapezoid's proportions at every other size.
    """
    a = free // 4
    return int(random.randint(0, a + 1) + random.randint(0, free - a + 1))


class CoordinateCropd(Randomizable, MapTransform, MultiSampleTrait):
    """Random crops of a case, each a dict with the crop's coordinates (D, *n) float32 under `coords_key`.

    MONAI's AddCoordinateChannels restarts on the crop; here the coordinates are the crop's of the whole grid's, made
    from its place alone (hiresmed.core.coordinates), whatever the grid's size. Seeded by set_random_state.

    Args:
        keys: image and label, (C, *S) each on the same grid; the first one defines it.
        patch_size: n per axis, or one number for all.
        num_samples: crops per loaded volume (a list of so many dicts is returned, as MONAI's crops do).
        law: trapezoid (the paper's), uniform (over 0 ... F), or foreground: a share of the crops is centred on a
            random voxel of the label that is not 0, as far as the grid allows; the others, and all of an empty label,
            follow the trapezoid.
        label_key: the label that `foreground` looks at, any number of channels.
        foreground_share: that share, [0, 1].
        convention: of the coordinates: centre (default), endpoint (the paper's) or corner; None: no coordinates.
        coords_key: where the coordinates go; the crop's first voxel goes to "crop_start".
        reference_size: N is at least this, one number or one per axis; None: N is S. A label is padded with 0, an image
            with -1, its background.

    Raises:
        InputError: an unknown law, a bad share or number; a patch larger than the grid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int] | int,
        num_samples: int = 1,
        law: str = "trapezoid",
        label_key: str = "label",
        foreground_share: float = 0.5,
        convention: str | None = "centre",
        coords_key: str = "coords",
        reference_size: Sequence[int] | int | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        if law not in LAWS:
            raise InputError(f"law must be one of {', '.join(LAWS)}, got {law!r}; choose one of them.")
        if not 0 <= foreground_share <= 1:
            raise InputError(f"foreground_share must lie between 0 and 1, got {foreground_share}; change it.")
        if num_samples < 1:
            raise InputError(f"num_samples must be at least 1, got {num_samples}; change it.")
        self.patch_size = patch_size
        self.num_samples = int(num_samples)
        self.law = law
        self.label_key = label_key
        self.foreground_share = foreground_share
        self.convention = convention
        self.coords_key = coords_key
        self.reference_size = reference_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> list[dict]:
        if self.reference_size is not None:
            data = dict(data)
            for key in self.key_iterator(data):
                pad = SpatialPad(self.reference_size, value=0 if key == self.label_key else BACKGROUND)
                data[key] = pad(data[key])
        grid = tuple(data[self.first_key(dict(data))].shape[1:])
        size = self._size(grid)
        tumour = self._tumour(data) if self.law == "foreground" else None
        crops = []
        for _ in range(self.num_samples):
            start = self._start(grid, size, tumour)
            crop = {key: value for key, value in data.items() if key not in self.keys}
            cut = SpatialCrop(roi_start=start, roi_end=[s + n for s, n in zip(start, size)])
            for key in self.key_iterator(dict(data)):
                # a view would keep the whole volume alive, and a worker would send it
                crop[key] = cut(data[key]).clone()
            if self.convention is not None:
                crop[self.coords_key] = patch_coordinates(start, size, grid, self.convention)
            crop["crop_start"] = torch.tensor(start)
            crops.append(crop)
        return crops

    def _size(self, grid: Sequence[int]) -> tuple[int, ...]:
        size = ensure_tuple_rep(self.patch_size, len(grid))
        if any(n < 1 or n > N for n, N in zip(size, grid)):
            raise InputError(
                f"patch_size must fit into the padded grid {tuple(grid)}, got {tuple(size)}; lower it or pad more."
            )
        return size

    def _start(self, grid: Sequence[int], size: Sequence[int], tumour: torch.Tensor | None) -> list[int]:
        free = [N - n for N, n in zip(grid, size)]
        if self.law == "uniform":
            return [int(self.R.randint(0, f + 1)) for f in free]
        if tumour is not None and self.R.random_sample() < self.foreground_share and len(tumour):
            centre = np.unravel_index(int(tumour[self.R.randint(len(tumour))]), grid)
            return [min(max(int(c) - n // 2, 0), f) for c, n, f in zip(centre, size, free)]
        return [trapezoid_start(f, self.R) for f in free]

    def _tumour(self, data: Mapping[Hashable, torch.Tensor]) -> torch.Tensor:
        """Flat indices of the label's voxels that are not 0 in any channel."""
        label = torch.as_tensor(data[self.label_key])
        return (label > 0).any(dim=0).flatten().nonzero()[:, 0]
