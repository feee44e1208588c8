"""All figures of a generated image against the image from whose sketch it was generated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..core.errors import InputError
from .boxes import as_readable_pair
from .extractor import FeatureExtractor
from .features import build_extractor, compare_features, slice_features
from .image_similarity import image_quality
from .seams import seam_z
from .spectrum import spectral_distance


class ReconstructionMetrics:
    """Callable (result, truth) -> dict: fidelity, texture, seams and, with a feature network, perceptual distances.

    Pixel figures alone reward blur; the spectrum and the feature distances show whether the texture is there.

    Args:
        window: (low, high) in the image's units to which both are clipped.
        tile_size: T of the rendering in voxels, for seam_z.
        extractor: name of a feature network whose weights are in $HIRESMED_WEIGHTS (say, "squeezenet"); "none": none.
        patch: side of the square crops of slices that are its input, in voxels.
        every: every n-th slice along each axis.
    """

    def __init__(
        self,
        window: Sequence[float] = (-1000.0, 600.0),
        tile_size: int = 128,
        extractor: str | None = "squeezenet",
        patch: int = 64,
        every: int = 4,
    ) -> None:
        self.window = (float(window[0]), float(window[1]))
        self.tile_size = tile_size
        if extractor in ("none", "null"):  # a command line can only send text
            extractor = None
        self.extractor = None if extractor is None else build_extractor(extractor)
        self.patch = patch
        self.every = every

    def __call__(self, result, truth) -> dict:
        """The figures, JSON-able, each with its settings.

        Raises:
            InputError: the two do not have the same shape.
        """
        result, truth = as_readable_pair(result, truth)
        figures: dict = dict(image_quality(result, truth, self.window))
        box = min(64, *result.shape) // 2 * 2  # the spectrum wants an even number
        if box >= 16:
            figures["spectral_distance"] = spectral_distance(result, truth, box=box)
        figures["seam_z"] = seam_z(result, self.tile_size)
        figures["seam_z_of_truth"] = seam_z(truth, self.tile_size)
        if self.extractor is not None:
            figures |= self.feature_distances([result], [truth])
        return figures

    def feature_distances(self, results: Sequence, truths: Sequence) -> dict:
        """Kernel and Frechet distance between all crops of the results and all crops of the truths.

        The kernel distance's standard error is over images; of one image there is none.
        """
        if self.extractor is None:
            raise InputError("feature distances must have an extractor, got none; set extractor to squeezenet.")
        sides = [[self._features(v, self.extractor) for v in volumes] for volumes in (truths, results)]
        groups = [[n for n, crops in enumerate(side) for _ in crops] for side in sides]  # crops of an image are alike
        real, generated = (torch.from_numpy(np.concatenate(side)) for side in sides)
        return compare_features(real, generated, self.extractor, *groups) | {
            "slices": {"patch": self.patch, "every": self.every, "window": list(self.window)}
        }

    def _features(self, volume, extractor: FeatureExtractor) -> np.ndarray:
        """Features of slices along the axes whose slices hold a crop; along the last axis where none does."""
        shape = volume.shape
        axes = [a for a in range(len(shape)) if min(n for b, n in enumerate(shape) if b != a) >= self.patch]
        axes = axes or [len(shape) - 1]
        return slice_features(volume, extractor, self.window, axes, self.every, self.patch).numpy()
