"""Radial power spectrum and its log distance: does a generated image have a real one's fine detail and noise?

Letters: S = spatial shape, K = number of frequency bins = box / 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..core.errors import InputError
from .boxes import as_readable, read_float64

FLOOR = 1e-12  # of the largest power: below it float32 images contain only rounding errors


def _starts(n: int, box: int, every: int) -> list[int]:
    """Box starts along an axis of n voxels: a grid that is centred, so that both ends lose equally many voxels."""
    count = n // box
    first = (n - count * box) // 2
    return [first + i * box for i in range(0, count, every)]


def _radius(box: int, dims: int) -> np.ndarray:
    """Frequency bin of each coefficient of an rfftn of a box: |f| in cycles per box, rounded."""
    full = np.fft.fftfreq(box) * box
    half = np.fft.rfftfreq(box) * box
    grids = np.meshgrid(*[full] * (dims - 1), half, indexing="ij")
    return np.rint(np.sqrt(sum(g**2 for g in grids))).astype(int)


def radial_spectrum(image, box: int = 64, every: int = 1) -> dict:
    """Mean power at frequencies 1 .. K cycles per box, over Hann-windowed, mean-free boxes on a fixed grid.

    Args:
        image: array or reader of shape S, each axis at least `box`.
        box: voxels per axis of a box, even; 64 costs 2 MB.
        every: take every n-th box of the grid along each axis.

    Returns:
        dict: `frequency` (K,) in cycles per voxel, `power` (K,) in units squared, `boxes` (how many).

    Raises InputError for an image smaller than one box.
    """
    image = as_readable(image)
    dims = len(image.shape)
    if box < 4 or box % 2 or min(image.shape) < box or every < 1:
        raise InputError(
            "A power spectrum must have boxes of an even number of voxels, at least 4 and at most the image's "
            f"shortest axis, got boxes of {box} for an image of shape {tuple(image.shape)}; lower `box`."
        )
    # sampled at cell centres: periodic (no leakage beyond one bin) and symmetric
    hann = np.sin(np.pi * (np.arange(box) + 0.5) / box) ** 2
    window = np.ones([box] * dims)
    for axis in range(dims):
        window = window * hann.reshape([-1 if i == axis else 1 for i in range(dims)])
    radius = _radius(box, dims)
    # rfftn leaves out the mirrored half, so its coefficients count twice, except those that are their own mirror image
    weight = np.broadcast_to(np.where((np.arange(box // 2 + 1) % (box // 2)) == 0, 1.0, 2.0), radius.shape)
    norm = np.bincount(radius.ravel(), weight.ravel())[: box // 2 + 1] * (window**2).sum()
    total = np.zeros(box // 2 + 1)
    boxes = 0
    for start in itertools.product(*(_starts(n, box, every) for n in image.shape)):
        values = read_float64(image, start, [box] * dims)
        power = np.abs(np.fft.rfftn((values - values.mean()) * window)) ** 2
        total += np.bincount(radius.ravel(), (power * weight).ravel())[: box // 2 + 1]
        boxes += 1
    mean = total / (norm * boxes)
    return {"frequency": np.arange(1, box // 2 + 1) / box, "power": mean[1:], "boxes": boxes}


def log_spectral_distance(power_a: Sequence[float], power_b: Sequence[float]) -> float:
    """Root mean square over the frequencies of 10 log10(power_a / power_b), in dB; powers (K,)."""
    a = np.asarray(power_a, dtype=np.float64)
    b = np.asarray(power_b, dtype=np.float64)
    floor = FLOOR * max(a.max(), b.max())
    if floor == 0:
        return 0.0
    return float(np.sqrt(np.mean((10 * np.log10(np.maximum(a, floor) / np.maximum(b, floor))) ** 2)))


def spectral_distance(a, b, box: int = 64, every: int = 1) -> dict:
    """Distance of the radial power spectra of two images, in dB; they need neither show the same nor be aligned.

    Args:
        a, b: arrays or readers, of any shapes S of at least one box; of the same voxel size.
        box, every: as in radial_spectrum.

    Returns:
        dict: `value` (dB, 0 for equal spectra), `box`, `every`, `boxes` (of either image).
    """
    one = radial_spectrum(a, box, every)
    two = radial_spectrum(b, box, every)
    value = log_spectral_distance(one["power"], two["power"])
    return {"value": value, "box": box, "every": every, "boxes": [one["boxes"], two["boxes"]]}
