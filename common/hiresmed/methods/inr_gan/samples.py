"""Samples of an implicit generator: which latents, on which grid, into which stores.

Letters: B = batch, C = image channels, D = spatial axes, S = output shape, Z = latent size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ignite.distributed as idist
import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ...core.bfloat16 import InferencePrecision
from ...core.errors import InputError
from ...core.knobs import whole_number
from ...core.latents import latent_path, latents_of
from ...core.tiles import check_region, whole
from ...core.views import RegionView
from ...core.volumes import Volume, picture_affine
from .implicit import Frame, ImplicitInferer


def output_frame(
    image_size: Sequence[int],
    trained_spacing: Sequence[float] | float = 1.0,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | float | None = None,
    offset: Sequence[float] | float = 0.0,
) -> Frame:
    """Frame.of, as a callable of its own for configs."""
    return Frame.of(image_size, trained_spacing, size, spacing, offset)


def sample_cases(
    frame: Frame,
    latent_size: int,
    num_samples: int = 4,
    seed: int = 0,
    first_sample: int = 0,
    large_size: Sequence[int] | None = None,
    interpolate: int | None = None,
    image: str | None = None,
    dataset_dir: str | None = None,
) -> list[dict]:
    """The run's cases, each {"name", "latent" (Z,), "frame"}.

    Args:
        frame: of the gallery.
        num_samples: of the gallery.
        first_sample: number of the first; each sample is the same whatever others are drawn.
        large_size: one more image of the first sample, of so many voxels over the trained field of view; None: none.
        interpolate: instead of the samples alone so many images on the arc from each to the next; None: no.
        image, dataset_dir: what the other bundles take; refused.

    Raises:
        InputError: an image or dataset_dir; fewer than two samples or steps to interpolate.
    """
    if image is not None or dataset_dir is not None:
        raise InputError(
            f"This bundle draws images from noise and takes none, but {image or dataset_dir} came; leave image and "
            "dataset_dir out (evaluate.yaml compares with the images of dataset_dir)."
        )
    count, first = whole_number(num_samples, "num_samples", 1), whole_number(first_sample, "first_sample")
    seed, numbers = whole_number(seed, "seed"), range(first, first + count)
    latents = latents_of(seed, numbers, latent_size)
    cases = [{"name": f"sample_{first + k:04d}", "latent": z, "frame": frame} for k, z in enumerate(latents)]
    if interpolate is not None:
        steps = whole_number(interpolate, "interpolate", 2)
        if count < 2:
            raise InputError(f"interpolate leads from sample to sample, but num_samples is {count}; give at least 2.")
        places = enumerate(latent_path(seed, numbers, steps - 1, latent_size))
        cases = [{"name": f"step_{k:04d}", "latent": z, "frame": frame} for k, z in places]
    if large_size is not None:
        large = Frame.of(frame.trained, size=large_size)
        cases.append({"name": f"large_{first:04d}", "latent": latents[0], "frame": large})
    return cases


@dataclass
class Sample:
    """What was drawn of one case.

    Attributes:
        image: the generated volume, its region, or one per channel.
        levels: the stores, one per channel.
        whole: the image is all of the frame, not a region.
    """

    image: Volume | list[Volume]
    levels: list[Volume]
    whole: bool = True


class SampleInferer(Inferer):
    """Draws the cases of sample_cases into stores, in one tile's memory; a tensor of latents gives a tensor.

    Args:
        stores: has `stores(case, recipe)`, which gives a case's pyramids.
        frame: of a tensor's images; cases bring their own.
        trained_spacing: of the trained image in mm, one number or one per axis; it lies as a picture without
            orientation does.
        tile_size, places, device, amp, progress: see ImplicitInferer.
        region: box of the output to make, [[first, one-past-last], ...] in voxels; None is all.
        window: stored values of -1 and 1.
        dtype: of the stored values, such as uint16, uint8, int16, float32.
    """

    def __init__(
        self,
        stores,
        frame: Frame,
        trained_spacing: Sequence[float] | float = 1.0,
        tile_size: int | Sequence[int] = 128,
        places: int = 1024,
        region: Sequence[Sequence[int]] | None = None,
        window: Sequence[float] = (0.0, 65535.0),
        dtype: str = "uint16",
        device: torch.device | str = "cpu",
        amp: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.stores, self.frame, self.region = stores, frame, region
        self.affine = sample_affine(len(frame.trained), trained_spacing)
        self.window, self.dtype = checked_window(window, dtype), str(np.dtype(dtype))
        self.how = {"tile_size": tile_size, "places": places, "device": device, "amp": amp, "progress": progress}
        # a mistaken knob shows before any work; what is found out of bfloat16 holds for all cases
        self.precision = ImplicitInferer(frame, **self.how).precision

    def __call__(self, inputs, network, *args, **kwargs):
        """A Sample for a case; for latents (B, Z) images (B, C, *S) in [-1, 1]."""
        if torch.is_tensor(inputs):
            return self._inferer(self.frame)(inputs, network)
        frame = inputs["frame"]
        region = check_region(self.region, frame.shape)
        inferer = self._inferer(frame)
        stores, affine = self.stores.stores(inputs, self.recipe(inputs)), frame.affine(self.affine)
        levels = []
        for channel in range(network.out_channels):
            name = "result" if channel == 0 else f"result_{channel}"
            levels += stores.pyramid(name, [frame.shape], [1], affine, self.dtype, 1.0, [inferer.grid.tile])
        inferer.fill(inputs["latent"], network, levels, self.decode, region)
        idist.barrier()
        everything = region == whole(frame.shape)
        images = levels if everything else [RegionView(level, region) for level in levels]
        return Sample(images[0] if len(images) == 1 else images, levels, everything)

    def _inferer(self, frame: Frame) -> ImplicitInferer:
        inferer = ImplicitInferer(frame, **self.how)
        inferer.precision = self.precision
        return inferer

    def recipe(self, case: Mapping) -> dict:
        """What a case's stores depend on, for the check on resume."""
        frame = case["frame"]
        return {
            "latent": hashlib.sha256(case["latent"].numpy().tobytes()).hexdigest()[:12],
            "frame": [list(map(float, part)) for part in (frame.shape, frame.cells, frame.shift)],
            "window": list(self.window),
            "places": int(self.how["places"]),
            "amp": str(self.how["amp"]),
        }

    def decode(self, values: np.ndarray) -> np.ndarray:
        """[-1, 1] -> the window's units, clipped."""
        low, high = self.window
        return (values.clip(-1, 1) + 1) * ((high - low) / 2) + low


