"""Training patches of every scale of every case: what a stage of the cascade sees, cut from pyramids on disk.

A sample is a function of (seed, epoch, index) alone, so a resumed, a parallel and an uninterrupted training see the
same patches. Memory holds patches only; each case's pyramid and sketches are made once, tile by tile, by the very code
that prepares inference.

Letters: T = patch size, h = halo of the stage's network, f = factor between scales, K = coarsest level of a case.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ignite.distributed as idist
import numpy as np
import torch

from ...core.errors import InputError
from ...core.knobs import parse_int
from ...core.receptive_field import ReceptiveField
from ...core.tiles import full_box
from ...core.views import as_canonical
from ...core.volumes import Volume
from ...core.windows import to_unit_range
from ...io.stores import MemoryStores, ZarrStores
from .conditions import Conditions
from .levels import number_of_scales, plan_levels
from .stage_inputs import StageBox, coarse_box, stage_conditions


@dataclass
class PreparedCase:
    """A case's image pyramid and sketches, finest first, the stages it teaches (None: all), how often it is drawn.

    `source` is the path or Volume that the case was made of, where it stands for a whole image.
    """

    images: list[Volume]
    sketches: list[Volume]
    stages: Sequence[int] | None = None
    weight: float = 1.0
    source: str | pathlib.Path | Volume | None = None

    @property
    def coarsest(self) -> int:
        return len(self.images) - 1


def prepare_case(
    volume: Volume, sketcher, encode: Callable, factor: int, base_size: int, folder: pathlib.Path | None
) -> PreparedCase:
    """Pyramid and sketches of one case, in `folder` (made once, reused) or in memory (None).

    A 3-D case has its axes brought to RAS+ order, as at inference. Coarser levels are int16 (CT), or uint16 where the
    volume is.
    """
    volume = as_canonical(volume)
    scales = number_of_scales(volume.shape, base_size, factor)
    fields = [ReceptiveField(0, 1, 0)] * (scales + 1)
    plans = plan_levels(volume.shape, full_box(volume.shape), factor, fields, 128, sketcher.halo)
    stores = MemoryStores(None) if folder is None else ZarrStores(folder, {"shape": list(volume.shape)}, resume=True)
    conditions = Conditions(plans, stores, factor, sketcher, encode, progress=False)
    images = conditions.pyramid("image", volume, "mean", stored_dtype(volume), 1.0)
    return PreparedCase(images, conditions.sketches(images))


def stored_dtype(volume: Volume) -> str:
    """In which a case's values are kept for training."""
    return "uint16" if volume.dtype == np.uint16 else "int16"


