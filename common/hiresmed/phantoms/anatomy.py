"""One invented patient's chest: where the surfaces lie and how the tubes run, all drawn from a seed.

Coordinates in mm from the middle of the chest: x to the patient's left, y to the back, z to the head. Sizes are
those of a textbook adult (Gray's Anatomy; ICRP 89): cage 26 cm wide, carina at T4/T5, right dome of the diaphragm at
T10 and 1 cm above the left, aorta 25-30 mm, trachea 18 mm, vertebra with disc 20-26 mm; the seed changes them.
"""

from __future__ import annotations

import numpy as np

from .shapes import Profile, above, ellipsoid, loft, smooth_max, smooth_min

# z: half width, front and back of the pleural cage
CAGE = {135: (34, -4, 46), 125: (48, -18, 56), 110: (66, -36, 66), 80: (90, -60, 76), 40: (110, -79, 83),
        0: (121, -90, 85), -50: (129, -96, 85), -100: (132, -98, 83), -150: (128, -95, 80),
        -190: (124, -92, 78)}  # fmt: skip
# z: half width, front and back of the trunk
TRUNK = {-190: (150, -118, 114), -120: (156, -121, 116), -50: (160, -121, 118), 20: (162, -114, 118),
         60: (162, -104, 118), 90: (158, -88, 116), 115: (142, -70, 110), 135: (112, -58, 100),
         155: (80, -50, 88), 190: (60, -46, 76)}  # fmt: skip
# y: half width of the mediastinum; z: its factor
MIDDLE_WIDTH = {-100: 3, -80: 6, -60: 16, -40: 25, 0: 30, 28: 26, 45: 22, 60: 24, 75: 31, 95: 46}
MIDDLE_HEIGHT = {150: 0.95, 100: 1.0, 60: 1.1, 20: 1.1, -20: 1.0, -150: 1.0}
# heart chambers in world axes: centre, radii (first one along the heart's long axis), wall in mm
CHAMBERS = {
    "left ventricle": ((44, -36, -48), (36, 21, 22), 10),
    "right ventricle": ((14, -62, -46), (36, 18, 24), 4),
    "right atrium": ((-17, -34, -28), (24, 22, 28), 3),
    "left atrium": ((12, -4, -14), (22, 18, 19), 3),
}
RIB_END = (0.90, 0.88, 0.86, 0.84, 0.82, 0.80, 0.78, 0.74, 0.70, 0.64, 0.50, 0.30)
CARTILAGE_END = (0.90, 0.97, 0.97, 0.97, 0.97, 0.97, 0.97, 0.90, 0.86, 0.78, 0.50, 0.30)
CARTILAGE_RISE = (0, 0, 4, 12, 22, 36, 52, 34, 30, 26, 0, 0)


