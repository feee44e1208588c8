"""A chest radiograph of the procedural patient: Beer-Lambert through the phantom, the lung's vessels drawn sharp."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..core.noise import place_noise
from ..core.volumes import Volume
from .shapes import check_size, cuts
from .thorax import ThoraxPhantom
from .tubes import Tubes

ATTENUATION = 0.02  # 1/mm, water at the mean energy of a 110 kV beam (NIST XCOM, about 65 keV)
PHOTONS = 40000.0  # detected per mm^2 of detector without a patient, sets the quantum noise
EXTENT_MM = (360.0, 340.0)  # of the projected phantom: left-right, head-foot
# voxels of the projected phantom across and in depth
COARSE = 288
DEEP = 88


class ChestXrayPhantom(Volume):
    """Procedural chest X-ray of shape (H, W), rows from head to foot, columns from the patient's right to the left.

    Values are 12 bit (0-4095, rounded), bone bright. The water-equivalent path (mm) of a coarse ThoraxPhantom without
    lung vessels is interpolated (cubic), then every vessel's own chord is added at the resolution asked for. The first
    read costs a few seconds for the projection, once per seed.

    Args:
        shape: (H, W) in pixels, any size.
        seed: which patient (the same as ThoraxPhantom's), and which noise.
        noise: add quantum noise (place-bound; about 1 mm of water behind the spine at 0.2 mm pixels).
        field_of_view_mm: extent of the image along rows and columns, mm at the patient.
    """

    def __init__(
        self,
        shape: Sequence[int] = (2048, 2048),
        seed: int = 0,
        noise: bool = True,
        field_of_view_mm: Sequence[float] = (340.0, 340.0),
    ) -> None:
        self.shape = check_size("ChestXrayPhantom", shape, field_of_view_mm, 2)
        self.seed = int(seed)
        self.noise = noise
        self.dtype = np.dtype(np.uint16)
        self.name = f"chest_xray_phantom_{seed}"
        pixel = np.asarray(field_of_view_mm, dtype=np.float64) / self.shape
        self.affine = np.diag([*pixel, 1.0, 1.0])
        self.affine[:2, 3] = -pixel * (np.array(self.shape) - 1) / 2

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Grey values of the box `start`, `shape`, float32 of that shape; in memory proportional to the box."""
        out = np.empty(tuple(int(n) for n in shape), dtype=np.float32)
        for block in itertools.product(*[cuts(int(s), int(n), 256) for s, n in zip(start, shape)]):
            low = [a for a, _ in block]
            size = [b - a for a, b in block]
            out[tuple(slice(a - int(s), b - int(s)) for (a, b), s in zip(block, start))] = self._block(low, size)
        return out

    def _block(self, low: Sequence[int], size: Sequence[int]) -> np.ndarray:
        rows, columns = (
            (np.arange(a, a + n) + 0.5 - self.shape[i] / 2) * self.spacing[i] for i, (a, n) in enumerate(zip(low, size))
        )
        coarse, fine, vessels = _projection(self.seed)
        pixel = float(np.sqrt(self.spacing[0] * self.spacing[1]))
        path = _interpolate(coarse, columns, -rows)
        path += _chords(vessels, columns.astype(np.float32), -rows.astype(np.float32), pixel)
        if self.noise:
            # counts N ~ Poisson: the path -log(N / N0) / mu has deviation 1 / (mu sqrt(N))
            count = PHOTONS * pixel**2 * np.exp(-ATTENUATION * np.clip(path, 0, 400))
            path += place_noise(self.seed, low, size, stream=1) / (ATTENUATION * np.sqrt(count))
        # detail lifted as a radiograph's multi-frequency processing does, so that ribs show beside the spine
        path += 1.2 * _interpolate(fine, columns, -rows)
        return np.rint(_film(path)).astype(np.float32)


def _film(path: np.ndarray) -> np.ndarray:
    """Grey value of a water-equivalent path in mm: a film's S-shaped curve with its middle at 135 mm."""
    return 4095 / (1 + np.exp(np.clip((135 - path) / 42, -30, 30)))


@lru_cache(maxsize=4)
def _projection(seed: int) -> tuple[np.ndarray, np.ndarray, Tubes]:
    """(path (COARSE, COARSE) in mm of water over x and z, its fine part, lung vessels in world mm) of the patient."""
    phantom = ThoraxPhantom((COARSE, DEEP, COARSE), seed, False, (EXTENT_MM[0], 264.0, EXTENT_MM[1]), contrast=False)
    # a copy: the patient is shared with other phantoms of the seed
    phantom.courses = c = copy.copy(phantom.courses)
    scale = phantom.patient.scale
    empty = Tubes(np.empty((0, 8)))
    vessels = np.concatenate([c.lung_arteries.segments, c.lung_veins.segments])
    vessels[:, :3], vessels[:, 4:7] = vessels[:, :3] * scale, vessels[:, 4:7] * scale
    c.lung_arteries = empty
    c.lung_veins = empty
    phantom.couch = False
    path = np.empty((COARSE, COARSE), dtype=np.float64)
    for i in range(0, COARSE, 64):
        hu = phantom.read((i, 0, 0), (min(64, COARSE - i), DEEP, COARSE))
        path[i : i + 64] = (1 + hu / 1000).clip(0).sum(axis=1) * phantom.spacing[1]
    return path, path - _blurred(path, 9), Tubes(vessels)


def _blurred(path: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of the coarse map, sigma in its voxels, edges repeated."""
    reach = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for axis in (0, 1):
        padded = np.pad(path, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        path = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), "valid")
    return path


def _interpolate(path: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Values (len(z), len(x)) of the map (x, z) at world positions in mm: Catmull-Rom, edges go on outside."""
    field = path
    for axis, (line, extent) in enumerate(zip((x, z), EXTENT_MM)):
        n = field.shape[axis]
        at = np.clip((line / extent + 0.5) * n - 0.5, 0, n - 1)
        cell = np.floor(at).astype(np.int64)
        f = (at - cell).reshape((-1, 1) if axis == 0 else (1, -1))
        weights = (
            -0.5 * f**3 + f**2 - 0.5 * f,
            1.5 * f**3 - 2.5 * f**2 + 1,
            -1.5 * f**3 + 2 * f**2 + 0.5 * f,
            0.5 * f**3 - 0.5 * f**2,
        )
        field = sum(np.take(field, np.clip(cell + k - 1, 0, n - 1), axis) * w for k, w in enumerate(weights))
    return np.ascontiguousarray(field.T)


def _chords(tubes: Tubes, x: np.ndarray, z: np.ndarray, pixel: float) -> np.ndarray:
    """Extra water path (len(z), len(x)) in mm of tubes seen along y.

    Each piece (radius r, length L, L' as seen) is a ridge k sqrt(r^2 - d^2), d the distance to its line; k = L /
    (L'/2 + 2r/3) keeps its volume pi r^2 L however much it is foreshortened. The contrast 0.87 is blood's density
    less that of the lung which it displaces.
    """
    out = np.zeros((z.size, x.size), dtype=np.float64)
    down = -z  # z falls from row to row; searchsorted wants a rising line
    low = tubes.low - 1.5 * pixel
    high = tubes.high + 1.5 * pixel
    visible = (high[:, 0] > x[0]) & (low[:, 0] < x[-1]) & (high[:, 2] > z[-1]) & (low[:, 2] < z[0])
    for n in np.flatnonzero(visible).tolist():
        a, b = np.searchsorted(x, (low[n, 0], high[n, 0]))
        c, d = np.searchsorted(down, (-high[n, 2], -low[n, 2]))
        if a < b and c < d:
            out[c:d, a:b] += _ridge(tubes, n, x[None, a:b], z[c:d, None], pixel)
    return out


def _ridge(tubes: Tubes, n: int, x: np.ndarray, z: np.ndarray, pixel: float) -> np.ndarray:
    p = tubes.start[n]
    axis = tubes.end[n] - tubes.start[n]
    length = float(np.hypot(axis[0], axis[2]))
    dx = x - p[0]
    dz = z - p[2]
    t = np.clip((dx * axis[0] + dz * axis[2]) / max(length**2, 1e-6), 0, 1)
    across2 = (dx - t * axis[0]) ** 2 + (dz - t * axis[2]) ** 2
    radius = tubes.r0[n] + (tubes.r1[n] - tubes.r0[n]) * t
    width = np.maximum(radius, 1.2 * pixel)  # thinner ones fainter, not narrower
    k = float(np.linalg.norm(axis)) / (length / 2 + 2 * width / 3) * (radius / width) ** 2
    return 0.87 * k * np.sqrt(np.maximum(width**2 - across2, 0))
