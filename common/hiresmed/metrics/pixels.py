"""Features without a network: where an image is bright, and how much detail it has there.

For runs without any weights; they measure neither shapes nor anatomy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .extractor import FeatureExtractor

GRID = 8  # cells a side


class PixelFeatures(FeatureExtractor):
    """`pixels`: mean grey of 8 x 8 cells, and the strength of details of 1, 2 and 4 pixels in each, of 64 x 64 pixels.

    No weights and no seed; figures may be compared with one another, not with any network's.
    """

    name = "pixels"
    dim = 4 * GRID**2
    input_size = 64
    preprocessing = "grey"

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def features(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.mean(1, keepdim=True)
        maps = [F.adaptive_avg_pool2d(grey, GRID)]
        for _ in range(3):
            coarse = F.avg_pool2d(grey, 2)
            detail = grey - F.interpolate(coarse, scale_factor=2, mode="nearest")
            # the root weighs details like grey values; their squares would hardly count
            maps.append(F.adaptive_avg_pool2d(detail.square(), GRID).clamp(min=1e-12).sqrt())
            grey = coarse
        # mean square 1 or so, as the cubic kernel's offset of 1 presumes
        return torch.cat([m.flatten(1) for m in maps], 1) * 2
