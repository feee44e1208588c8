"""A set of generated images against a set of real ones, by the features of a network; as a figure to train by, too.

Letters: N = images, C = channels, S = spatial shape, D = feature dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ignite.metrics import Metric
from torch import Tensor

from ..errors import InputError
from .diversity import memorisation, ms_ssim_diversity
from .features import build_extractor, compare_features, extract
from .kernel_distance import kernel_distance
from .prdc import prdc


def planes(image: Tensor) -> list[Tensor]:
    """What a 2-D feature network sees of (C, *S): the image; of a volume its three middle planes."""
    if image.ndim == 3:
        return [image]
    if image.ndim != 4:
        raise InputError(
            f"Feature networks see 2-D and 3-D images, but got {tuple(image.shape)}; leave the metric out."
        )
    return [image.select(axis, image.shape[axis] // 2) for axis in (1, 2, 3)]


class GeneratedSetMetrics:
    """Callable (generated, real) -> kernel and Frechet distance named after the network, precision ..., diversity.

    `nearest_real` tells how near generated images come to the real ones given: copies, where those are the training
    set. All say their N; figures of a few dozen real images are rough.

    Args:
        extractor: of metrics.build_extractor, such as squeezenet; "random" needs no weights and compares nothing.
        nearest_k: of precision, recall, density, coverage; lowered for small sets.
        seed: of subsets and pairs.
    """

    def __init__(self, extractor: str = "squeezenet", nearest_k: int = 5, seed: int = 0) -> None:
        self.extractor, self.nearest_k, self.seed = build_extractor(extractor), nearest_k, seed

    def __call__(self, generated: Sequence[Tensor], real: Sequence[Tensor]) -> dict:
        sides = [
            extract((p for image in images for p in planes(image)), self.extractor) for images in (real, generated)
        ]
        found = compare_features(*sides, self.extractor, seed=self.seed)
        k = min(self.nearest_k, *(len(side) - 1 for side in sides))
        if k >= 1:
            found[f"{self.extractor.name}_prdc"] = prdc(*sides, nearest_k=k)
        found[f"{self.extractor.name}_nearest_real"] = memorisation(sides[1], sides[0])
        if min(real[0].shape[1:]) >= 11 and min(len(generated), len(real)) > 1:
            found["ms_ssim"] = ms_ssim_diversity(generated, real, seed=self.seed)
        return found


class FeatureDistance(Metric):
    """ignite Metric: kernel distance between all predictions and all labels of an evaluation; for choosing a model.

    Updated with (pred, label), each (N, C, *S) in [-1, 1]; lower is better.

    Args:
        extractor: "random" (the default: no weights, comparable within one training only), or squeezenet ...
        output_transform: see ignite.
    """

    def __init__(self, extractor: str = "random", output_transform=lambda x: x) -> None:
        self.extractor = build_extractor(extractor)
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        self._sides: tuple[list, list] = ([], [])

    def update(self, output: Sequence) -> None:
        for side, images in zip(self._sides, output):
            side.append(extract((p for image in images for p in planes(image.detach().cpu())), self.extractor))

    def compute(self) -> float:
        pred, label = (torch.cat(side) for side in self._sides)
        return kernel_distance(label, pred, subsets=20)["value"]
