"""A generator's kernel or Frechet distance as an ignite metric, for validation during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ignite.distributed as idist
import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from monai.handlers import from_engine

from ..core.errors import InputError
from .features import build_extractor
from .mmd import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .neighbourhoods import FeatureReservoir
from .planes import middle_planes

KINDS = ("kernel_distance", "frechet_distance")


class FeatureDistance(Metric):
    """Distance of generated from real images over an epoch's batches, each (B, 1 or 3, *S).

    Volumes are represented by their three middle planes. If each process takes every world-size-th image
    (datasets.ImageSet(share=True)), the result does not depend on the number of processes beyond float rounding in the
    moments. ignite's FID keeps all features in memory.

    Args:
        extractor: by name, see build_extractor.
        kind: kernel_distance (unbiased, for few images) or frechet_distance.
        value_range: of the images; they are scaled to [-1, 1] for the extractor.
        size: number of features kept for the kernel distance.
        device: of the extractor.
        options: the extractor's own.
        output_transform: an engine's output -> (generated images, real images); None: its "pred" and "label".

    Raises InputError for another kind, or missing weights.
    """

    def __init__(
        self,
        extractor: str = "pixels",
        kind: str = "kernel_distance",
        value_range: Sequence[float] = (-1.0, 1.0),
        size: int = 5000,
        device: str | torch.device = "cpu",
        options: dict | None = None,
        output_transform: Callable | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"metric must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them.")
        self.kind = kind
        self.size = size
        self.low, self.high = (float(v) for v in value_range)
        self.extractor = build_extractor(extractor, **(options or {})).to(device)
        super().__init__(output_transform=output_transform or from_engine(["pred", "label"]), device="cpu")

    @reinit__is_reduced
    def reset(self) -> None:
        dim = self.extractor.dim
        self._kept = [FeatureReservoir(dim, self.size) for _ in range(2)]
        self._moments = [FeatureMoments(dim) for _ in range(2)]

    @reinit__is_reduced
    def update(self, output: Sequence[torch.Tensor]) -> None:
        device = next((t.device for t in self.extractor.parameters()), torch.device("cpu"))
        for images, reservoir, moments in zip(output, self._kept, self._moments):
            grey = (images.detach().to(device).float() - self.low) * (2 / (self.high - self.low)) - 1
            plane_features = [self.extractor(plane) for plane in middle_planes(grey, grey.ndim - 2)]
            features = torch.stack(plane_features, 1).flatten(0, 1)
            each = len(plane_features)
            world = idist.get_world_size()
            if self.kind == "frechet_distance":
                moments.update(features)
            else:
                first = reservoir.n // each * world + idist.get_rank()
                numbers = range(first, first + world * len(grey), world)
                reservoir.update(features, [n * each + k for n in numbers for k in range(each)])

    def compute(self) -> float:
        if self.kind == "frechet_distance":
            of_generated, of_real = (m.all_reduce() for m in self._moments)
            return frechet_distance(of_real, of_generated)
        generated, real = (r.all_gather() for r in self._kept)
        if generated.n == 0:
            raise NotComputableError("the metric got no image")
        return kernel_distance(real.features, generated.features)["value"]
