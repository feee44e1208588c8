"""Where an implicit generator is trained: the sparse grid, the crop and the latents of each stage.

Lee et al. 2022 (arXiv:2207.01395): the first stage sees the whole image on a sparse grid, later ones random crops of
denser grids, all with the same number of places. The other ways to train are lists of one stage: image-based and exact
[(S, S)], patch-based [(S, P)].

Letters: N = batch, C = channels, D = spatial axes, S = image shape, G = a stage's grid, P = its patch, Z = latent size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.coordinates import patch_coordinates
from ...core.errors import InputError
from ...training.batches import GanBatch, batch_tensor


@dataclass(frozen=True)
class Stage:
    """One stage: patches of P voxels at random places of a grid of G voxels over the whole image.

    Attributes:
        grid: G; the image shape for full resolution.
        patch: P; the grid itself for whole images.
        ratio: voxels of this grid per voxel of the stage before, along each axis; None for the first.
    """

    grid: tuple[int, ...]
    patch: tuple[int, ...]
    ratio: tuple[int, ...] | None = None

    def starts(self, count: int) -> list[tuple[int, ...]]:
        """First voxels of `count` random patches, from torch's CPU generator: whole voxels of the stage before.

        An odd start would lie half a coarse voxel beside the image that it is compared with.
        """
        steps = self.ratio or (1,) * len(self.grid)
        axes = [step * torch.randint((g - p) // step + 1, (count,)) for g, p, step in zip(self.grid, self.patch, steps)]
        return [tuple(map(int, start)) for start in zip(*axes)]

    def coordinates(self, starts: Sequence[Sequence[int]]) -> Tensor:
        """Coordinates (N, D, *P) of these patches; (1, D, *P) where a patch is the whole grid."""
        if self.patch == self.grid:
            starts = starts[:1]
        return torch.stack([patch_coordinates(start, self.patch, self.grid) for start in starts])

    def coarse_coordinates(self, starts: Sequence[Sequence[int]]) -> Tensor:
        """The same patches on the grid of the stage before: (N, D, *P / ratio), no voxel more than needed."""
        assert self.ratio is not None
        grid, patch = (_divided(shape, self.ratio) for shape in (self.grid, self.patch))
        below = Stage(grid, patch)
        return below.coordinates([_divided(start, self.ratio) for start in starts])

    def crops(self, images: Tensor, starts: Sequence[Sequence[int]]) -> Tensor:
        """Patches (N, C, *P) of whole images (N, C, *S), which are first brought to the grid by the means of areas."""
        if tuple(images.shape[2:]) != self.grid:
            images = F.interpolate(images, size=self.grid, mode="area")
        boxes = ([slice(s, s + p) for s, p in zip(start, self.patch)] for start in starts)
        return torch.stack([image[(slice(None), *box)] for image, box in zip(images, boxes)])


def read_stages(stages: Sequence[Sequence]) -> list[Stage]:
    """Stages from pairs (grid, patch), each shape one number per axis, coarsest grid first.

    >>> [s.ratio for s in read_stages([([64, 32], [64, 32]), ([128, 64], [64, 32])])]
    [None, (2, 2)]

    Raises:
        InputError: shapes that are not positive whole numbers, a patch beyond its grid, a grid that is no whole
            multiple of the one before, or a patch that is no whole number of its voxels.
    """
    if not stages:
        raise InputError("stages must list at least one pair (grid, patch), got nothing; add one.")
    checked: list[Stage] = []
    for number, pair in enumerate(stages, start=1):
        try:
            grid, patch = (tuple(int(n) for n in shape) for shape in pair)
        except (TypeError, ValueError):
            grid = ()
            patch = ()
        if not grid or len(grid) != len(patch) or any(not 1 <= p <= g for g, p in zip(grid, patch)):
            raise InputError(
                f"Stage {number} must be a pair (grid, patch) of shapes with one voxel count per axis, the patch "
                f"inside the grid, got {pair}; correct it."
            )
        ratio = None
        if checked:
            below = checked[-1].grid
            divides = len(below) == len(grid) and all(g % b == 0 for g, b in zip(grid, below))
            ratio = _divided(grid, below) if divides else None
            if ratio is None or any(p % r for p, r in zip(patch, ratio)):
                raise InputError(
                    f"Stage {number} must have a grid and a patch that are whole multiples of the grid before, "
                    f"{below}, got {grid} and {patch}; double the grid from stage to stage and keep patches even."
                )
        checked.append(Stage(grid, patch, ratio))
    return checked


class StageBatch:
    """prepare_batch of one stage: G gets (coordinates, z); D sees the real patch of the same place.

    With `previous`, batch.targets["patch_consistency"] is what that network draws there, from the same z, on its own
    coarser grid: computed without gradient on those voxels alone (a quarter of the patch's in 2-D).

    Args:
        stages: pairs (grid, patch); see read_stages.
        stage: which of them, from 1.
        latent_size: Z; z is N(0, 1) from torch's generator of the device.
        previous: the frozen (averaged) generator of the stage before, on the device; None: no patch regularisation.
        real: key of the real image (N, C, *S), of at least the grid's size.
    """

    def __init__(
        self,
        stages: Sequence[Sequence],
        stage: int,
        latent_size: int,
        previous: nn.Module | None = None,
        real: str = "image",
    ) -> None:
        known = read_stages(stages)
        if not 1 <= stage <= len(known):
            raise InputError(f"stage must be a number from 1 to {len(known)}, got {stage}; change it.")
        self.stage = known[stage - 1]
        self.latent_size = latent_size
        self.real = real
        self.previous = previous
        if previous is not None and self.stage.ratio is None:
            raise InputError("previous must be None in the first stage, got a generator; leave it out.")

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False) -> GanBatch:
        images = batch_tensor(batchdata, self.real, device, non_blocking)
        self._check(images)
        starts = self.stage.starts(len(images))
        z = torch.randn(len(images), self.latent_size, device=device, dtype=images.dtype)
        coordinates = self.stage.coordinates(starts).to(images)
        real = self.stage.crops(images, starts)
        return GanBatch((coordinates, z), real, targets=self._targets(starts, z))

    def _targets(self, starts: list[tuple[int, ...]], z: Tensor) -> dict[str, Tensor]:
        if self.previous is None:
            return {}
        self.previous.eval()
        with torch.no_grad():
            return {"patch_consistency": self.previous(self.stage.coarse_coordinates(starts).to(z), z)}

    def _check(self, images: Tensor) -> None:
        shape = images.shape[2:]
        grid = self.stage.grid
        if len(shape) != len(grid) or math.prod(shape) == 0 or any(n < g for n, g in zip(shape, grid)):
            raise InputError(
                f"Stage images must have at least the {grid} voxels of the stage's grid, got "
                f"{tuple(shape)}; resample them, or choose smaller grids in `stages`."
            )


def _divided(shape: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    return tuple(n // m for n, m in zip(shape, by))
