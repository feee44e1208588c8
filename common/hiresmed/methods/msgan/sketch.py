"""Sketches of an image: the edges from which the multi-scale GAN draws it again.

Gaussian-gradient magnitude x non-maximum suppression x threshold, as in the Canny detector (Canny 1986) without its
hysteresis, which is non-local: finite support, so the sketch of a tile is exactly a crop of the whole sketch. ITK's and
scikit-image's Canny trace edges across the volume, and torch has no edge detector.

Letters: B = batch, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

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
        self.sigma = sigma
        self.threshold = threshold
        self.saturation = saturation
        self.binary = binary
        self.radius = max(1, math.ceil(3 * sigma))
        self.halo = self.radius + 2

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        smooth = self._smooth(image.contiguous())
        gradient = [_slope(smooth, axis) for axis in range(2, image.ndim)]
        magnitude = gradient[0].square()
        for slope in gradient[1:]:
            magnitude += slope.square()
        magnitude.sqrt_()
        edges, strength = _ridge(magnitude, gradient, self.threshold)
        drawn = torch.ones_like(strength) if self.binary else (strength / self.saturation).clamp_(max=1).sqrt_()
        sketch = torch.zeros_like(magnitude)
        sketch.view(-1)[edges] = drawn
        return sketch[_inner(image.ndim)]

    def _smooth(self, image: torch.Tensor) -> torch.Tensor:
        """Gaussian smoothing, valid: consumes `radius` voxels a side."""
        at = torch.arange(-self.radius, 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (at / self.sigma) ** 2)
        weights = (weights / (2 * weights.sum() - 1)).to(image).tolist()
        # products and sums apart: one fused operation rounds otherwise at the end of a row, hence by the tile
        for axis in range(2, image.ndim):
            n = image.shape[axis] - 2 * self.radius
            smooth = image.narrow(axis, self.radius, n) * weights[-1]
            pair = torch.empty_like(smooth)
            for k, weight in enumerate(weights[:-1]):
                torch.add(image.narrow(axis, k, n), image.narrow(axis, 2 * self.radius - k, n), out=pair)
                smooth += pair.mul_(weight)
            image = smooth.contiguous()
        return image


class GradientSketchd(MapTransform):
    """Dictionary form of GradientSketch: adds `sketch_key`, of the image's size, from the image of shape (1, *S).

    The image is extended by its faces so that the sketch has its size.
    """

    def __init__(self, keys="image", sketch_key: str = "sketch", allow_missing_keys: bool = False, **sketch) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sketch_key = sketch_key
        self.sketch = GradientSketch(**sketch)

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
    for other in range(2, x.ndim):
        if other != axis:
            x = x.narrow(other, 1, x.shape[other] - 2)
    n = x.shape[axis] - 2
    return ((x.narrow(axis, 2, n) - x.narrow(axis, 0, n)) * 0.5).contiguous()


def _ridge(magnitude: torch.Tensor, gradient: list[torch.Tensor], threshold: float) -> tuple[torch.Tensor, ...]:
    """Flat index and magnitude of the inner voxels over the threshold that top both neighbours across the edge.

    The neighbours are those of the 3^D block whose direction is nearest the gradient's; of two equal ones the first
    in array order is kept. Only candidates are looked at, by element-wise operations alone: a matrix product may
    round by the number of rows, hence by the tile.
    """
    over = magnitude > threshold
    for axis in range(2, over.ndim):
        over.select(axis, 0).zero_()
        over.select(axis, -1).zero_()
    at = over.view(-1).nonzero()[:, 0]
    flat = magnitude.view(-1)
    here = flat[at]
    across = _nearest_neighbour([g.view(-1)[at] for g in gradient], magnitude.stride()[2:])
    ridge = (here >= flat.take(at + across)) & (here > flat.take(at - across))
    return at[ridge], here[ridge]


def _nearest_neighbour(slopes: list[torch.Tensor], strides: tuple[int, ...]) -> torch.Tensor:
    """Flat step, forward in array order, to the neighbour whose direction is nearest the line of the gradient.

    Of the neighbours with k non-zero steps the nearest one goes along the k largest slopes; its cosine with the
    gradient is their sum / sqrt(k), so the 3^D - 1 directions need not be tried one by one.
    """
    sizes = [slope.abs() for slope in slopes]
    ordered = list(sizes)
    for last in range(len(ordered) - 1, 0, -1):  # an exchange sort of two or three tensors, the largest first
        for k in range(last):
            a = ordered[k]
            b = ordered[k + 1]
            ordered[k], ordered[k + 1] = torch.maximum(a, b), torch.minimum(a, b)
    least = ordered[0]
    best = ordered[0]
    total = ordered[0]
    for k, size in enumerate(ordered[1:], start=2):
        total = total + size
        cosine = total * (1 / math.sqrt(k))
        least = torch.where(cosine > best, size, least)
        best = torch.maximum(cosine, best)
    step = torch.zeros_like(least, dtype=torch.int64)
    for slope, size, stride in zip(slopes, sizes, strides):
        step += torch.where(size >= least, slope.sign(), 0).long() * stride
    return step.abs_()
