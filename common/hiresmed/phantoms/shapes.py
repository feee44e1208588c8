"""Signed distances and textures: the geometry from which phantoms are made, evaluated on the voxels of one box.

Distances are in mm, negative inside. Coordinates x, y, z are float32 arrays that broadcast: (n, 1, 1), (1, m, 1),
(1, 1, k) for a box, or three (N,) arrays for points. Only +, -, *, /, sqrt, min and max touch voxels, in the same
order whatever the box, so that a voxel's value has the same bits in every box that holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError


@dataclass(frozen=True)
class Grid:
    """Where the voxel centres of a box lie, in mm: x (n, 1, 1), y (1, m, 1), z (1, 1, k); `edge`: the voxel size."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    edge: float

    @classmethod
    def of_lines(cls, lines: Sequence[np.ndarray], edge: float) -> Grid:
        """From the positions (n,), (m,), (k,) along the three axes."""
        x, y, z = (line.astype(np.float32) for line in lines)
        return cls(x[:, None, None], y[None, :, None], z[None, None, :], edge)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.size, self.y.size, self.z.size


class Profile:
    """A smooth curve through (position, value) knots in mm: interpolated, then blurred by `blur` mm; flat beyond."""

    def __init__(self, knots: Sequence[tuple[float, float]], blur: float = 8.0) -> None:
        at, value = (np.array(v, dtype=np.float64) for v in zip(*sorted(knots)))
        reach = int(3 * blur) + 1
        self.at = np.arange(np.floor(at[0]) - reach, np.ceil(at[-1]) + reach + 1)
        dense = np.interp(np.arange(self.at[0] - reach, self.at[-1] + reach + 1), at, value)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2)
        self.value = np.convolve(dense, kernel / kernel.sum(), mode="valid")

    def __call__(self, position: np.ndarray) -> np.ndarray:
        return np.interp(position, self.at, self.value)


def coverage(distance: np.ndarray, edge: float) -> np.ndarray:
    """Share of each voxel inside the shape, [0, 1]: the surface is spread over one voxel (antialiasing)."""
    return np.clip(np.float32(0.5) - distance * np.float32(1 / edge), 0, 1)


def paint(image: np.ndarray, share: np.ndarray, value: float | np.ndarray) -> None:
    """Lays `value` over the image where `share` is 1, blends where it lies between 0 and 1, in place."""
    image += share * (np.asarray(value, dtype=np.float32) - image)


def fill(image: np.ndarray, grid: Grid, distance: np.ndarray, value: float | np.ndarray) -> None:
    """Paints the inside of a shape, given by its distance, into the grid's image in place."""
    if distance.min() < 0.5 * grid.edge:
        paint(image, coverage(distance, grid.edge), value)


def fill_shell(
    image: np.ndarray,
    grid: Grid,
    distance: np.ndarray,
    shell: float | np.ndarray,
    thickness: float,
    core: float | np.ndarray,
) -> None:
    """Paints a shape with a shell of `thickness` mm, in place.

    One blend and not two fills: where both edges share a voxel, two would make the shell too thick.
    """
    if distance.min() < 0.5 * grid.edge:
        outer = coverage(distance, grid.edge)
        share = coverage(distance + np.float32(thickness), grid.edge) / np.maximum(outer, np.float32(1e-6))
        paint(image, outer, np.float32(shell) + share * (core - np.float32(shell)))


def smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Union of two distances with a fillet of about k mm (polynomial, hence of finite reach)."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / k)


