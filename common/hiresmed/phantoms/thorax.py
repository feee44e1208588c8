"""A CT of the thorax that nobody had to lie still for: procedural, of any size, evaluated box by box.

Every structure is a distance function (phantom_shapes) of one seeded patient (phantom_anatomy), painted over the last
one, air first and bone last. A voxel's value depends on its place alone, so a 1024^3 phantom is streamed in the
memory of one box. HU values are typical ones (Kalender, Computed Tomography, 2011; Hofer, CT Teaching Manual, 2010).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from ..core.noise import place_noise
from ..core.volumes import Volume
from .anatomy import Patient
from .bones import paint_bones, paint_spine
from .courses import Courses
from .shapes import Grid, Texture, check_size, coverage, cuts, ellipsoid, fill, fill_shell, paint, smooth_max
from .tubes import fill_tubes

HU = {
    "air": -1000, "couch shell": -150, "couch foam": -920, "skin": 25, "fat": -105, "muscle": 55, "lung": -865,
    "fissure": -640, "vessel": 40, "contrast": 190, "airway wall": 20, "nodule": 40, "liver": 60, "spleen": 55,
    "stomach": 20, "gas": -950, "gullet": 35,
}  # fmt: skip
BLOCK = 64  # voxels; a float32 block of this size stays in the processor's cache


@lru_cache(maxsize=4)  # trees take 2 s to grow, and the same patient is asked for at several sizes
def _person(seed: int) -> tuple[Patient, Courses, tuple[Texture, Texture, Texture]]:
    """(surfaces, tubes, (broad, middle, fine) texture) of one patient."""
    patient = Patient(seed)
    rng = np.random.default_rng([seed, 7])
    return patient, Courses(patient, seed), (Texture(24.0, rng), Texture(6.0, rng), Texture(1.6, rng))


class ThoraxPhantom(Volume):
    """Procedural chest CT in HU (rounded to integers), the same patient at every size.

    Array axes i, j, k run to the patient's left, back and head; the affine is RAS+ and centred.

    Args:
        shape: (D, H, W) in voxels, any size.
        seed: which patient, and which noise.
        noise: add acquisition noise (place-bound, 14 HU) to the anatomy and its texture.
        field_of_view_mm: extent of the whole image along i, j, k in mm; voxels need not be cubes.
        contrast: vessels and heart as after intravenous contrast (about 190 HU instead of 40).

    >>> phantom = ThoraxPhantom((64, 64, 64), seed=3)
    >>> phantom.read((20, 30, 40), (8, 8, 8)).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        shape: Sequence[int] = (256, 256, 256),
        seed: int = 0,
        noise: bool = True,
        field_of_view_mm: Sequence[float] = (360.0, 300.0, 340.0),
        contrast: bool = True,
    ) -> None:
        self.shape = check_size("ThoraxPhantom", shape, field_of_view_mm, 3)
        self.seed = int(seed)
        self.noise = noise
        self.contrast = contrast
        self.dtype = np.dtype(np.int16)
        self.name = f"thorax_phantom_{seed}"
        self.couch = True
        spacing = np.asarray(field_of_view_mm, dtype=np.float64) / self.shape
        direction = np.array([-1.0, -1.0, 1.0])  # left and back are the negative RAS axes
        self.affine = np.diag([*(direction * spacing), 1.0])
        self.affine[:3, 3] = -direction * spacing * (np.array(self.shape) - 1) / 2

    # grown when first read: a bundle has a default phantom also where an image is given

    @cached_property
    def patient(self) -> Patient:
        return _person(self.seed)[0]

    @cached_property
    def courses(self) -> Courses:
        return _person(self.seed)[1]

    @cached_property
    def textures(self) -> tuple[Texture, Texture, Texture]:
        return _person(self.seed)[2]

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """HU of the box `start`, `shape`, float32 of that shape; in memory proportional to the box."""
        out = np.empty(tuple(int(n) for n in shape), dtype=np.float32)
        for block in itertools.product(*[cuts(int(s), int(n), BLOCK) for s, n in zip(start, shape)]):
            low = [a for a, _ in block]
            size = [b - a for a, b in block]
            values = self._anatomy(self._grid(low, size))
            if self.noise:
                values += np.float32(14) * place_noise(self.seed, low, size)
            place = tuple(slice(a - int(s), b - int(s)) for (a, b), s in zip(block, start))
            out[place] = np.clip(np.rint(values), -1024, 3071)
        return out

    def _grid(self, low: Sequence[int], size: Sequence[int]) -> Grid:
        lines = []
        for axis, (a, n) in enumerate(zip(low, size)):
            step = self.spacing[axis] / self.patient.scale[axis]
            lines.append((np.arange(a, a + n) + 0.5 - self.shape[axis] / 2) * step)
        return Grid.of_lines(lines, float(np.prod(self.spacing) ** (1 / 3)))

    def _anatomy(self, grid: Grid) -> np.ndarray:
        image = np.full(grid.shape, HU["air"], dtype=np.float32)
        if self.couch:
            self._paint_couch(image, grid)
        p = self.patient
        at = (grid.x, grid.y, grid.z)
        trunk = np.minimum(p.trunk(*at), self._arms(grid))
        # what is skipped here lies too far from the box to reach any voxel of it, so skipping changes no value
        if trunk.min() > 20 + grid.edge:
            return image
        texture = [t(grid) for t in self.textures]
        cage = p.cage(*at)
        near = cage.min() < 20 + grid.edge
        self._paint_wall(image, grid, trunk, cage, texture)
        if near:
            over = p.over_diaphragm(*at)
            heart = p.heart(*at)
            self._paint_abdomen(image, grid, cage, over, texture)
            self._paint_lungs(image, grid, p.lungs(*at, cage, over, heart[0]), texture)
            self._paint_lung_trees(image, grid, coverage(np.maximum(cage + 1, over + 1), grid.edge))
        self._paint_vessels(image, grid, wall=1.0)
        if near:
            self._paint_heart(image, grid, heart, over, texture)
        self._paint_vessels(image, grid)
        paint_spine(image, grid, p, texture[2])
        paint_bones(image, grid, p, self.courses.bones, cage, texture[2])
        return image

    def _blood(self, share: float = 1.0) -> float:
        return HU["vessel"] + (HU["contrast"] - HU["vessel"]) * share * self.contrast

    # ---- from outside in -------------------------------------------------------------------------------------------
    def _paint_couch(self, image: np.ndarray, grid: Grid) -> None:
        """A curved carbon couch 43 cm wide: two shells of 1.5 mm around foam."""
        top = np.float32(122) - grid.x**2 * np.float32(1 / 900)
        bottom = np.float32(150) - grid.x**2 * np.float32(1 / 500)
        body = np.maximum(np.maximum(top - grid.y, grid.y - bottom), np.abs(grid.x) - 215) + 0 * grid.z
        fill_shell(image, grid, body, HU["couch shell"], 1.5, HU["couch foam"])

    def _arms(self, grid: Grid) -> np.ndarray:
        """Shoulders that pass into raised arms, as one slanted capsule on either side."""
        x = np.abs(grid.x) - np.float32(122)
        z = grid.z - np.float32(112)
        t = np.clip((x * 45 + z * 90) * np.float32(1 / 10125), 0, 1)
        y = (grid.y - np.float32(26) + 40 * t) * np.float32(0.9)
        return np.sqrt((x - 45 * t) ** 2 + (z - 90 * t) ** 2 + y**2) - np.float32(50) + 4 * t

    def _paint_wall(self, image, grid, trunk, cage, texture) -> None:
        """Skin 1.8 mm, fat, muscle with sheets of fat in it; inside the cage, fat of the mediastinum."""
        broad, middle, fine = texture
        p = self.patient
        fat = np.float32(p.fat) * (1 - grid.y * np.float32(1 / 400)) - np.float32(0.02) * grid.z
        fill_shell(image, grid, trunk, HU["skin"], 1.8, HU["fat"] + 8 * middle)
        flesh = trunk + np.maximum(fat, 4) + np.float32(1.8) * broad
        fill(image, grid, flesh, HU["muscle"] + 7 * fine + 3 * middle)
        # fascia: fat of 1-2 mm along the zero level of a broad random field, and between the chest wall's muscles
        layer = np.abs(cage - np.float32(13) - np.float32(2) * broad) - np.float32(0.8)
        sheets = np.maximum(np.minimum(layer, np.abs(broad) * 14 - np.float32(0.8)), flesh + 3)
        fill(image, grid, np.maximum(sheets, 10 - cage), HU["fat"] + 30)
        # behind the vertebral bodies and in the neck the cage holds muscle
        lean = np.clip((grid.y - p.spine_depth(grid.z) - 4) / 8, 0, 1) + np.clip((grid.z - 112) / 16, 0, 1)
        lean = np.clip(lean.astype(np.float32) + np.clip(0.15 * broad, 0, 1), 0, 1)
        fill(image, grid, cage, HU["fat"] + (HU["muscle"] - HU["fat"]) * lean + 8 * middle)

    def _paint_abdomen(self, image, grid, cage, over, texture) -> None:
        """Diaphragm 3 mm, liver with its vessels, spleen, stomach with a bubble of gas in front."""
        p = self.patient
        x = grid.x
        y = grid.y
        z = grid.z
        if over.max() < -grid.edge:
            return
        fill(image, grid, np.maximum(cage, -over), HU["muscle"])
        belly = p.belly(x, y, z, cage, over)
        fill(image, grid, belly, HU["fat"] + 8 * texture[1])
        stomach = smooth_max(ellipsoid((x - 58, y + 22, z + 112), (48, 44, 46)), belly + 4, 8)
        fill(image, grid, stomach, HU["muscle"])
        fill(image, grid, stomach + 3, HU["stomach"])
        fill(image, grid, np.maximum(stomach + 3, y + 34), HU["gas"])
        spleen = smooth_max(ellipsoid((x - 92, y - 36, z + 110), (32, 44, 46)), belly + 2, 8)
        fill(image, grid, spleen, HU["spleen"] + 50 * self.contrast + 6 * texture[2])
        liver = p.liver(x, y, z, belly)
        fill(image, grid, liver, HU["liver"] + 40 * self.contrast + 6 * texture[2])
        if liver.min() < grid.edge:
            within = coverage(liver + 4, grid.edge)
            fill_tubes(image, grid, self.courses.liver_vessels, self._blood(0.95), within=within)

    def _paint_lungs(self, image, grid, lungs, texture) -> None:
        """Parenchyma, denser behind where a lying patient's blood sinks, with its fissures."""
        x = grid.x
        y = grid.y
        z = grid.z
        grain = 8 * texture[0] + 11 * texture[1] + 16 * texture[2]
        fill(image, grid, lungs, HU["lung"] + np.float32(0.35) * (y + 90) + grain)
        if lungs.min() > grid.edge:
            return
        share = coverage(lungs, grid.edge) * np.float32(min(1.0, 0.8 / grid.edge))  # fissures are 0.8 mm thick
        oblique = (z - 66 + (np.float32(58) - y) * np.float32(1.02) + np.float32(0.0012) * x * x) * np.float32(0.7)
        level = np.maximum(np.abs(z - 4 - np.float32(0.04) * y + np.float32(0.08) * x), np.maximum(x, -oblique))
        for surface in (np.abs(oblique) + 2 * np.abs(texture[0]), level):
            paint(image, share * coverage(surface - np.float32(max(0.4, grid.edge / 2)), grid.edge), HU["fissure"])

    def _paint_lung_trees(self, image, grid, within) -> None:
        """Veins, arteries, airways with walls of 0.6 mm, and the nodules."""
        c = self.courses
        fill_tubes(image, grid, c.lung_veins, self._blood(0.85), within=within)
        fill_tubes(image, grid, c.lung_arteries, self._blood(1.0), within=within)
        fill_tubes(image, grid, c.airways, HU["airway wall"], 0.6, within)
        fill_tubes(image, grid, c.airways, HU["air"], 0.0, within)
        fill_tubes(image, grid, c.nodule_tubes, HU["nodule"], 0.0, within)

    def _paint_heart(self, image, grid, heart, over, texture) -> None:
        """Pericardial fat, muscle, and the four chambers; the heart lies on the diaphragm."""
        fat, muscle, rooms = heart
        if fat.min() > 10 + grid.edge:
            return
        fill(image, grid, smooth_max(fat, over - 2, 8), HU["fat"] + 10 * texture[1])
        fill(image, grid, smooth_max(muscle, over + 1, 8), HU["vessel"] + 60 * self.contrast + 5 * texture[2])
        for room, share in zip(rooms, (0.95, 1.05, 1.1, 0.95)):
            fill(image, grid, np.maximum(room, over + 5), self._blood(share))

    def _paint_vessels(self, image, grid, wall: float = 0.0) -> None:
        """Great vessels with a `wall` in mm, gullet, and the windpipe with its wall of 1.6 mm."""
        c = self.courses
        fill_tubes(image, grid, c.oesophagus, HU["gullet"])
        for tubes, share in ((c.pulmonary_veins, 0.95), (c.veins, 0.8), (c.arteries, 1.1), (c.aorta, 1.0)):
            if wall:
                fill_tubes(image, grid, tubes, HU["muscle"], wall)
            fill_tubes(image, grid, tubes, self._blood(share))
        fill_tubes(image, grid, c.windpipe, HU["airway wall"] + 40, 1.6)
        fill_tubes(image, grid, c.windpipe, HU["air"])
