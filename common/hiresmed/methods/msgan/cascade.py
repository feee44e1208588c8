"""The multi-scale cascade in one tile's memory: each stage reads the level below it and its sketch, writes its tiles.

Uzunova et al. 2019 (arXiv:1907.01376), made exact: every stage, the coarsest too, is a network of finite receptive
field run by ExactTiledInferer between levels of a pyramid, so neither the GPU nor the host ever holds a volume.

Letters: S = spatial shape, D = spatial axes, k = level (0 the finest), K = coarsest level; stage s = K - k.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.inferers import Inferer

from ...core.errors import InputError
from ...core.exact_tiling import ExactTiledInferer
from ...core.knobs import parse_int
from ...core.pyramids import MemoryStores
from ...core.volumes import ArrayVolume, Volume, content_digest
from ...core.windows import to_unit_range
from .cascade_run import CascadeRun


class CascadeInferer(Inferer):
    """Draws an image from a sketch, scale by scale, tile by tile.

    Called with a tensor (1, 1, *S), in the window's units, it returns a tensor (1, 1, *S); called with volumes it
    streams and returns a Rendering. Both go through the same code.

    Args:
        sketcher: draws the sketch of an image; see Conditions.
        stores: has `stores(case, recipe)`, giving the pyramids of a case (tensors are always held in memory).
        tile_size: T in voxels.
        base_size: the base stage's image has at most this many voxels an axis.
        num_scales: how many times the base is enlarged; None: as often as `base_size` asks.
        window: values shown as -1 and 1, for CT in HU.
        dtype: of the stored image.
        seed: of the place-bound noise.
        noise: its standard deviation; 0 leaves it out.
        first_image: "generated" by the base stage, or "real": the coarsest level is the input image, coarsened, and
            the cascade only adds detail. Without a mask (super-resolution) every level keeps the means of the level
            above it, so the result has the input's. With a mask (inpainting) it is the image filled in from around the
            mask; with a sketch of its own the base stage makes it all the same, for the sketch knows more.
        air: an image whose border is mostly not below this value is warned about: a body cut off on all sides, or not
            the kind of image that the weights know; None, or a case with "air_told": no image is.
        size: output grid; None is the input's own.
        region: box of the output to make, [[first, one-past-last], ...] in voxels; None is all.
        device, amp, progress: see ExactTiledInferer.
    """

    def __init__(
        self,
        sketcher,
        stores,
        tile_size: int | Sequence[int] = 128,
        base_size: int = 32,
        num_scales: int | None = None,
        window: Sequence[float] = (-1024.0, 1024.0),
        dtype: str = "int16",
        seed: int = 0,
        noise: float = 0.1,
        first_image: str = "generated",
        air: float | None = None,
        size: Sequence[int] | None = None,
        region: Sequence[Sequence[int]] | None = None,
        device: torch.device | str = "cpu",
        amp: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__()
        if first_image not in ("generated", "real"):
            raise InputError(f"first_image must be generated or real, got {first_image!r}; choose one of the two.")
        self.sketcher = sketcher
        self.stores = stores
        self.tile_size = tile_size
        self.base_size = parse_int(base_size, "base_size", 1)
        self.num_scales = num_scales
        if num_scales is not None:
            self.num_scales = parse_int(num_scales, "num_scales")
        self.window = _increasing(window)
        self.dtype = dtype
        self.seed = parse_int(seed, "seed")
        self.noise = _not_negative(noise)
        self.first_image = first_image
        self.air = air
        self.size = size
        self.region = region
        self.progress = progress
        self.tiled = ExactTiledInferer(tile_size, device, amp, progress)

    def __call__(self, inputs, network, *args, **kwargs):
        """A tensor for a tensor, a Rendering for a volume or a mapping of volumes (image, sketch, mask)."""
        if torch.is_tensor(inputs):
            return self._on_tensor(inputs, network)
        case = dict(inputs) if isinstance(inputs, Mapping) else {"image": inputs}
        case.setdefault("name", getattr(case.get("image") or case.get("sketch"), "name", "case"))
        return CascadeRun(self, self.stores.stores(case, self.recipe(case)), case, network).run()

    def recipe(self, case: Mapping) -> dict:
        """What a case's pyramids depend on, for the check on resume."""
        inputs = {k: [v.name, list(v.shape), content_digest(v)] for k, v in case.items() if isinstance(v, Volume)}
        names = ("base_size", "num_scales", "window", "dtype", "seed", "noise", "first_image", "size")
        settings = {n: getattr(self, n) for n in names}
        if self.sketcher.kind != "edges":
            settings["sketch_kind"] = self.sketcher.kind
        return json.loads(json.dumps({"inputs": inputs, **settings, "amp": self.tiled.amp}))

    def _on_tensor(self, inputs: torch.Tensor, network) -> torch.Tensor:
        outputs = []
        for image in inputs:
            if image.shape[0] != 1:
                raise InputError(f"the cascade must have an image of one channel, got {image.shape[0]}; choose one.")
            array = image[0].detach().cpu().numpy()
            stores = MemoryStores(str(array.dtype) if np.issubdtype(array.dtype, np.floating) else "float32")
            affine = np.asarray(getattr(image, "affine", np.eye(4)), dtype=np.float64)
            case = {"image": ArrayVolume(array, affine), "air_told": getattr(image, "meta", {}).get("air_told")}
            rendered = CascadeRun(self, stores, case, network).run().image
            outputs.append(torch.from_numpy(rendered.read([0] * len(rendered.shape), rendered.shape))[None])
        return torch.stack(outputs).to(inputs.device)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Window's units -> [-1, 1], clipped; float32 unless the values are float64."""
        return to_unit_range(values, self.window)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """[-1, 1] -> the window's units, clipped."""
        a, b = self.window
        values = values.clip(-1, 1)
        values += 1
        values *= (b - a) / 2
        values += a
        return values


def _not_negative(noise) -> float:
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
        raise InputError(f"noise must be a strength from 0 on, got {noise!r}; change it.")
    return float(noise)


def _increasing(window) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high < math.inf or low == -math.inf:
        raise InputError(f"window must be two increasing numbers, shown as -1 and 1, got {window!r}.")
    return low, high