class TiledSampler(nn.Module):
    """z (B, Z) -> images (B, C, *S) at the trained size, tile by tile: for validation, whose memory must not exceed
    training's (the published programs' largest need is their validation at full resolution).

    Args:
        network: the ImplicitGenerator, or the AveragedModel around it.
        frame, tile_size, places, amp: see ImplicitInferer.
    """

    def __init__(self, network: nn.Module, frame: Frame, tile_size: int = 128, places: int = 4096, amp: bool = False):
        super().__init__()
        self.network, self.frame = network, frame
        self.how = {"tile_size": tile_size, "places": places, "amp": amp}
        self.precision: InferencePrecision | None = None  # of the first call's device

    def forward(self, z: Tensor) -> Tensor:
        network = getattr(self.network, "module", self.network)
        training, device = network.training, next(network.parameters()).device
        try:
            inferer = ImplicitInferer(self.frame, device=device, **self.how)
            self.precision = inferer.precision = self.precision or inferer.precision
            # the inferer's tensors are of inference mode, which later metrics may want to change
            return inferer(z, network).clone()
        finally:
            network.train(training)


def sample_affine(dims: int, spacing: Sequence[float] | float) -> np.ndarray:
    """(4, 4) of an image without orientation: rows run to the back, columns to the left, slices up."""
    steps = [spacing] * dims if isinstance(spacing, (int, float)) else list(spacing)
    if len(steps) != dims or any(isinstance(s, bool) or not 0 < float(s) < math.inf for s in steps):
        raise InputError(
            f"trained_spacing should be a positive length in mm, or one for each of {dims} axes, but is {spacing!r}; "
            "change it."
        )
    steps = [float(step) for step in steps]
    return picture_affine(*steps) if dims == 2 else np.diag([*steps, 1.0])


def checked_window(window: Sequence[float], dtype: str) -> tuple[float, float]:
    """Two rising numbers that the dtype can hold."""
    try:
        low, high = (float(v) for v in window)
        kind = np.dtype(dtype)
    except (TypeError, ValueError):
        low, high, kind = 1.0, 0.0, np.dtype("float32")
    held = (
        (low, high) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (1, 0)
    )
    if not held[0] <= low < high <= held[1]:
        raise InputError(
            f"window should be two rising numbers that dtype can hold, but is {window!r} with dtype {dtype!r}; take "
            "[0, 255] with uint8, [0, 65535] with uint16, or a range in HU with int16."
        )
    return low, high
