"""Sketches of an image: the edges from which the multi-scale GAN draws it again.

Gaussian-gradient magnitude x non-maximum suppression x threshold, as in the Canny detector (Canny 1986) without its
hysteresis, which is non-local: finite support, so the sketch of a tile is exactly a crop of the whole sketch. ITK's and
scikit-image's Canny trace edges across the volume, and torch has no edge detector.

Letters: B = batch, D = spatial axes, S = spatial shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, Transform

from ...core.knobs import parse_choice


class Sketcher(Protocol):
    """(B, 1, *S + 2 halo) image in [-1, 1] -> (B, 1, *S) sketch in [0, 1].

    Attributes:
        kind: the sketch's name in configs (`sketch_kind`).
        empty: its value where nothing is drawn.
        halo: voxels of image that it reads around each of its voxels.
    """

    kind: str
    empty: float
    halo: int

    def __call__(self, image: torch.Tensor) -> torch.Tensor: ...


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

    Attributes: see Sketcher.

    >>> step = torch.sign(torch.linspace(-1, 1, 20)).expand(1, 1, 20, 20)
    >>> sketch = GradientSketch()(step)
    >>> (sketch[0, 0] > 0).sum(1).unique().tolist()
    [1]
    """

    kind = "edges"
    empty = 0.0

    def __init__(
        self, sigma: float = 1.0, threshold: float = 0.02, saturation: float = 0.4, binary: bool = False
    ) -> None:
        self.sigma = sigma
        self.threshold = threshold
        self.saturation = saturation
        self.binary = binary
        self.halo = _radius(sigma) + 2

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        smooth = _smooth(image.contiguous(), self.sigma)
        gradient = [_slope(smooth, axis) for axis in range(2, image.ndim)]
        magnitude = gradient[0].square()
        for slope in gradient[1:]:
            magnitude += slope.square()
        magnitude.sqrt_()
        edges, strength = _ridge(magnitude, gradient, self.threshold)
        values = torch.ones_like(strength) if self.binary else (strength / self.saturation).clamp_(max=1).sqrt_()
        sketch = torch.zeros_like(magnitude)
        sketch.view(-1)[edges] = values
        return sketch[_inner(image.ndim)]


class SignedSketch(Transform):
    """Both sides of each edge of an image in [-1, 1]: bright on its bright side, dark on its dark side.

    (B, 1, *S + 2 halo) -> (B, 1, *S) in [0, 1]: 128/255 where there is no edge, from there up or down by
    sqrt(|d| / saturation) / 2, at most 127/255, where d is the difference of two Gaussians (Marr and Hildreth 1980).
    An edge of GradientSketch does not say which of its sides is tissue, which a network of finite receptive field
    cannot infer everywhere; this one does, and its support is finite, too. All values are those of 8 bits but for
    rounding, so that the sketch of the negative is the negative of the sketch.

    Args:
        sigmas: of the two Gaussians, in voxels, the narrow one first.
        threshold: smallest |d| that is kept. .03 keeps steps of .15 on, 150 HU under the CT window, and narrower
            structures from less.
        saturation: |d| drawn as the strongest: .4 is a step of 2.

    Attributes: see Sketcher.

    >>> step = torch.sign(torch.linspace(-1, 1, 20)).expand(1, 1, 20, 20)
    >>> [round(v) for v in (SignedSketch()(step)[0, 0, 0] * 255).tolist()]
    [73, 37, 1, 18, 238, 255, 219, 183]
    """

    kind = "signed"
    empty = 128 / 255

    def __init__(
        self, sigmas: tuple[float, float] = (0.8, 2.0), threshold: float = 0.03, saturation: float = 0.4
    ) -> None:
        self.sigmas = sigmas
        self.threshold = threshold
        self.saturation = saturation
        self.halo = max(map(_radius, sigmas))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        image = image.contiguous()
        narrow, wide = (_smooth(_cut(image, self.halo - _radius(s)), s) for s in self.sigmas)
        difference = narrow.sub_(wide)
        strength = (difference.abs() / self.saturation).clamp_(max=1).sqrt_()
        strength[difference.abs() < self.threshold] = 0
        return (strength.mul_(difference.sign()) * (127 / 255)).add_(self.empty)


def sketcher_of(kind: str, edges: Mapping | None = None, signed: Mapping | None = None) -> Sketcher:
    """The sketch that the knob `sketch_kind` names.

    Args:
        kind: edges (GradientSketch) or signed (SignedSketch). Weights serve the kind that they were trained with.
        edges, signed: further arguments of the one that is chosen.

    Raises:
        InputError: another kind.

    >>> sketcher_of("edges", edges={"sigma": 2.0}).halo, sketcher_of("signed").halo
    (8, 6)
    """
    sketch, options = parse_choice(
        {"edges": (GradientSketch, edges), "signed": (SignedSketch, signed)}, kind, "sketch_kind"
    )
    return sketch(**(options or {}))


class GradientSketchd(MapTransform):
    """Dictionary form of both sketches: adds `sketch_key`, of the image's size, from the image of shape (1, *S).

    The image is extended by its faces so that the sketch has its size.

    Args:
        kind: see sketcher_of.
        sketch: arguments of that sketch.
    """

    def __init__(
        self,
        keys="image",
        sketch_key: str = "sketch",
        allow_missing_keys: bool = False,
        kind: str = "edges",
        **sketch,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sketch_key = sketch_key
        self.sketch = sketcher_of(kind, edges=sketch, signed=sketch)

    def __call__(self, data):
        data = dict(data)
        for key in self.key_iterator(data):
            data[self.sketch_key] = sketch_of_whole(torch.as_tensor(data[key])[None], self.sketch)[0]
        return data


def sketch_of_whole(image: torch.Tensor, sketcher) -> torch.Tensor:
    """Sketch of an image (B, 1, *S), of its size: the image is extended by its faces."""
    pads = [sketcher.halo] * 2 * (image.ndim - 2)
    return sketcher(F.pad(image, pads, mode="replicate"))


def _radius(sigma: float) -> int:
    """Voxels from its middle at which a Gaussian is cut off."""
    return max(1, math.ceil(3 * sigma))


def _smooth(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian smoothing, valid: consumes `_radius(sigma)` voxels a side."""
    radius = _radius(sigma)
    at = torch.arange(-radius, 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    shares = (weights / (2 * weights.sum() - 1)).to(image).tolist()
    # products and sums apart: one fused operation rounds otherwise at the end of a row, hence by the tile
    for axis in range(2, image.ndim):
        n = image.shape[axis] - 2 * radius
        smooth = image.narrow(axis, radius, n) * shares[-1]
        pair = torch.empty_like(smooth)
        for k, weight in enumerate(shares[:-1]):
            torch.add(image.narrow(axis, k, n), image.narrow(axis, 2 * radius - k, n), out=pair)
            smooth += pair.mul_(weight)
        image = smooth.contiguous()
    return image


def _cut(image: torch.Tensor, margin: int) -> torch.Tensor:
    """Without `margin` voxels a side."""
    for axis in range(2, image.ndim):
        image = image.narrow(axis, margin, image.shape[axis] - 2 * margin)
    return image.contiguous()


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