def smooth_max(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Intersection of two distances with a rounded edge of about k mm."""
    return -smooth_min(-a, -b, k)


def ellipsoid(offsets: Sequence[np.ndarray], radii: Sequence[float]) -> np.ndarray:
    """Distance to an axis-aligned ellipsoid, any number of axes: q (q - 1) / |grad|, q = |offset / radii|."""
    q = np.sqrt(sum((o * np.float32(1 / r)) ** 2 for o, r in zip(offsets, radii)))
    slope = np.sqrt(sum((o * np.float32(1 / r**2)) ** 2 for o, r in zip(offsets, radii)))
    return q * (q - 1) / np.maximum(slope, np.float32(1e-6))


def loft(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance to a superellipse |u/a|^p + |v/b|^p = 1, p = 16/7, whose half axes a, b (mm) may vary with z.

    u and v are the offsets from the centre line. Boxier than an ellipse, as a trunk is; p = 16/7 because the
    root g^(7/16) = g^(1/4) g^(1/8) g^(1/16) takes only square roots.
    """
    p = 16 / 7
    u = np.abs(u / a)
    v = np.abs(v / b)
    g = np.maximum((u**p).astype(np.float32) + (v**p).astype(np.float32), np.float32(1e-6))
    quarter = np.sqrt(np.sqrt(g))
    eighth = np.sqrt(quarter)
    q = quarter * eighth * np.sqrt(eighth)
    slope = (u ** (2 * p - 2) / a**2).astype(np.float32) + (v ** (2 * p - 2) / b**2).astype(np.float32)
    return (g - g / q) / np.maximum(np.sqrt(slope), np.float32(1e-9))


def above(height: Callable, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance to the region above the surface z = height(x, y): negative above, positive below."""
    h = height(x, y)
    slope2 = (height(x + 0.5, y) - height(x - 0.5, y)) ** 2 + (height(x, y + 0.5) - height(x, y - 0.5)) ** 2
    shrink = (1 / np.sqrt(1 + slope2)).astype(np.float32)
    return (h.astype(np.float32) - z) * shrink


class Texture:
    """Smooth random field, mean 0 and deviation about 1, with grains of `pitch` mm; periodic after 48 grains.

    A cubic B-spline over a fixed lattice of normal numbers, evaluated axis by axis: most of the work is on lattices.
    """

    SIZE = 48

    def __init__(self, pitch: float, rng: np.random.Generator) -> None:
        self.pitch = pitch
        # 0.479 is the mean over a cell of sum(w_i^2), the variance that the B-spline leaves along one axis
        self.lattice = (rng.standard_normal((self.SIZE,) * 3) / 0.479**1.5).astype(np.float32)

    def __call__(self, grid: Grid) -> np.ndarray:
        field = self.lattice
        for axis, line in enumerate((grid.x, grid.y, grid.z)):
            at = line.ravel().astype(np.float64) / self.pitch
            cell = np.floor(at).astype(np.int64)
            f = (at - cell).reshape([-1 if a == axis else 1 for a in range(3)])
            weights = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
            taps = [np.take(field, (cell + k - 1) % self.SIZE, axis) for k in range(4)]
            field = sum(t * (w / 6).astype(np.float32) for t, w in zip(taps, weights))
        # voxels larger than a grain average it away
        return field * np.float32(1 / (1 + (grid.edge / self.pitch) ** 2))


def cuts(start: int, length: int, block: int) -> list[tuple[int, int]]:
    """(first, one past last) of the pieces of one axis between multiples of `block`.

    >>> cuts(60, 70, 64)
    [(60, 64), (64, 128), (128, 130)]
    """
    edges = [start, *range(start - start % block + block, start + length, block), start + length]
    return list(itertools.pairwise(edges))


def check_size(name: str, shape: Sequence[int], field_of_view_mm: Sequence[float], axes: int) -> tuple[int, ...]:
    """The shape as integers, or an InputError that says what is wrong with it."""
    whole = all(float(n) == int(n) and n > 0 for n in shape)
    if len(shape) != axes or len(field_of_view_mm) != axes or not whole or min(field_of_view_mm) <= 0:
        raise InputError(
            f"{name} must have {axes} positive whole numbers of voxels and as many positive extents in mm, got "
            f"shape {tuple(shape)} and field_of_view_mm {tuple(field_of_view_mm)}; correct them."
        )
    return tuple(int(n) for n in shape)
