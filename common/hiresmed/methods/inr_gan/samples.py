"""Samples of an implicit generator: which latents, on which grid, into which stores.

Letters: B = batch, C = image channels, D = spatial axes, S = output shape, Z = latent size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ...core.bfloat16 import InferencePrecision
from ...core.tiles import check_region, full_box
from ...core.views import RegionView
from ...core.windows import check_window, rescale
from ..sampling import GeneratedImage, NumberedSamples, sample_affine
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


class FramedSamples(NumberedSamples):
    """NumberedSamples whose images have a place: each also has its "frame".

    Args:
        frame: of the samples.
        latent_size: Z.
        large_size: one more image of the run's first latent, of so many voxels over the trained field of view; None:
            none.
        numbered: see NumberedSamples.
    """

    def __init__(self, frame: Frame, latent_size: int, large_size: Sequence[int] | None = None, **numbered) -> None:
        super().__init__(frame.shape, latent_size, **numbered)
        for sample in self.samples:
            sample["frame"] = frame
        if large_size is not None:
            large = Frame.of(frame.trained, size=large_size)
            number = self.samples[0]["number"]
            self.samples.append({"name": f"large_{number:04d}", "number": number, "shape": large.shape, "frame": large})


class SampleInferer(Inferer):
    """Draws the samples of a block into stores, in one tile's memory; a tensor of latents gives a tensor.

    Args:
        stores: the run's SampleFolder; its `stores(sample, recipe)` gives a sample's pyramids.
        frame: of a tensor's images; samples bring their own.
        trained_spacing: of the trained image in mm, one number or one per axis; it is placed as a picture without
            orientation is.
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
        self.stores = stores
        self.frame = frame
        self.region = region
        self.affine = sample_affine(len(frame.trained), trained_spacing)
        self.window = check_window(window, dtype)
        self.dtype = str(np.dtype(dtype))
        self.how: dict[str, Any] = {"tile_size": tile_size, "places": places, "device": device, "amp": amp}
        self.how["progress"] = progress
        # a mistaken knob shows before any work; what is found out of bfloat16 holds for all cases
        self.precision = ImplicitInferer(frame, **self.how).precision

    def __call__(self, inputs, network, *args, **kwargs):
        """A list of GeneratedImages for a block of SampleBlocks; for latents (B, Z) images (B, C, *S) in [-1, 1]."""
        if torch.is_tensor(inputs):
            return self._inferer(self.frame)(inputs, network)
        latents = inputs["image"]
        return [self._sample(s, latents[s["number"] % len(latents)], network) for s in inputs["samples"]]

    def _sample(self, sample: Mapping, z: Tensor, network) -> GeneratedImage:
        frame = sample["frame"]
        region = check_region(self.region, frame.shape)
        inferer = self._inferer(frame)
        stores = self.stores.stores(sample, self.recipe(frame, z))
        levels = []
        for channel in range(network.out_channels):
            name = "result" if channel == 0 else f"result_{channel}"
            levels += stores.pyramid(
                name, [frame.shape], [1], frame.affine(self.affine), self.dtype, 1.0, [inferer.grid.tile]
            )
        inferer.fill(z, network, levels, self.decode, region)
        idist.barrier()
        if region != full_box(frame.shape):
            levels = [RegionView(level, region) for level in levels]
        return GeneratedImage(levels[0] if len(levels) == 1 else levels, shared=True)

    def _inferer(self, frame: Frame) -> ImplicitInferer:
        inferer = ImplicitInferer(frame, **self.how)
        inferer.precision = self.precision
        return inferer

    def recipe(self, frame: Frame, z: Tensor) -> dict:
        """What the stores of a sample depend on, for the check on resume."""
        return {
            "latent": hashlib.sha256(z.numpy().tobytes()).hexdigest()[:12],
            "frame": [list(map(float, part)) for part in (frame.shape, frame.cells, frame.shift)],
            "window": list(self.window),
            "places": int(self.how["places"]),
            "amp": str(self.how["amp"]),
        }

    def decode(self, values: np.ndarray) -> np.ndarray:
        """[-1, 1] -> the window's units, clipped."""
        return rescale(values, (-1.0, 1.0), self.window)


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
        self.how: dict[str, Any] = {"tile_size": tile_size, "places": places, "amp": amp}
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
