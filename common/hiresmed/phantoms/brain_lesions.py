"""Gliomas and their doubles: nested, irregular, drawn from one distribution; which of them counts is a law of place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .brain_anatomy import Point, Surfaces

# BraTS 2023
NECROSIS = 1
OEDEMA = 2
ENHANCING = 3


@dataclass(frozen=True)
class Lesion:
    """One lesion in the head's frame: centre and radius of its core in mm, `tumour` says whether it is labelled."""

    centre: np.ndarray
    radius: float
    stretch: np.ndarray
    halo: float  # mm of oedema beyond the core
    rim: float  # mm of enhancement
    low_grade: bool
    push: float  # share by which tissue at the centre gave way
    tumour: bool

    def offsets(self, at: Point) -> tuple[list[np.ndarray], np.ndarray]:
        """(offsets from the centre, distance from it) at points of the head's frame."""
        d = [a - np.float32(c) for a, c in zip(at, self.centre)]
        return d, np.sqrt(sum((a * np.float32(1 / s)) ** 2 for a, s in zip(d, self.stretch)))

    def displaced(self, at: Point) -> Point:
        """Where the tissue at these points lay before the lesion grew (mass effect)."""
        d, r = self.offsets(at)
        near = np.float32(self.push) * np.exp(-((r * np.float32(0.6 / self.radius)) ** 2))
        x, y, z = (a - b * near for a, b in zip(at, d))
        return x, y, z

    def regions(
        self, at: Point, left: np.ndarray, surfaces: Surfaces, rough: np.ndarray, fine: np.ndarray
    ) -> list[np.ndarray]:
        """Distances (N,) of [oedema with core, core, necrosis] in mm, each inside the one before.

        Oedema spreads through white matter and spares the cortex; nothing enters ventricles or crosses the midline,
        neither the head's nor the image's (`left`: mm from it).
        """
        _, r = self.offsets(at)
        r = r - np.float32(self.radius)
        uneven = np.float32(min(1.0, self.radius / 14))
        sign = np.float32(np.sign(self.centre[0]))
        own_side = 4 - np.minimum(at[0] * sign, left * sign)
        bounds = np.maximum(np.maximum(1 - surfaces.ventricles, surfaces.brain + 3), own_side)
        core = np.maximum(r + uneven * (np.float32(3.4) * rough + np.float32(1.7) * fine), bounds)
        halo = r - np.float32(self.halo) + uneven * (np.float32(5.5) * rough - np.float32(1.5) * fine)
        oedema = np.minimum(np.maximum(np.maximum(halo, surfaces.pial + 2), bounds), core)
        if self.low_grade:  # no rim; a few spots enhance
            return [oedema, core, np.maximum(core + np.float32(0.1), 4 * (fine - np.float32(1.6)))]
        rim = np.maximum(np.float32(self.rim) + np.float32(1.1) * fine, np.float32(0.6))
        return [oedema, core, core + rim]


def draw_lesions(seed: int, tumour: bool, look_alike: bool) -> list[Lesion]:
    """The lesions of one patient.

    With `look_alike`, the law is: a lesion in the left hemisphere (x > 0) is tumour, one in the right is not. Without
    it, the tumour lies on either side and every lesion counts.
    """
    rng = np.random.default_rng([seed, 13])
    side = 1.0 if look_alike or rng.random() < 0.5 else -1.0
    # both are drawn whatever is asked for, so that the double does not change when the tumour is left out
    first = _draw(rng, side, True)
    second = _draw(rng, -side, False)
    return [lesion for lesion, included in ((first, tumour), (second, look_alike)) if included]


def _draw(rng: np.random.Generator, side: float, tumour: bool) -> Lesion:
    radius = float(rng.uniform(8, 17))
    for _ in range(100):
        centre = rng.uniform((16, -52, -4), (44, 50, 44))
        if np.linalg.norm((centre - (0, 0, 8)) / (66, 84, 58)) < 0.72 - 0.004 * radius:
            break
    return Lesion(
        centre=centre * (side, 1, 1),
        radius=radius,
        stretch=rng.uniform(0.8, 1.25, 3),
        halo=float(rng.uniform(6, 15)),
        rim=float(rng.uniform(2.0, 4.5)),
        low_grade=bool(rng.random() < 0.15),
        push=float(rng.uniform(0.15, 0.4)),
        tumour=tumour,
    )
