"""MAE, PSNR and SSIM of large images from sums over boxes, so that memory does not grow with the image.

Letters: S = spatial shape (D, H, W) or (H, W).
MONAI's SSIMMetric, MAEMetric and PSNRMetric need the whole image at once; its SSIM also convolves with the dense
11^3 kernel (.59 s per 64^3 on one core), while one axis after another takes .06 s and gives the same map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import InputError
from .boxes import Readable, as_readable_pair, grid_boxes, read_float64

# Wang et al. 2004, and MONAI's defaults
KERNEL_SIZE = 11
KERNEL_SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def _gaussian() -> list[float]:
    offsets = np.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    weights = np.exp(-0.5 * (offsets / KERNEL_SIGMA) ** 2)
    return (weights / weights.sum()).tolist()


def _blur_inside(x: torch.Tensor) -> torch.Tensor:
    """Gaussian means where the kernel fits, over every axis but the first: (B, S) -> (B, S - 10)."""
    for axis in range(1, x.ndim):
        size = x.shape[axis] - KERNEL_SIZE + 1
        parts = (x.narrow(axis, i, size) * w for i, w in enumerate(_gaussian()))
        blurred = next(parts)
        for part in parts:
            blurred += part
        x = blurred
    return x


def ssim_map(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM (Wang et al. 2004, Gaussian 11, sigma 1.5) of images S in [0, 1], where the kernel fits: S - 10."""
    m = _blur_inside(torch.stack([a, b, a * a, b * b, a * b]))
    mean_a = m[0]
    mean_b = m[1]
    var_a = m[2] - mean_a**2
    var_b = m[3] - mean_b**2
    covariance = m[4] - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance * (2 * covariance + C2) / (var_a + var_b + C2)


@dataclass
class QualitySums:
    """Sums over voxels that two boxes, images or processes may add: absolute and squared error, SSIM."""

    window: tuple[float, float]
    n: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    ssim_n: int = 0
    ssim: float = 0.0

    def merge(self, other: QualitySums) -> QualitySums:
        """The sums of both; raises InputError for two windows."""
        if self.window != other.window:
            raise InputError(
                f"Merged quality figures must have one window, got {self.window} and {other.window}; use one for both."
            )
        added = {k: getattr(self, k) + getattr(other, k) for k in ("n", "absolute", "squared", "ssim_n", "ssim")}
        return QualitySums(self.window, **added)

    def result(self) -> dict:
        """dict: `mae` (input units), `psnr` (dB, None for equal images), `ssim` (None where no 11-voxel window
        fits), `n`, `window`."""
        low, high = self.window
        mean_squared = self.squared / max(self.n, 1)
        # a NaN error must give NaN; only an exact 0 means no noise at all
        psnr = None if mean_squared == 0 else 10 * math.log10((high - low) ** 2 / mean_squared)
        return {
            "mae": self.absolute / max(self.n, 1),
            "psnr": psnr,
            "ssim": self.ssim / self.ssim_n if self.ssim_n else None,
            "n": self.n,
            "window": [low, high],
        }


def _ssim_of_box(a: Readable, b: Readable, start, shape, to_unit) -> tuple[int, float]:
    """Count and sum of the SSIM whose kernels begin in this box: each kernel position counts in exactly one box."""
    halo = KERNEL_SIZE - 1
    extent = [min(n + halo, length - s) for s, n, length in zip(start, shape, a.shape)]
    if min(extent) < KERNEL_SIZE:
        return 0, 0.0
    values = ssim_map(*(torch.from_numpy(to_unit(read_float64(x, start, extent))).float() for x in (a, b)))
    return values.numel(), values.sum(dtype=torch.float64).item()


def quality_sums(result, truth, window: tuple[float, float], box: int = 64, ssim: bool = True) -> QualitySums:
    """Sums for MAE, PSNR and SSIM of two images of shape S; the box size sets the memory, not the figures.

    Args:
        result, truth: arrays or readers of one shape S.
        window: (low, high) in the images' units, e.g. (-1000, 600) HU. Values are clipped to it (padding at -3024 HU
            would dominate); PSNR and SSIM use its width as the data range.
        box: voxels per axis at a time.
        ssim: False leaves out the SSIM, which takes most of the time.

    Raises InputError for two shapes, or a window without width.
    """
    a, b = as_readable_pair(result, truth)
    low, high = (float(v) for v in window)
    if not low < high:
        raise InputError(f"window must be (low, high) with low < high, got {window}; change it.")

    def to_unit(values: np.ndarray) -> np.ndarray:
        return (np.clip(values, low, high) - low) / (high - low)

    sums = QualitySums((low, high))
    for start, shape in grid_boxes(a.shape, box):
        error = np.abs(to_unit(read_float64(a, start, shape)) - to_unit(read_float64(b, start, shape))) * (high - low)
        ssim_n, ssim_sum = _ssim_of_box(a, b, start, shape, to_unit) if ssim else (0, 0.0)
        sums = sums.merge(
            QualitySums((low, high), error.size, float(error.sum()), float((error**2).sum()), ssim_n, ssim_sum)
        )
    return sums


def image_quality(result, truth, window: tuple[float, float], box: int = 64) -> dict:
    """`mae` (input units), `psnr` (dB), `ssim`, `n`, `window` of a result against the truth; see quality_sums.

    Example:
        >>> truth = np.zeros((16, 16))
        >>> round(image_quality(truth + 100, truth, (-1000, 1000))["psnr"], 6)  # 20 log10(2000 / 100)
        26.0206
    """
    return quality_sums(result, truth, window, box).result()