class Patient:
    """Surfaces as distance functions (negative inside, mm) and tubes of the patient that belongs to `seed`."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 20240])
        vary = lambda spread: float(1 + np.clip(rng.normal(0, spread), -2 * spread, 2 * spread))  # noqa: E731
        self.scale = np.array([vary(0.04), vary(0.04), vary(0.04)])
        bend = rng.normal(0, [2.5, 3.5])
        self.sway = Profile([(-190, bend[0]), (-60, -bend[1]), (60, bend[1]), (190, -bend[0])], 30)
        self.fat = float(np.clip(12 * vary(0.3), 6, 22))
        self.cage_profiles = _three_profiles(CAGE)
        self.trunk_profiles = _three_profiles(TRUNK, vary(0.02))
        self.middle = Profile(list(MIDDLE_WIDTH.items()), 5), Profile(list(MIDDLE_HEIGHT.items()), 12)
        self.dome = rng.normal((-54, -66), 4.0)
        self.rib_tilt = float(rng.normal(0, 0.02))
        self.rib_drop = vary(0.08)
        self._place_spine(vary)
        self._place_heart(rng, vary)

    # ---- trunk and lungs -------------------------------------------------------------------------------------------
    def trunk(self, x, y, z):
        """Skin surface."""
        return _lofted(self.trunk_profiles, x - self.sway(z), y, z)

    def cage(self, x, y, z):
        """Inner surface of the ribs (parietal pleura)."""
        return _lofted(self.cage_profiles, x - self.sway(z), y, z)

    def diaphragm_height(self, x, y):
        """Height of the two domes over (x, y): steep towards the wall, deepest behind (costophrenic recess)."""
        side = 0.5 + 0.5 * np.clip(x / 40.0, -1, 1)
        top = self.dome[0] * (1 - side) + self.dome[1] * side - 12 / (1 + (x / 25.0) ** 2) ** 2
        q = (x / 131.0) ** 2 + ((y + 5) / 92.0) ** 2
        return top - 20 * q - 55 * q**2 * q - 0.36 * (y + 5) * q

    def over_diaphragm(self, x, y, z):
        """Negative above the diaphragm."""
        return above(self.diaphragm_height, x, y, z)

    def mediastinum(self, x, y, z):
        """The space between the lungs, without the heart's bulge."""
        width = (self.middle[0](y) * self.middle[1](z)).astype(np.float32)
        return np.abs(x - self.sway(z).astype(np.float32)) - width

    def lungs(self, x, y, z, cage=None, over=None, heart=None):
        """Both lungs: in the cage, above the diaphragm, under the apex, beside mediastinum and heart."""
        cage = self.cage(x, y, z) if cage is None else cage
        over = self.over_diaphragm(x, y, z) if over is None else over
        heart = self.heart(x, y, z)[0] if heart is None else heart
        apex = -above(self._apex_height, x, y, z)
        outer = smooth_max(smooth_max(cage + np.float32(1.5), apex, 14), over + np.float32(1), 7)
        return smooth_max(outer, -smooth_min(self.mediastinum(x, y, z), heart - 2, 12), 8)

    @staticmethod
    def _apex_height(x, y):
        return 131 - 16 * ((np.abs(x) - 42) / 26.0) ** 2 - 14 * ((y - 22) / 36.0) ** 2

    # ---- heart -----------------------------------------------------------------------------------------------------
    def _place_heart(self, rng, vary):
        long_axis = np.array([0.74, -0.42, -0.52]) + rng.normal(0, 0.06, 3)
        frame = np.linalg.qr(np.stack([long_axis, [0.4, 0.9, 0.0], [0.0, 0.0, 1.0]], axis=1))[0].T
        self.heart_frame = (frame * np.sign(np.diag(frame))[:, None]).astype(np.float32)
        self.heart_shift = rng.normal(0, 3, 3) * (1, 0.6, 1)
        self.heart_size = vary(0.06)

    def chamber(self, name, x, y, z):
        """Inner surface of one heart chamber, an ellipsoid turned to the heart's long axis."""
        centre, radii, _ = CHAMBERS[name]
        cx, cy, cz = (np.asarray(centre) + self.heart_shift).astype(np.float32)
        turned = [(x - cx) * a + (y - cy) * b + (z - cz) * c for a, b, c in self.heart_frame]
        return ellipsoid(turned, [r * self.heart_size for r in radii])

    def heart(self, x, y, z):
        """(pericardial fat's surface, muscle's surface, [chambers' surfaces])."""
        rooms = [self.chamber(name, x, y, z) for name in CHAMBERS]
        muscle = rooms[0] - CHAMBERS["left ventricle"][2]
        for room, (_, _, wall) in zip(rooms[1:], list(CHAMBERS.values())[1:]):
            muscle = smooth_min(muscle, room - wall, 8)
        fat = smooth_min(smooth_min(rooms[0] - 13, rooms[1] - 8, 40), smooth_min(rooms[2] - 5, rooms[3] - 5, 30), 40)
        return fat, muscle, rooms

    # ---- spine and ribs --------------------------------------------------------------------------------------------
    def _place_spine(self, vary):
        pitch = np.concatenate([np.full(4, 17.0), np.linspace(19.5, 25.5, 12), np.full(4, 29.0)]) * vary(0.02)
        top = 135 + pitch[:4].sum() + pitch[4] / 2
        self.discs = top - np.concatenate([[0], np.cumsum(pitch)])  # height of the disc over each vertebra
        self.levels = 0.5 * (self.discs[:-1] + self.discs[1:])
        self.ribs = self.levels[4:16] + 5
        self.spine_depth = Profile([(190, 24), (150, 28), (110, 40), (50, 52), (-30, 54), (-100, 48), (-190, 36)], 20)
        self.body_width = Profile([(190, 11), (120, 14), (0, 16), (-100, 20), (-190, 23)], 15)

    def vertebra_height(self, z):
        """(height above the nearest vertebra's centre, half the distance of the discs), both of z's shape."""
        n = np.clip(np.searchsorted(-self.discs, -z.astype(np.float64), "right") - 1, 0, len(self.levels) - 1)
        return z - self.levels[n], 0.5 * (self.discs[n] - self.discs[n + 1])

    def rib_height(self, n, x, y):
        """(height of rib n's middle line over (x, y), angle t from 0 behind to 1 in front).

        t is the diamond angle: like the angle around the cage, but made with one division.
        """
        u = np.abs(x) / 120.0
        v = (y + 3) / 88.0
        t = 0.5 - 0.5 * v / np.maximum(u + np.abs(v), 1e-6)
        drop = np.interp(n, (0, 1, 4, 7, 11), (34, 52, 82, 92, 60)) * self.rib_drop
        end = min(t_end := RIB_END[n], 1.0)
        down = self.ribs[n] - drop * (np.minimum(t, end) / end) * (0.55 + 0.45 * np.minimum(t, end) / end)
        rise = CARTILAGE_RISE[n] * np.clip((t - t_end) / max(CARTILAGE_END[n] - t_end, 1e-3), 0, 1)
        return down + rise + self.rib_tilt * x, t

    # ---- abdomen ---------------------------------------------------------------------------------------------------
    def belly(self, x, y, z, cage=None, over=None):
        """Inside of the abdomen: under the diaphragm, within the cage."""
        cage = self.cage(x, y, z) if cage is None else cage
        over = self.over_diaphragm(x, y, z) if over is None else over
        return smooth_max(cage + np.float32(3), np.float32(3) - over, 6)

    def liver(self, x, y, z, belly=None):
        """Under the right dome; its left lobe thins out to the left; its back leaves room for spine and kidney."""
        belly = self.belly(x, y, z) if belly is None else belly
        left = (x + np.float32(0.35) * y + np.float32(0.35) * (z + 70) - 34) * np.float32(0.85)
        back = (y - np.float32(0.7) * np.abs(x + 10) - 20) * np.float32(0.82)
        return smooth_max(smooth_max(belly + np.float32(0.4), left, 18), back, 24)


def _three_profiles(table, factor=1.0):
    return [Profile([(z, row[i] * factor) for z, row in table.items()], 7) for i in range(3)]


def _lofted(profiles, u, y, z):
    half, front, back = (p(z) for p in profiles)
    return loft(u, y - 0.5 * (front + back), half, 0.5 * (back - front))
