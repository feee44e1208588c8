"""How the tubes of one invented patient run: great vessels, airways, long bones, and the trees grown in the lungs.

Points are (x, y, z, radius) in mm, x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .anatomy import Patient
from .tubes import Tubes, chain, grow_tree


class Courses:
    """Tubes of a patient; each attribute is one kind of tissue.

    All of these are Tubes: aorta, arteries (pulmonary trunk), veins (caval), pulmonary_veins, oesophagus, windpipe,
    bones, lung_arteries, lung_veins, airways, nodule_tubes, liver_vessels.

    Attributes:
        nodules: list of (x, y, z, radius) in mm of the patient's own frame (before `Patient.scale`).
    """

    def __init__(self, patient: Patient, seed: int) -> None:
        rng = np.random.default_rng([seed, 20241])
        self.patient = patient
        self.nodules: list[tuple[float, float, float, float]] = []
        self._run_great_vessels(float(rng.uniform(0.85, 1.15)))
        self._run_pipes(float(rng.uniform(0.85, 1.15)))
        self.bones = self._tubes(*self._bones())
        self._grow_trees(rng)

    def _tubes(self, *chains) -> Tubes:
        """Segments, shifted sideways with the spine."""
        rows = np.concatenate([np.asarray(c).reshape(-1, 8) for c in chains])
        for axis_x, axis_z in ((0, 2), (4, 6)):
            rows[:, axis_x] += self.patient.sway(rows[:, axis_z])
        return Tubes(rows)

    def _run_great_vessels(self, a: float) -> None:
        """Aorta with its branches, pulmonary trunk, caval and pulmonary veins; `a` scales the aorta's radius."""
        aorta = [(14, -32, -8, 14), (-8, -40, 16, 15), (-14, -34, 42, 15), (-2, -16, 64, 14), (16, 6, 70, 13),
                 (26, 26, 58, 12.5), (27, 34, 36, 12), (25, 36, 0, 12), (20, 35, -60, 11.5), (9, 31, -120, 11),
                 (4, 22, -190, 10)]  # fmt: skip
        self.aorta = self._tubes(
            chain(*[(x, y, z, r * a) for x, y, z, r in aorta]),
            chain((-4, -16, 72, 6.5), (-18, -12, 100, 6), (-26, -6, 130, 5), (-27, 0, 190, 4)),
            chain((8, -6, 78, 4), (20, -6, 115, 3.8), (26, 0, 190, 3.6)),
            chain((20, 10, 76, 5.5), (29, 8, 108, 5), (48, -2, 132, 5), (90, -8, 132, 4.5), (140, -8, 150, 4)),
            chain((-24, -8, 124, 5), (-48, -4, 134, 5), (-90, -8, 132, 4.5), (-140, -8, 150, 4)),
        )
        self.arteries = self._tubes(
            chain((4, -58, -12, 12), (16, -48, 12, 13), (19, -32, 27, 13), (22, -18, 30, 11)),
            chain((20, -24, 28, 11), (2, -10, 24, 10.5), (-22, -2, 22, 10), (-40, 6, 18, 8.5)),
            chain((20, -24, 28, 11), (32, -6, 33, 10), (44, 10, 26, 8.5)),
        )
        self.veins = self._tubes(
            chain((-20, -36, -12, 9), (-24, -28, 20, 9), (-23, -26, 60, 8), (-22, -28, 84, 7.5)),
            chain((-22, -28, 84, 7), (4, -38, 92, 6.5), (26, -36, 106, 6), (40, -30, 120, 5.5), (90, -22, 128, 5)),
            chain((-22, -28, 84, 7), (-30, -32, 112, 6), (-50, -30, 124, 5.5), (-90, -22, 128, 5)),
            chain((-16, -28, -48, 11), (-17, -8, -72, 11), (-17, 10, -100, 11), (-14, 16, -190, 11)),
            *[chain((s * 26, -14, 118, 5), (s * 30, -12, 150, 5.5), (s * 32, -8, 190, 6)) for s in (-1, 1)],
        )
        self.pulmonary_veins = self._tubes(
            chain((2, -4, -10, 8), (-22, -2, -4, 7), (-38, 0, 2, 6)),
            chain((4, 0, -18, 8), (-24, 6, -20, 7), (-38, 8, -24, 6)),
            chain((22, -4, -8, 8), (36, -4, 2, 7), (44, -2, 6, 6)),
            chain((20, 2, -16, 8), (36, 10, -18, 7), (46, 12, -22, 6)),
        )

    def _run_pipes(self, w: float) -> None:
        """Gullet; windpipe and main bronchi, whose radius `w` scales."""
        self.oesophagus = self._tubes(chain((3, 18, 190, 6), (3, 28, 110, 6.5), (4, 36, 60, 7), (5, 34, 0, 7),
                                            (10, 26, -50, 7), (26, 8, -84, 8), (40, -6, -96, 9)))  # fmt: skip
        self.windpipe = self._tubes(
            chain((0, -6, 190, 8.5 * w), (-1, 6, 120, 8.5 * w), (-4, 16, 70, 8.5 * w), (-4, 19, 44, 8.5 * w)),
            chain((-5, 19, 46, 7.5 * w), (-22, 19, 28, 7 * w), (-40, 16, 14, 6 * w)),
            chain((-3, 19, 46, 7 * w), (18, 20, 30, 6.5 * w), (44, 20, 12, 5.5 * w)),
        )

    def _bones(self) -> Iterator:
        """Collar bones, upper arms, shoulder blades, processes of the vertebrae, necks of the ribs."""
        for s in (-1, 1):
            yield chain((s * 17, -52, 106, 8), (s * 48, -52, 116, 6), (s * 95, -32, 132, 5.5), (s * 128, -12, 140, 6.5))
            yield chain((s * 140, 4, 134, 19), (s * 152, -4, 160, 13), (s * 158, -14, 195, 11))  # humerus, arms raised
            glenoid = (s * 128, 26, 118)
            for f in np.linspace(0, 1, 22):  # shoulder blade: a fan from the glenoid to the medial border
                rim = (s * (84 + 20 * f), 92 - 6 * f, 128 - 118 * f)
                yield [*glenoid, 4.5, *rim, 2.4 + 1.4 * (f in (0, 1))]
            yield chain((s * 90, 98, 104, 3), (s * 120, 72, 126, 4.5), (s * 142, 30, 146, 5))  # its spine, acromion
        for level in self.patient.levels:  # arches of the vertebrae: spinous and transverse processes, rib necks
            y = float(self.patient.spine_depth(level))
            b = float(self.patient.body_width(level)) * 0.85
            yield [0, y + b + 20, level + 1, 4.5, 0, min(y + b + 40, 104), level - 14, 4]
            for s in (-1, 1):
                yield [s * 9, y + b + 8, level + 3, 5.5, s * 32, y + b + 16, level + 6, 4.5]
        for level in self.patient.ribs:
            y = float(self.patient.spine_depth(level))
            back = float(self.patient.cage_profiles[2](level))
            for s in (-1, 1):
                yield [s * 17, y + 6, level + 1, 4.5, s * 38, min(back + 2, y + 34), level + 1, 4.5]

    def _points(self, inside: Callable, count: int, low, high, rng) -> np.ndarray:
        """`count` random points where inside(x, y, z) is negative."""
        points = np.empty((0, 3))
        while len(points) < count:
            p = rng.uniform(low, high, (4 * count, 3))
            x, y, z = p.astype(np.float32).T
            points = np.concatenate([points, p[inside(x, y, z) < 0]])
        return points[:count]

    def _grow_trees(self, rng: np.random.Generator) -> None:
        """Arteries, veins and airways of both lungs, 1-2 nodules each, and the liver's vessels."""
        deep, wide = (lambda x, y, z, d=d: self.patient.lungs(x, y, z) + d for d in (2.5, 14))
        arteries = []
        veins = []
        airways = []
        for s in (-1, 1):
            near, far = sorted((s * 8.0, s * 135.0))
            box = (near, -105, -150), (far, 95, 132)
            goals = self._points(deep, int(rng.integers(1350, 1650)), *box, rng)
            arteries.append(grow_tree((s * 42, 8, 18 if s < 0 else 24), (s * 0.8, 0.3, -0.5), goals, 0.62, rng))
            goals = self._points(deep, int(rng.integers(1150, 1450)), *box, rng)
            upper = goals[:, 2] > 10 - 0.5 * goals[:, 1]
            veins.append(grow_tree((s * 40, -1, 4), (s * 0.8, -0.4, 0.5), goals[upper], 0.6, rng))
            veins.append(grow_tree((s * 40, 10, -22), (s * 0.8, 0.3, -0.5), goals[~upper], 0.6, rng))
            goals = self._points(wide, 130, *box, rng)
            airways.append(grow_tree((s * 42, 17, 13), (s * 0.8, -0.1, -0.6), goals, 0.7, rng))
            centres = self._points(wide, int(rng.integers(1, 3)), *box, rng)
            self.nodules += [(float(x), float(y), float(z), float(rng.uniform(3, 8))) for x, y, z in centres]
        self.lung_arteries = Tubes(np.concatenate(arteries))
        self.lung_veins = Tubes(np.concatenate(veins))
        self.airways = Tubes(np.concatenate(airways))
        self.nodule_tubes = Tubes(np.concatenate([_nodule(*n, rng) for n in self.nodules]))
        inner = lambda x, y, z: self.patient.liver(x, y, z) + 4  # noqa: E731
        goals = self._points(inner, 260, (-130, -95, -190), (40, 80, -60), rng)
        self.liver_vessels = Tubes(grow_tree((-18, -5, -120), (-0.7, 0, 0.6), goals, 0.8, rng))


def _nodule(x: float, y: float, z: float, r: float, rng: np.random.Generator) -> np.ndarray:
    """A lobulated nodule of radius r mm with fourteen thin spicules, as segments (18, 8)."""
    centre = np.array([x, y, z])
    rows = []
    for d in rng.normal(size=(14, 3)):
        rows.append([*centre, r * 0.5, *(centre + d / np.linalg.norm(d) * r * rng.uniform(1.2, 2.2)), 0.3])
    for d in rng.normal(0, r * 0.35, (4, 3)):
        rows.append([*centre, r * 0.9, *(centre + d), r * 0.7])
    return np.array(rows)
