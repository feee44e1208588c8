"""Features of images: extractors by name, and slices of volumes as images (2.5-D).

Letters: S = spatial shape (D, H, W) or (H, W), B = batch, N = number of slices or patches, D = feature dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError
from .boxes import Readable, as_readable, read_float64
from .extractor import FeatureExtractor
from .inception import InceptionKeras, InceptionTf2015, InceptionTorchvision
from .mmd import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .neighbourhoods import prdc
from .pixels import PixelFeatures
from .resnet import MedicalNetFeatures, ResNet50Features
from .squeezenet import SqueezeNetFeatures


class RandomFeatures(FeatureExtractor):
    """`random`: a seeded, untrained network of four strided convolutions, for tests; its figures cannot be compared."""

    name = "random"
    dim = 64
    input_size = 64
    preprocessing = "none"
    comparable = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = (3, 16, 32, 64, 64)
            convs = [nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in itertools.pairwise(widths)]
        self.network = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.LeakyReLU(0.2))))
        self.eval().requires_grad_(False)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).mean((2, 3))


EXTRACTORS: dict[str, Callable[..., FeatureExtractor]] = {
    "inception_v3_keras": InceptionKeras,
    "inception_v3_tf2015": InceptionTf2015,
    "inception_v3_torchvision": InceptionTorchvision,
    "medicalnet_resnet10": partial(MedicalNetFeatures, 10),
    "medicalnet_resnet50": partial(MedicalNetFeatures, 50),
    "resnet50": ResNet50Features,
    "squeezenet": SqueezeNetFeatures,
    "pixels": PixelFeatures,
    "random": RandomFeatures,
}


def build_extractor(name: str, **options) -> FeatureExtractor:
    """The extractor of that name; options are its own (`weights`, `sha256`, `seed`).

    Example:
        >>> build_extractor("random", seed=3)(torch.zeros(2, 1, 40, 50)).shape
        torch.Size([2, 64])
    """
    if name not in EXTRACTORS:
        raise InputError(f"extractor must be one of {', '.join(sorted(EXTRACTORS))}, got {name!r}; choose one of them.")
    return EXTRACTORS[name](**options)


def _planes(image: Readable, axes: Sequence[int], every: int) -> Iterator[np.ndarray]:
    if len(image.shape) == 2:
        yield read_float64(image, (0, 0), image.shape)
        return
    for axis in axes:
        n = image.shape[axis]
        for k in range((n - 1) % every // 2, n, every):
            start = [0, 0, 0]
            shape = list(image.shape)
            start[axis], shape[axis] = k, 1
            yield read_float64(image, start, shape).squeeze(axis)


def _patches(plane: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
    """Crops of size x size side by side, centred on the plane; the whole plane where size is None."""
    if size is None:
        yield plane
        return
    counts = [n // size for n in plane.shape]
    first = [(n - c * size) // 2 for n, c in zip(plane.shape, counts)]
    for i in range(counts[0]):
        for j in range(counts[1]):
            y = first[0] + i * size
            x = first[1] + j * size
            yield plane[y : y + size, x : x + size]


def slice_images(
    volume, window: tuple[float, float], axes: Sequence[int] = (0, 1, 2), every: int = 1, patch: int | None = None
) -> Iterator[torch.Tensor]:
    """Slices along each axis (the image itself in 2-D), or patches of them, as grey images (1, h, w) in [-1, 1].

    Args:
        volume: array or reader of shape S; one slice at a time is in memory.
        window: (low, high) in the volume's units, scaled to [-1, 1] and clipped; fixed, never the image's own extremes.
        axes: array axes across which to slice.
        every: take every n-th slice.
        patch: side of square crops in voxels; None for whole slices.
    """
    volume = as_readable(volume)
    low, high = (float(v) for v in window)
    if not low < high or every < 1 or (patch is not None and patch < 1):
        raise InputError(
            f"Slices must have low < high, every >= 1, patch >= 1, got {window=}, {every=}, {patch=}; change them."
        )
    for plane in _planes(volume, axes, every):
        unit = (np.clip(plane, low, high) - low) * (2 / (high - low)) - 1
        for crop in _patches(unit, patch):
            yield torch.from_numpy(np.ascontiguousarray(crop)).float().unsqueeze(0)


def extract(images: Iterable[torch.Tensor], extractor: FeatureExtractor, batch_size: int = 16) -> torch.Tensor:
    """Features (N, D) of images (1 or 3, h, w) in [-1, 1], in batches of equally shaped neighbours."""
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))
    results: list[torch.Tensor] = []
    batch: list[torch.Tensor] = []

    def flush() -> None:
        if batch:
            results.append(extractor(torch.stack(batch).to(device)).cpu())
            batch.clear()

    for image in images:
        if len(batch) == batch_size or (batch and batch[0].shape != image.shape):
            flush()
        batch.append(image)
    flush()
    return torch.cat(results) if results else torch.zeros(0, extractor.dim)


def slice_features(
    volume,
    extractor: FeatureExtractor,
    window: tuple[float, float],
    axes: Sequence[int] = (0, 1, 2),
    every: int = 1,
    patch: int | None = None,
) -> torch.Tensor:
    """Features (N, D) of the slices of a volume along the three axes, or of their patches; see slice_images."""
    return extract(slice_images(volume, window, axes, every, patch), extractor)


def compare_features(
    real: torch.Tensor,
    generated: torch.Tensor,
    extractor: FeatureExtractor,
    real_groups: Sequence[Hashable] | None = None,
    generated_groups: Sequence[Hashable] | None = None,
) -> dict:
    """Kernel and Frechet distance, precision, recall, density, coverage of features (M, D), (N, D); JSON-able.

    Each figure comes with everything that it must state; the last four only where each side has more than 5 features.

    The keys begin with the extractor's name (`squeezenet_kernel_distance`), since only Inception's may be called KID or
    FID. The groups are those of kernel_distance, for its standard error.
    """
    origin = extractor.describe()
    seed_of_network = origin.pop("seed")
    if seed_of_network is not None:
        origin["extractor_seed"] = seed_of_network
    sides = [FeatureMoments(extractor.dim).update(x) for x in (real, generated)]
    counts = {"n_real": len(real), "n_generated": len(generated)}
    distance = kernel_distance(real, generated, real_groups, generated_groups)
    figures = {
        f"{extractor.name}_kernel_distance": {**distance, "seed": None, **origin},
        f"{extractor.name}_frechet_distance": {"value": frechet_distance(*sides), **counts, "seed": None, **origin},
    }
    if min(len(real), len(generated)) > 5:
        figures[f"{extractor.name}_prdc"] = {**prdc(real, generated), "seed": None, **origin}
    return figures
