"""Tapered tubes and the trees grown from them: vessels, airways, long bones of the phantoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.tiles import box_index
from .shapes import Grid, coverage, paint

VOXELS_AT_ONCE = 2**15  # keeps the temporaries of a batch of windows in the processor's cache


class Tubes:
    """Tapered round tubes with spherical ends: vessels, airways, long bones.

    Args:
        segments: (N, 8) rows (x0, y0, z0, r0, x1, y1, z1, r1) in mm.
    """

    def __init__(self, segments: np.ndarray) -> None:
        s = np.asarray(segments, dtype=np.float64).reshape(-1, 8)
        self.segments = s
        self.start = s[:, :3]
        self.end = s[:, 4:7]
        self.r0 = s[:, 3]
        self.r1 = s[:, 7]
        thick = np.maximum(self.r0, self.r1)[:, None]
        self.low = np.minimum(self.start, self.end) - thick
        self.high = np.maximum(self.start, self.end) + thick

    def coverage(self, grid: Grid, grow: float = 0.0) -> np.ndarray | None:
        """Share of each voxel inside any tube, its radius grown by `grow` mm; None where no tube touches the box."""
        reach = grid.edge + max(grow, 0.0)
        lines = [line.ravel() for line in (grid.x, grid.y, grid.z)]
        first = np.stack([np.searchsorted(c, self.low[:, a] - reach, "left") for a, c in enumerate(lines)], 1)
        last = np.stack([np.searchsorted(c, self.high[:, a] + reach, "right") for a, c in enumerate(lines)], 1)
        hits = np.flatnonzero((first < last).all(1))
        if hits.size == 0:
            return None
        share = np.zeros(grid.shape, dtype=np.float32)
        # windows of one size are drawn together: most are of a few voxels, less work than a call of NumPy
        sizes, kind = np.unique((last - first)[hits], axis=0, return_inverse=True)
        for number, size in enumerate(sizes):
            alike = hits[kind.ravel() == number]
            together = max(1, VOXELS_AT_ONCE // int(size.prod()))
            for tubes in (alike[k : k + together] for k in range(0, len(alike), together)):
                places = [line[first[tubes, a, None] + np.arange(size[a])] for a, line in enumerate(lines)]
                for corner, part in zip(first[tubes], self._windows(tubes, places, grid.edge, grow)):
                    window = share[box_index(corner, size)]
                    np.maximum(window, part, out=window)
        return share

    def _windows(self, n: np.ndarray, places: Sequence[np.ndarray], edge: float, grow: float) -> np.ndarray:
        """Shares (N, a, b, c) of N windows, each with one tube, at the places (N, a), (N, b), (N, c) in mm."""
        x, y, z = (
            line.reshape(len(n), *[-1 if a == axis else 1 for a in range(3)]) for axis, line in enumerate(places)
        )
        per_tube = (3, len(n), 1, 1, 1)
        px, py, pz = self.start[n].astype(np.float32).T.reshape(per_tube)
        axis = (self.end[n] - self.start[n]).astype(np.float32).T.reshape(per_tube)
        dx = x - px
        dy = y - py
        dz = z - pz
        length2 = np.maximum((axis.astype(np.float64) ** 2).sum(0), 1e-6).astype(np.float32)
        t = np.clip((dx * (axis[0] / length2) + dy * (axis[1] / length2)) + dz * (axis[2] / length2), 0, 1)
        distance = np.sqrt((dx - t * axis[0]) ** 2 + (dy - t * axis[1]) ** 2 + (dz - t * axis[2]) ** 2)
        thickness = (self.r0[n] + grow).astype(np.float32).reshape(per_tube[1:])
        taper = (self.r1[n] - self.r0[n]).astype(np.float32).reshape(per_tube[1:])
        radius = np.maximum(thickness + t * taper, 0)
        # a disc of radius R with an edge one voxel wide covers pi (R^2 + edge^2 / 12): R is chosen to keep the section
        # pi r^2, and a tube thinner than a voxel is drawn one voxel wide and as much fainter
        spread = np.float32(edge**2 / 12)
        drawn2 = np.maximum(radius * radius - spread, 3 * spread)
        return coverage(distance - np.sqrt(drawn2), edge) * (radius * radius / (drawn2 + spread))


def fill_tubes(
    image: np.ndarray,
    grid: Grid,
    tubes: Tubes,
    value: float | np.ndarray,
    grow: float = 0.0,
    within: np.ndarray | None = None,
) -> None:
    """Paints tubes, grown by `grow` mm, into the grid's image in place; only the share `within`, if given."""
    share = tubes.coverage(grid, grow)
    if share is not None:
        paint(image, share if within is None else share * within, value)


def chain(*points: Sequence[float]) -> np.ndarray:
    """Segments (N, 8) of a smooth tube through the given (x, y, z, radius) points (Catmull-Rom, 4 pieces a span)."""
    p = np.array(points, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, 5)[:-1, None]
    spans = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:]):
        spans.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate([*spans, p[-2:-1]])
    return np.concatenate([curve[:-1], curve[1:]], axis=1)


def grow_tree(
    root: Sequence[float], heading: Sequence[float], targets: np.ndarray, tip: float, rng: np.random.Generator
) -> np.ndarray:
    """A branching tree from `root` that ends at every target, as segments (N, 8).

    The targets (N, 3) are halved again and again across their widest direction; each branch runs part of the way to
    the centre of those it feeds. A branch that feeds n tips has radius tip * n^(1/2.8) mm (Murray 1926 has the
    exponent 3; 2.8 suits measured pulmonary arteries, Huang et al. 1996).
    """
    radius = lambda n: tip * n ** (1 / 2.8)  # noqa: E731
    rows: list[np.ndarray] = []
    stack = [(np.asarray(root, float), np.asarray(heading, float), targets)]
    while stack:
        position, direction, goals = stack.pop()
        n = len(goals)
        end = goals[0] if n == 1 else position + (goals.mean(0) - position) * rng.uniform(0.3, 0.5)
        halves = [goals] if n == 1 else _halve(goals - end, end - position, goals, rng)
        distance = float(np.linalg.norm(end - position))
        pieces = int(np.clip(np.ceil(distance / 4), 1, 8))
        t = np.linspace(0, 1, pieces + 1)[:, None]
        control = position + direction * distance * 0.4
        curve = (1 - t) ** 2 * position + 2 * t * (1 - t) * control + t**2 * end
        taper = radius(n) + (radius(max(len(h) for h in halves)) * (0.7 if n == 1 else 1.0) - radius(n)) * t
        curve = np.concatenate([curve, taper], axis=1)
        rows.append(np.concatenate([curve[:-1], curve[1:]], axis=1))
        if n > 1:
            onward = end - control
            onward = onward / (np.linalg.norm(onward) + 1e-9)
            stack += [(end, onward, half) for half in halves]
    return np.concatenate(rows)


def _halve(offsets: np.ndarray, axis: np.ndarray, goals: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Two groups of the goals, on either side of a plane that holds the branch's axis."""
    axis = axis / (np.linalg.norm(axis) + 1e-9)
    flat = offsets - (offsets @ axis)[:, None] * axis
    widest = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    order = np.argsort(flat @ widest)
    cut = int(np.clip(round(len(goals) * rng.uniform(0.3, 0.7)), 1, len(goals) - 1))
    return [goals[order[:cut]], goals[order[cut:]]]