class MultiScalePatches(torch.utils.data.Dataset):
    """Samples for all stages of a multi-scale generator; each batch belongs to one stage.

    A sample is a dict: `stage` (int), `image` (1, *T) in [-1, 1], `sketch` (1, *T + 2h), `noise` alike; for the base
    also `coordinates` (D, *T + 2h); for a finer stage `coarse` (1, *(T + 2h) / f + 2), the real image one level down
    with one voxel of margin. With `rollout` the sample holds under `below` what the stage before needs to generate
    that same box: the finer stage then learns on what it will meet, not on real images only.

    Args:
        cases: prepared cases.
        network: the generator (its margins, factor and coordinates are read, nothing else).
        window: values shown as -1 and 1.
        patch_size: T of the finer stages in voxels, rounded to the stage's lattice.
        base_patch: T of the base stage.
        batch_size: global, over all processes.
        iterations: batches an epoch.
        base_share: share of batches that teach the base stage.
        finest_share: among the finer stages, the share that goes to a case's own resolution.
        rollout: share of the finer stages' batches whose coarse image is generated.
        noise: standard deviation of the noise channel, as at inference.
        corruption: largest standard deviation of the noise put on coarse images, in [-1, 1] units.
        seed: of the whole training.
        views: draws random fields of view of a case for the base stage (RandomViews).
        view_share: share of the base stage's samples that are such views; the others show whole cases.

    Raises:
        InputError: no case has the scales that the configuration trains.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        network,
        window: Sequence[float] = (-1024.0, 1024.0),
        patch_size: int = 48,
        base_patch: int = 32,
        batch_size: int = 1,
        iterations: int = 100,
        base_share: float = 0.25,
        finest_share: float = 0.5,
        rollout: float = 0.0,
        corruption: float = 0.03,
        noise: float = 0.1,
        seed: int = 0,
        training: bool = True,
        views: Callable[[PreparedCase, np.random.Generator], PreparedCase] | None = None,
        view_share: float = 0.0,
    ) -> None:
        self.cases = list(cases)
        self.sources = [case.source for case in self.cases]
        self.views = views
        self.view_share = _share(view_share)
        self.window = window
        self.spatial_dims = network.spatial_dims
        self.factor = network.factor
        self.coordinates = network.coordinates
        self.per_scale = len(network.stages) > 1
        self.fields = [ReceptiveField(n.margin, n.factor, n.margin) for n in (network.stage(0), network.stage(1))]
        self.patch_size = parse_int(patch_size, "patch_size", least=1)
        self.base_patch = parse_int(base_patch, "base_patch", least=1)
        self.batch_size = batch_size
        self.iterations = iterations
        self.base_share = base_share
        self.finest_share = finest_share
        self.rollout = rollout
        self.corruption = corruption
        self.noise = float(noise)
        self.seed = seed
        self.training = training
        self.epoch = 0
        self.per_rank = max(1, batch_size // idist.get_world_size())
        self.teaching = {
            kind: [c for c in self.cases if (c.stages is None or kind in c.stages) and (kind == 0 or c.coarsest > 0)]
            for kind in (0, 1)
        }
        for kind, share in ((0, base_share), (1, 1 - base_share)):
            if share > 0 and not self.teaching[kind]:
                raise InputError(
                    f"training the {'finer stages' if kind else 'base'} must have at least one case that teaches "
                    f"them (larger than base_size), but none of {len(self.cases)} does; lower base_size or base_share."
                )

    def __len__(self) -> int:
        return self.iterations * self.per_rank

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches: called by the seeding handler at each epoch's start."""
        self.epoch = epoch if self.training else 0

    def __getitem__(self, index: int) -> dict:
        batch, place = divmod(index, self.per_rank)
        chance = self._chance(batch, 0xFFFF)
        finer = chance.random() >= self.base_share
        rolled = finer and chance.random() < self.rollout
        cases = self.teaching[int(finer)]
        stage = 0
        if finer and self.per_scale:  # stages with weights of their own do not share a batch
            stage = int(chance.integers(1, max(c.coarsest for c in cases) + 1))
            cases = [c for c in cases if c.coarsest >= stage]
        chance = self._chance(batch, idist.get_rank() * self.per_rank + place)
        case = _drawn(cases, chance)
        if not finer and self.views is not None and self._shows_views() and chance.random() < self.view_share:
            case = self.views(case, chance)
        level = self._level(case, chance) if finer and not stage else case.coarsest - stage
        return self._sample(case, level, rolled, chance)

    def _shows_views(self) -> bool:
        return self.training and self.views is not None and self.view_share > 0

    def _chance(self, batch: int, place: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, (self.epoch << 40) | (batch << 16) | place]))

    def _level(self, case: PreparedCase, chance: np.random.Generator) -> int:
        if case.coarsest == 1 or chance.random() < self.finest_share:
            return 0
        return int(chance.integers(1, case.coarsest))

    def _sample(self, case: PreparedCase, level: int, rolled: bool, chance: np.random.Generator) -> dict:
        stage = case.coarsest - level
        size, field = (self.base_patch, self.fields[0]) if stage == 0 else (self.patch_size, self.fields[1])
        size = size // field.alignment * field.alignment
        for _ in range(4):  # a patch of mere air teaches little
            start = [
                int(chance.integers(-(size // 4), max(1, n - 3 * size // 4))) // field.alignment * field.alignment
                if n > size
                else -((size - n) // 2) // field.alignment * field.alignment
                for n in case.images[level].shape
            ]
            image = self._image(case, level, start, [size] * self.spatial_dims)
            if image.std() > 0.05:
                break
        sample = {"stage": stage, "image": image[None]} | self._conditions(case, level, start, size, chance)
        if rolled and stage > 0:
            sample["below"] = self._below(case, level, start, size, chance)
        return self._flipped(sample, chance) if self.training else sample

    def _conditions(self, case: PreparedCase, level: int, start, size: int, chance: np.random.Generator) -> dict:
        """Sketch, noise and coarse image (or coordinates) around the box `start`, `size` of a level."""
        stage = case.coarsest - level
        dims = self.spatial_dims
        halo = self.fields[min(stage, 1)].halo
        outer = [s - halo for s in start]
        shape = [size + 2 * halo] * dims
        sketch = torch.as_tensor(case.sketches[level].read_extended(outer, shape), dtype=torch.float32)
        noise = self.noise * torch.from_numpy(chance.standard_normal((1, *shape), dtype=np.float32))

        def read_coarser(low: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
            coarse = self._image(case, level + 1, low, extent)
            if self.training and self.corruption > 0:
                strength = float(chance.uniform(0, self.corruption))
                coarse = coarse + strength * torch.from_numpy(chance.standard_normal(coarse.shape, dtype=np.float32))
            return coarse[None]

        image = case.images[level]
        box = StageBox(stage, outer, shape, image.shape, image.affine)
        return stage_conditions(box, sketch[None], noise, read_coarser, self.factor, self.coordinates)

    def _below(self, case: PreparedCase, level: int, start, size: int, chance: np.random.Generator) -> dict:
        """What the stage before needs to generate this sample's coarse box.

        With `offset`, where in its output that box begins, and `inside`, which part of its output lies in the volume:
        beyond, inference goes on with the face's value.
        """
        halo = self.fields[1].halo
        low, extent = coarse_box([s - halo for s in start], [size + 2 * halo] * self.spatial_dims, self.factor)
        step = self.fields[min(case.coarsest - level - 1, 1)].alignment
        first = [v // step * step for v in low]
        whole_size = -(-(extent[0] + step - 1) // step) * step
        shape = case.images[level + 1].shape
        place = {
            "stage": case.coarsest - level - 1,
            "offset": [v - a for v, a in zip(low, first)],
            "inside": [(max(0, -a), min(n - a, whole_size)) for a, n in zip(first, shape)],
        }
        return place | self._conditions(case, level + 1, first, whole_size, chance)

    def _image(self, case: PreparedCase, level: int, start, shape) -> torch.Tensor:
        values = np.asarray(case.images[level].read_extended(start, shape), dtype=np.float32)
        return torch.from_numpy(to_unit_range(values, self.window))

    def _flipped(self, sample: dict, chance: np.random.Generator) -> dict:
        """Mirror all arrays along random axes; coordinates move with their voxels, so left stays left."""
        if "below" in sample:
            return sample  # its boxes are not centred on one another
        axes = [d + 1 for d in range(self.spatial_dims) if chance.random() < 0.5]
        return {k: v.flip(axes) if torch.is_tensor(v) and axes else v for k, v in sample.items()}

    @staticmethod
    def collate(samples: Sequence[Mapping]) -> dict:
        """Batch of samples of one kind (all base or all finer): tensors stacked, all else listed.

        What the stages before need (`below`) differs in shape from sample to sample and stays a list.
        """
        keys = samples[0].keys()
        return {k: torch.stack(v) if torch.is_tensor(v[0]) else v for k in keys for v in [[s[k] for s in samples]]}


def _drawn(cases: Sequence[PreparedCase], chance: np.random.Generator) -> PreparedCase:
    """One of the cases, each as often as its weight says."""
    weights = np.array([case.weight for case in cases])
    if (weights == weights[0]).all():
        return cases[int(chance.integers(len(cases)))]
    return cases[int(np.searchsorted(weights.cumsum(), chance.random() * weights.sum(), side="right"))]


def _share(share) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise InputError(f"base_views must be a share from 0 to 1, got {share!r}; change it.")
    return float(share)
