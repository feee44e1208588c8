"""The last postprocessing steps of a run that generates from noise: values to store, then files.

Dicts without "samples" are a server's requests (MONAI Label), whose images it writes itself; they pass through.
Letters: B = samples in a block, C = channels, S = spatial shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ...core.errors import InputError
from ...core.tiles import check_region
from ...core.views import RegionView
from ...core.volumes import ArrayVolume, Volume, real_world_cast
from ...core.windows import check_window, rescale
from .sample_folder import SampleFolder
from .samples import GeneratedImage, sample_affine


class StoredSamplesd(MapTransform):
    """A block's images (B, C, *S), on the host, become a list of the GeneratedImages that were wanted of it.

    Args:
        keys: pred.
        output: the run's folder, which gives window, dtype, channels and region. Where it holds grey images, channels
            are averaged.
        value_range: of the network's output, which becomes the ends of the window; values beyond are clipped.

    Raises:
        InputError: a value_range that is not two rising numbers; values that are not finite.
    """

    def __init__(self, keys: KeysCollection, output: SampleFolder, value_range: Sequence[float] = (-1.0, 1.0)) -> None:
        super().__init__(keys)
        self.output = output
        self.value_range = check_window(value_range, "float32", "value_range")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        block = dict(data)
        if "samples" in block:
            for key in self.key_iterator(block):
                images = block[key]
                # a block may begin before the first sample that is wanted
                block[key] = [self._stored(s, images[s["number"] % len(images)]) for s in block["samples"]]
        return block

    def _stored(self, sample: Mapping, image: torch.Tensor) -> GeneratedImage:
        image = image.float()
        if not torch.isfinite(image).all():
            raise InputError(
                f"{sample['name']} must have finite values, got NaN or infinite ones; use other weights, or amp false."
            )
        if self.output.channels == 1:
            image = image.mean(0, keepdim=True)
        values = rescale(image.numpy(), self.value_range, self.output.window)
        stored = real_world_cast(values, np.dtype(self.output.dtype))
        affine = sample_affine(stored.ndim - 1)
        volumes: list[Volume] = [ArrayVolume(channel, affine, sample["name"]) for channel in stored]
        if self.output.region is not None:
            box = check_region(self.output.region, volumes[0].shape)
            volumes = [RegionView(volume, box) for volume in volumes]
        return GeneratedImage(volumes[0] if len(volumes) == 1 else volumes)


class SaveSamplesd(MapTransform):
    """Writes a block's GeneratedImages into the run's folder.

    Args:
        keys: pred.
        output: the run's folder.
    """

    def __init__(self, keys: KeysCollection, output: SampleFolder) -> None:
        super().__init__(keys)
        self.output = output

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        block = dict(data)
        if "samples" in block:
            for key in self.key_iterator(block):
                for sample, generated in zip(block["samples"], block[key]):
                    if not generated.shared or idist.get_rank() == 0:
                        self.output.save(sample, generated.image)
                    if generated.shared:
                        idist.barrier()
        return block
