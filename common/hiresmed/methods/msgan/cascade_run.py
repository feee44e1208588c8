"""One case on its way through the cascade: conditions first, then level by level, each in one tile's memory.

Letters: S = spatial shape, k = level (0 the finest); stage s = number of scales - k.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, cast

import ignite.distributed as idist
import numpy as np
import torch

from ...core.errors import InputError
from ...core.noise import place_noise
from ...core.receptive_field import receptive_field_of
from ...core.tiles import Box, check_region, check_size, full_box
from ...core.views import RegionView, ResampledView, TurnedView, as_canonical
from ...core.volumes import Volume
from .conditions import Conditions, SketchVolume, shared_tiles
from .filling import FilledView
from .levels import number_of_scales, plan_levels
from .means import EnlargedView, with_block_means
from .stage_inputs import StageBox, stage_conditions, stage_input

if TYPE_CHECKING:
    from .cascade import CascadeInferer

_AIR_AROUND = 0.25  # share of a whole body's sides, at least


@dataclass
class Rendering:
    """What a cascade made of one case.

    Attributes:
        image: the generated volume (the region of it), in the window's units.
        sketch: the sketch it was drawn from, same grid.
        source: the real image on the same grid, or None where only a sketch came.
        levels: all levels of the generated pyramid, finest first.
        network_seconds: time spent inside the networks.
        whole: the image is all of level 0, not a region.
    """

    image: Volume
    sketch: Volume
    source: Volume | None
    levels: list[Volume] = field(default_factory=list)
    network_seconds: float = 0.0
    whole: bool = True


class CascadeRun:
    """One case on its way through the cascade.

    A 3-D case is drawn with its axes in RAS+ order, as in training, however its file stores it; `size` and `region` are
    in the file's order, and so is the result.
    """

    def __init__(self, inferer: CascadeInferer, stores, case: dict, network) -> None:
        self.inferer = inferer
        self.stores = stores
        self.network = network
        self.air_told = bool(case.get("air_told"))  # by the check of the image's kind
        source = case.get("image") or case.get("sketch")
        if source is None:
            raise InputError("A case must have an image or a sketch, got neither; give --image or --sketch.")
        self.grid = source.shape if inferer.size is None else check_size(inferer.size, len(source.shape))
        upright = as_canonical(source)
        self.turned = None if upright is source else cast(TurnedView, upright)
        self.shape = self.grid if self.turned is None else tuple(self.grid[axis] for axis in self.turned.axes)
        self.image, self.sketch, self.mask = (self._fitted(case.get(k)) for k in ("image", "sketch", "mask"))
        for name, volume in (("sketch", self.sketch), ("mask", self.mask)):
            if volume is not None and self.image is not None:
                _check_place(name, volume, self.image)
        if self.sketch is not None:
            self.sketch = SketchVolume.of(self.sketch, inferer.sketcher.kind)
        leading = self.image if self.sketch is None else self.image or self.sketch
        assert leading is not None, "the case has one of the two"
        self.affine = leading.affine
        self.name = leading.name
        if self.image is None and (self.mask is not None or inferer.first_image == "real"):
            raise InputError("inpainting and super-resolution must have an image, got only a sketch; give --image.")
        # outside the mask the image itself; under it nothing of the image is left to draw itself again
        self.visible: Volume | None = self.image
        if self.image is not None and self.mask is not None:
            self.visible = FilledView(self.image, self.mask, sum(inferer.window) / 2)
        self.starts_real = inferer.first_image == "real" and (self.mask is None or self.sketch is None)
        self.keeps_means = self.starts_real and self.mask is None
        self._plan()
        if self.keeps_means and case["image"].shape != self.grid:
            self.image = self.visible = self._enlarged(as_canonical(case["image"]))

    def _enlarged(self, given: Volume) -> Volume | None:
        """The image on the output's grid: with its own means where that is a power of the factor finer."""
        ratio = self.shape[0] / given.shape[0]
        doublings = round(math.log(ratio, self.factor))
        if doublings < self.scales or self.shape != tuple(n * self.factor**doublings for n in given.shape):
            return self.visible
        for _ in range(doublings):
            given = EnlargedView(given, self.factor, self.inferer.window)
        return given

    def _fitted(self, volume: Volume | None) -> Volume | None:
        """A volume of the case on the grid of the output, in RAS+ order."""
        if volume is None:
            return None
        volume = as_canonical(volume)
        return volume if self.inferer.size is None or volume.shape == self.shape else ResampledView(volume, self.shape)

    def _plan(self) -> None:
        inferer = self.inferer
        dims = len(self.shape)
        if dims != self.network.spatial_dims:
            kind = {2: "a 2-D image, or one slice", 3: "a 3-D volume of more than one slice"}
            raise InputError(
                f"{self.name} must be {kind[self.network.spatial_dims]}, got shape {tuple(self.shape)}; give another "
                "image, or use another bundle."
            )
        kind = inferer.sketcher.kind
        if kind != self.network.sketch_kind:
            raise InputError(
                "sketcher must be of the kind that the network was trained with, "
                f"{self.network.sketch_kind}, got {kind}; change sketch_kind."
            )
        self.factor = self.network.factor
        scales = inferer.num_scales
        self.scales = number_of_scales(self.shape, inferer.base_size, self.factor) if scales is None else scales
        networks = [self.network.stage(self.scales - k) for k in range(self.scales + 1)]
        self.fields = [receptive_field_of(n, n.in_channels, dims) for n in networks]
        region = check_region(inferer.region, self.grid)
        self.region: Box = region if self.turned is None else self.turned.turned_box(region, self.grid)
        halo = inferer.sketcher.halo if self.image is not None else 0
        self.plans = plan_levels(self.shape, self.region, self.factor, self.fields, inferer.tile_size, halo)

    def run(self) -> Rendering:
        """Conditions first, then every level from the coarsest to the finest."""
        inferer = self.inferer
        conditions = Conditions(
            self.plans, self.stores, self.factor, inferer.sketcher, inferer.encode, inferer.progress
        )
        self.images = self._pyramid(conditions, "image", self.visible, "mean", inferer.dtype, 1.0)
        if self.images is not None and self.inferer.air is not None and not (self.starts_real or self.air_told):
            self._warn_where_unfamiliar(self.images[-1], self.inferer.air)
        self.masks = self._pyramid(conditions, "mask", self.mask, "max", "uint8", 1.0)
        if self.sketch is not None:
            self.sketches = conditions.pyramid("sketch", self.sketch, "strongest", "uint8", 1 / 255)
        else:
            assert self.images is not None, "without a sketch there is an image"
            self.sketches = conditions.sketches(self.images)
        self.levels = self.stores.pyramid(
            "result",
            [p.shape for p in self.plans],
            [p.scale for p in self.plans],
            self.affine,
            inferer.dtype,
            1.0,
            [p.grid.tile for p in self.plans],
        )
        before = inferer.tiled.network_seconds
        for k in range(self.scales, -1, -1):
            self._make_level(k)
            idist.barrier()
        return self._rendering(inferer.tiled.network_seconds - before)

    def _pyramid(self, conditions: Conditions, name: str, volume: Volume | None, *how) -> list[Volume] | None:
        return None if volume is None else conditions.pyramid(name, volume, *how)

    def _rendering(self, seconds: float) -> Rendering:
        everything = self.region == full_box(self.shape)

        def seen(volume: Volume) -> Volume:
            volume = volume if everything else RegionView(volume, self.region)
            return volume if self.turned is None else self.turned.back(volume)

        image = seen(self.levels[0])
        sketch = seen(self.sketches[0])
        source = None if self.image is None else seen(self.image)
        return Rendering(image, sketch, source, self.levels, seconds, everything)

    def _make_level(self, k: int) -> None:
        plan = self.plans[k]
        level = self.levels[k]
        stage = self.scales - k
        numbers = list(shared_tiles(plan.grid, plan.image, level))
        if stage == 0 and self.starts_real:
            for number in numbers:
                start = plan.grid.start(number)
                inside = plan.grid.inside(number)
                level.write(start, self._real(k, start, inside))
                level.mark(number)
            return

        def write(number: int, tile: torch.Tensor) -> None:
            start = plan.grid.start(number)
            values = self.inferer.decode(tile[0, 0].float().numpy() if self.inferer.tiled.amp else tile[0, 0].numpy())
            if self.keeps_means:
                values = self._with_means(k, start, values)
            level.write(start, self._keep_outside_mask(k, start, values))
            level.mark(number)

        network = self.network.stage(stage)
        title = f"stage {stage + 1} of {self.scales + 1}, {' x '.join(map(str, plan.shape))}"
        self.inferer.tiled.run(
            network, lambda start, shape: self._read(k, start, shape), write, plan.grid, self.fields[k], numbers, title
        )

    def _read(self, k: int, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """A stage's input for one box, which may lie beyond the volume: (1, C, *shape)."""
        stage = self.scales - k
        plan = self.plans[k]
        noise = torch.from_numpy(place_noise(self.inferer.seed, start, shape, stream=stage))[None]
        noise *= self.inferer.noise
        sketch = torch.from_numpy(self.sketches[k].read_extended(start, shape))[None]
        dtype = next(self.network.parameters()).dtype

        def read_coarser(low: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
            return torch.from_numpy(self.inferer.encode(self.levels[k + 1].read_extended(low, extent)))[None]

        box = StageBox(stage, start, shape, plan.shape, self.affine)
        coordinates = self.network.coordinates
        conditions = stage_conditions(box, sketch, noise, read_coarser, self.factor, coordinates, dtype)
        batch = {name: values[None] for name, values in conditions.items()}
        return stage_input(batch, self.factor, start, dtype)

    def _warn_where_unfamiliar(self, coarsest: Volume, air: float) -> None:
        """Says what the base stage has hardly seen: an image without air around it, or without air at all."""
        if self.plans[-1].source != full_box(coarsest.shape) or idist.get_rank() > 0:
            return  # of a region no more may have been read
        values = coarsest.read([0] * len(coarsest.shape), coarsest.shape)
        # a scan ends in the body above and below
        sides = np.concatenate([values.take(index, axis).ravel() for axis in (0, 1) for index in (0, -1)])
        around = float(np.mean(sides < air))
        lowest = float(values.min())
        if lowest > (3 * air + self.inferer.window[1]) / 4:
            what = f"{self.name} has no value near air ({air:g}), its lowest at the coarsest scale is {lowest:.0f}"
            warnings.warn(f"{what}: the result's grey levels mean nothing if it is not a CT in HU.", stacklevel=2)
        elif around < _AIR_AROUND:
            what = f"{self.name} has air along {around:.0%} of its sides only, as a crop from inside a body"
            warnings.warn(f"{what}: expect twice the error of a whole body, and bone that is too dark.", stacklevel=2)

    def _with_means(self, k: int, start: Sequence[int], values: np.ndarray) -> np.ndarray:
        """A tile with the means of the level above it, which keeps those of the input."""
        cells = [-(-n // self.factor) for n in values.shape]
        means = self.levels[k + 1].read([s // self.factor for s in start], cells)
        return with_block_means(values, means, self.factor, self.inferer.window, self.levels[k].dtype)

    def _real(self, k: int, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        assert self.images is not None
        a, b = self.inferer.window
        return self.images[k].read(start, shape).clip(a, b)

    def _keep_outside_mask(self, k: int, start: Sequence[int], values: np.ndarray) -> np.ndarray:
        if self.masks is None:
            return values
        return np.where(self.masks[k].read(start, values.shape) > 0, values, self._real(k, start, values.shape))


def _check_place(name: str, volume: Volume, image: Volume) -> None:
    """Refuses a sketch or mask that does not lie voxel by voxel where the image lies.

    Pictures are compared by their shape alone: few of them say where they lie.
    """
    if volume.shape != image.shape:
        raise InputError(
            f"The {name} must have the image's {image.shape} voxels (right, forward, up in 3-D), got {volume.shape}; "
            "save it on the image's grid."
        )
    if len(image.shape) != 3:
        return
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in image.shape))))
    shift = ends @ (volume.affine - image.affine)[:3, :3].T + (volume.affine - image.affine)[:3, 3]
    apart = float(np.linalg.norm(shift, axis=1).max())
    if apart > 0.5 * min(image.spacing):
        raise InputError(
            f"The {name} must lie where the image lies, got {volume.name} with a corner {apart:.1f} mm from that of "
            f"{image.name}; resample it to the image's grid, or save it with the image's affine if that is its place."
        )
