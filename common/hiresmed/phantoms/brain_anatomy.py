"""One seeded head in mm: where its brain, cortex, ventricles and nuclei end.

Axes x, y, z run to the patient's left, back and head; the origin lies between the thalami. All points come as (N,)
float32 arrays, distances are in mm and negative inside (phantom_shapes). Sizes follow the adult averages of Duvernoy,
The Human Brain, 1999: 132 mm wide, 168 mm long, cortex 2.5-3 mm, gyri about 12 mm wide.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .shapes import Texture, ellipsoid, smooth_max, smooth_min

Point = tuple[np.ndarray, np.ndarray, np.ndarray]
# waves that make up the folding, and its wavelength in mm on the surface
WAVES = 20
GYRUS = 21.0
RADII = (66.0, 84.0, 58.0)  # of the cerebrum's main ellipsoid, centred at (0, 0, 8)
HULL = (74.0, 91.0, 79.0)  # of an ellipsoid around everything, centred at (0, 2, -5)


@dataclass(frozen=True)
class Surfaces:
    """Distances (N,) of one set of points: `brain` is what skull stripping leaves, `white` lies inside `pial`."""

    brain: np.ndarray
    pial: np.ndarray
    white: np.ndarray
    hind_pial: np.ndarray
    hind_white: np.ndarray
    ventricles: np.ndarray
    plexus: np.ndarray
    nuclei: np.ndarray
    thalami: np.ndarray


class Head:
    """Pose, proportions and folding of one person.

    Args:
        seed: which person.
        deformation: 1 is the variation among adults; larger values bend further (domain randomisation).
    """

    def __init__(self, seed: int, deformation: float = 1.0) -> None:
        rng = np.random.default_rng([seed, 11])
        self.scale = 1 + 0.045 * deformation * rng.uniform(-1, 1, 3) + 0.03 * rng.uniform(-1, 1)
        self.shift = rng.uniform(-1, 1, 3) * (2.0, 4.0, 3.0)
        self.rotation = _rotation(np.radians(rng.uniform(-1, 1, 3) * (7.0, 3.0, 3.0)))
        self.bend = 2.5 * deformation
        self.fullness = float(rng.uniform(0.75, 1.35))  # of the ventricles
        self.thickness = float(rng.uniform(2.4, 3.0))  # of the cortex, mm
        self.open = float(rng.uniform(0.3, 0.8))  # half width of the sulci, mm
        vectors = rng.standard_normal((WAVES, 3))
        length = 2 * np.pi / GYRUS * rng.uniform(0.8, 1.25, (WAVES, 1))
        self.waves = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * length).astype(np.float32)
        self.phases = rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)
        self.bending = [Texture(45.0, rng) for _ in range(3)]

    def place(self, at: Point, bend: Sequence[np.ndarray]) -> Point:
        """Points of the image's frame in the head's own: shifted, turned, scaled, and bent by three textures (N,)."""
        moved = [a - np.float32(s) for a, s in zip(at, self.shift)]
        turned = [sum(np.float32(r) * m for r, m in zip(row, moved)) for row in self.rotation]
        x, y, z = (t * np.float32(1 / s) + np.float32(self.bend) * b for t, s, b in zip(turned, self.scale, bend))
        return x, y, z

    def reach(self, at: Point) -> np.ndarray:
        """Where (True) brain may lie in the image's frame, before the head bends: cheap, for leaving blocks out."""
        return _in_hull(at, [r * 1.075 + 4 + 3.5 * self.bend for r in HULL])

    @staticmethod
    def hull(at: Point) -> np.ndarray:
        """Where (True) brain may lie in the head's frame."""
        return _in_hull(at, HULL)

    def surfaces(self, at: Point, broad: np.ndarray, rough: np.ndarray) -> Surfaces:
        """All distances at points of the head's frame; textures (N,) vary the sulci's depth and let them meander."""
        x, y, z = at
        side = np.abs(x)
        cerebrum = _cerebrum(side, y, z)
        pial = np.maximum(cerebrum, -self._furrows(at, cerebrum, broad, rough))
        hind, hind_white, hind_gap = _hindbrain(side, y, z)
        horns = self._ventricles(side, y, z)
        return Surfaces(
            brain=np.minimum(cerebrum, hind) - np.float32(0.8),
            pial=pial,
            white=pial + np.float32(self.thickness),
            hind_pial=np.maximum(hind, -hind_gap),
            hind_white=hind_white,
            ventricles=horns,
            plexus=np.maximum(ellipsoid((side - 21, y - 34, z - 9), (3.0, 7.0, 3.0)), horns + 1),
            nuclei=_nuclei(side, y, z),
            thalami=ellipsoid((side - 10, y - 14, z - 5), (8.5, 14, 9)),
        )

    def _furrows(self, at: Point, cerebrum: np.ndarray, broad: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """Sulci, the fissure between the hemispheres and the Sylvian fissure: sheets of liquid, as one distance."""
        x, y, z = at
        side = np.abs(x)
        main, second = self._sulci(at, np.float32(2.5) * rough)
        gap = self.open * (1 + np.float32(0.8) * np.clip((cerebrum + 8) / 8, 0, 1))
        deep = np.maximum(main - gap, -cerebrum - 15 - 4 * broad)
        shallow = np.maximum(second - np.float32(0.7) * gap, -cerebrum - 8 + 2 * broad)
        callosum = ellipsoid((y + 2, z - 2), (44.0, 27.0))
        middle = np.maximum(side - np.float32(0.9), -callosum)
        level = z + 4 - np.float32(0.4) * y + rough
        gap = self.open + np.float32(0.14) * np.maximum(side - 38, 0)
        sylvian = np.maximum(np.maximum(np.abs(level) * np.float32(0.93) - gap, 36 - side), np.abs(y) - 36)
        return np.minimum(np.minimum(deep, shallow), np.minimum(middle, sylvian))

    def _sulci(self, at: Point, wander: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances from two independent sets of sheets that stand on the surface.

        They are the zero lines of random waves on the unfolded surface (waves of about one length make a labyrinth,
        as gyri do), continued along the radius. The same waves make both: all of them added, and every other one
        subtracted. |wave| / |slope| is the distance to first order.
        """
        q = [at[0] * np.float32(1 / RADII[0]), at[1] * np.float32(1 / RADII[1]), (at[2] - 8) * np.float32(1 / RADII[2])]
        radius = np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2)
        onto = np.float32(70) / np.maximum(radius, np.float32(0.1))
        u = [a * onto + sign * wander for a, sign in zip(q, (1, -1, 1))]
        total = np.zeros((2, 4, radius.size), dtype=np.float32)  # of even and odd waves: value and slope
        for n, (w, phase) in enumerate(zip(self.waves, self.phases)):
            angle = w[0] * u[0] + w[1] * u[1] + w[2] * u[2] + phase
            part = total[n % 2]
            slope = np.cos(angle)
            part[0] += np.sin(angle)
            for a in range(3):
                part[a + 1] += w[a] * slope
        least = np.float32(0.6 * np.pi / GYRUS * np.sqrt(WAVES))  # where the wave is flat, sheets stay thin
        return tuple(
            np.abs(f[0]) * radius / np.maximum(np.sqrt(f[1] ** 2 + f[2] ** 2 + f[3] ** 2), least)
            for f in (total[0] + total[1], total[0] - total[1])
        )

    def _ventricles(self, side, y, z) -> np.ndarray:
        """Lateral ventricles with their three horns, third and fourth ventricle."""
        at = (side, y, z)
        f = self.fullness
        knots = [((5, -33, 5), 4.5), ((10, -14, 13), 5.5), ((10, 12, 20), 5.5), ((22, 36, 8), 6.5), ((20, 60, 2), 2.0)]
        lateral = _course(at, [(p, r * f) for p, r in knots])
        lateral = smooth_min(lateral, _course(at, [(p, r * f) for p, r in (((22, 36, 6), 4), ((34, 4, -18), 2))]), 3)
        lateral = np.maximum(lateral, np.float32(0.9) - side)  # the septum
        third = ellipsoid((side, y - 6, z + 2), (2.0 * f, 15, 10))
        fourth = ellipsoid((side, y - 37, z + 42), (6.0 * f, 5, 10))
        return np.minimum(np.minimum(lateral, third), fourth)


def _rotation(angles: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


def _base(y: np.ndarray) -> np.ndarray:
    """Height of the cerebrum's underside: the skull's base in front, the tentorium behind."""
    return -24 + np.float32(0.16) * np.maximum(y, 0)


def _cerebrum(side, y, z) -> np.ndarray:
    vault = smooth_max(ellipsoid((side, y, z - 8), RADII), _base(y) - z, 12)
    temporal = ellipsoid((side - 40, y + 2, z + 24), (21.0, 40.0, 20.0))
    return smooth_min(vault, temporal, 10)


def _hindbrain(side, y, z) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(surface of cerebellum and stem, their white matter, gaps between folia)."""
    vermis = ellipsoid((side, y - 48, z + 40), (16.0, 26.0, 20.0))
    cerebellum = smooth_min(ellipsoid((side - 21, y - 50, z + 44), (30.0, 29.0, 23.0)), vermis, 8)
    cerebellum = smooth_max(cerebellum, z - _base(y) + 2, 3)
    stem = _course((side, y, z), [((5, 6, -8), 12), ((0, 14, -34), 15), ((0, 26, -74), 9)])
    # folia lie around the fourth ventricle like the leaves of a fan, 4 mm apart
    fan = np.sqrt((y - 34) ** 2 + (z + 40) ** 2 + np.float32(0.3) * side**2)
    leaf = np.abs(np.sin(fan * np.float32(np.pi / 4.4)))
    gap = np.maximum(leaf * np.float32(1.4) - np.float32(0.35), -cerebellum - 9)
    white = np.minimum(cerebellum + 8 + 3 * (1 - leaf), stem + np.float32(0.5))
    return smooth_min(cerebellum, stem, 6), white, np.maximum(gap, 2 - stem)


def _in_hull(at: Point, radii: Sequence[float]) -> np.ndarray:
    x, y, z = at
    a, b, c = (np.float32(1 / r) for r in radii)
    return (x * a) ** 2 + ((y - 2) * b) ** 2 + ((z + 5) * c) ** 2 < 1


def _nuclei(side, y, z) -> np.ndarray:
    caudate = _course((side, y, z), [((14, -27, 6), 6.5), ((18, -8, 17), 5), ((20, 14, 20), 2.5)])
    putamen = ellipsoid((side - 27, y + 3, z - 2), (5.5, 16, 10))
    pallidum = ellipsoid((side - 19, y - 1, z + 1), (4.5, 9, 6))
    return np.minimum(np.minimum(caudate, putamen), pallidum)


def _course(at: Point, knots: Sequence[tuple[Sequence[float], float]]) -> np.ndarray:
    """Distance to a chain of tapered capsules; phantom_tubes gives a coverage, and a fillet needs a distance."""
    best: np.ndarray | None = None
    for (p, r), (q, s) in itertools.pairwise(knots):
        axis = np.subtract(q, p).astype(np.float32)
        d = [a - np.float32(b) for a, b in zip(at, p)]
        t = np.clip(sum(a * b for a, b in zip(d, axis)) / np.float32(axis @ axis), 0, 1)
        piece = np.sqrt(sum((a - t * b) ** 2 for a, b in zip(d, axis))) - (np.float32(r) + t * np.float32(s - r))
        best = piece if best is None else smooth_min(best, piece, 2)
    assert best is not None, "a course has two knots at least"
    return best
