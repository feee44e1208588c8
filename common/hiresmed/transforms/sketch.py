"""Sketches of an image: the edges from which the multi-scale GAN draws it again.

Gaussian-gradient magnitude x non-maximum suppression x threshold, as in the Canny detector (Canny 1986) without its
hysteresis, which is non-local: finite support, so the sketch of a tile is exactly a crop of the whole sketch. ITK's and
scikit-image's Canny trace edges across the volume, and torch has no edge detector.

Letters: B = batch, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, Transform


class GradientSketch(Transform):
    """Edges of an image in [-1, 1], each with the strength of its step.

    (B, 1, *S + 2 halo) -> (B, 1, *S) in [0, 1]: 0 off the edges, on them sqrt(|gradient| / saturation), at most 1.
    One unit of the image is 1024 HU under the CT window, so the default threshold drops steps under about 50 HU
    and 1000 HU saturate. Always in fixed units, never scaled by the image's own minimum and maximum.

    Args:
        sigma: of the Gaussian, in voxels.
        threshold: smallest gradient magnitude kept, per voxel.
        saturation: gradient magnitude drawn as 1.
        binary: draw every kept edge as 1, as a pencil would (and as the paper does).

    >>> step = torch.sign(torch.linspace(-1, 1, 20)).expand(1, 1, 20, 20)
    >>> sketch = GradientSketch()(step)
    >>> (sketch[0, 0] > 0).sum(1).unique().tolist()
    [1]
    """

    def __init__(
        self, sigma: float = 1.0, threshold: float = 0.02, saturation: float = 0.4, binary: bool = False
    ) -> None:
        self.sigma, self.threshold, self.saturation, self.binary = sigma, threshold, saturation, binary
        self.radius = max(1, math.ceil(3 * sigma))
        self.halo = self.radius + 2

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        smooth = self._smooth(image)
        gradient = [_slope(smooth, axis) for axis in range(2, image.ndim)]
        magnitude = torch.stack(gradient).square_().sum(0).sqrt_()
        sketch = torch.zeros_like(magnitude[_inner(image.ndim)])
        edges = _ridge(magnitude, gradient, self.threshold)
        strength = (magnitude[_inner(image.ndim)][edges] / self.saturation).clamp_(max=1).sqrt_()
        sketch[edges] = torch.ones_like(strength) if self.binary else strength
        return sketch

    def _smooth(self, image: torch.Tensor) -> torch.Tensor:
        """Gaussian smoothing, valid: consumes `radius` voxels a side."""
        at = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (at / self.sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(image)
        for axis in range(2, image.ndim):
            n = image.shape[axis] - 2 * self.radius
            image = sum(w * image.narrow(axis, k, n) for k, w in enumerate(kernel.tolist()))
        return image


class GradientSketchd(MapTransform):
    """Dictionary form of GradientSketch: adds `sketch_key`, of the image's size, from the image of shape (1, *S).

    The image is extended by its faces so that the sketch has its size.
    """

    def __init__(self, keys="image", sketch_key: str = "sketch", allow_missing_keys: bool = False, **sketch) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sketch_key, self.sketch = sketch_key, GradientSketch(**sketch)

    def __call__(self, data):
        data = dict(data)
        for key in self.key_iterator(data):
            image = torch.as_tensor(data[key])[None]
            pads = [self.sketch.halo] * 2 * (image.ndim - 2)
            data[self.sketch_key] = self.sketch(F.pad(image, pads, mode="replicate"))[0]
        return data


def _inner(ndim: int) -> tuple:
    return (...,) + (slice(1, -1),) * (ndim - 2)


def _slope(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Central difference per voxel along one axis; consumes one voxel a side of every axis."""
    n = x.shape[axis]
    difference = (x.narrow(axis, 2, n - 2) - x.narrow(axis, 0, n - 2)) * 0.5
    for other in range(2, x.ndim):
        if other != axis:
            difference = difference.narrow(other, 1, x.shape[other] - 2)
    return difference


def _ridge(magnitude: torch.Tensor, gradient: list[torch.Tensor], threshold: float) -> tuple[torch.Tensor, ...]:
    """Index of the voxels over the threshold that top both neighbours across the edge.

    The neighbours are those of the 3^D block whose direction is nearest the gradient's; of two equal ones the first
    in array order is kept. Only candidates are looked at (one voxel in ten), by element-wise operations alone:
    a matrix product may round by the number of rows, hence by the tile.
    """
    ndim = magnitude.ndim
    at = (magnitude[_inner(ndim)] > threshold).nonzero(as_tuple=True)
    slopes = [g[_inner(ndim)][at] for g in gradient]
    here = magnitude[_inner(ndim)][at]
    best = torch.full_like(here, -1.0)
    ridge = torch.zeros_like(here, dtype=torch.bool)
    for step in itertools.product((-1, 0, 1), repeat=len(gradient)):
        if step <= (0,) * len(step):
            continue  # the opposite direction is the same line
        along = sum(s * g for s, g in zip(step, slopes) if s).abs_() / math.sqrt(sum(s * s for s in step))
        ahead = magnitude[(*at[:2], *[i + 1 + s for i, s in zip(at[2:], step)])]
        behind = magnitude[(*at[:2], *[i + 1 - s for i, s in zip(at[2:], step)])]
        ridge = torch.where(along > best, (here >= ahead) & (here > behind), ridge)
        best = torch.maximum(best, along)
    return tuple(i[ridge] for i in at)
