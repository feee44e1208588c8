"""A brain with a glioma in four MR sequences that belongs to nobody: procedural, of any size, with its truth.

Tissues are distance functions (phantom_shapes) of one seeded head (phantom_brain_anatomy) and its lesions
(phantom_brain_lesions), painted as one seeded examination shows them (phantom_brain_contrast). Voxels are made block
by block and only where brain may lie, so that hardly more is held than the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..core.noise import place_noise
from ..core.tiles import box_index
from .brain_anatomy import Head, Point, Surfaces
from .brain_contrast import SEQUENCES, Contrast, blurred, draw_contrast
from .brain_lesions import ENHANCING, NECROSIS, OEDEMA, Lesion, draw_lesions
from .shapes import Grid, Texture, check_size, coverage, cuts, fill, paint

BLOCK = 48  # voxels; a block's arrays stay in the processor's cache
FIELD_OF_VIEW_MM = (176.0, 208.0, 160.0)


class BrainPhantom:
    """Procedural skull-stripped brain in t1, t1ce, t2, flair with a glioma, the same patient at every size.

    Array axes i, j, k run to the patient's left, back and head (LPS, as BraTS); the affine is RAS+ and centred. The
    look-alike is drawn from the tumour's own distribution; only its place tells it apart: **left hemisphere (upper
    half of axis 0) is tumour, right hemisphere is not**. So nothing but a coordinate decides.

    Args:
        shape: (D, H, W) in voxels, any size.
        spacing: voxel size in mm; None: the whole shape shows 176 x 208 x 160 mm. BraTS is (240, 240, 155) at 1 mm.
        seed: which patient, which examination, which noise.
        contrast: standard; random (intensities, bias, blur, slice thickness, gamma, noise, deformation); varied (the
            same, but liquor, brain and oedema keep their order in each sequence).
        look_alike: add the double; the tumour then lies in the left hemisphere, without it on either side.
        tumour: add the tumour.
        noise: add Rician noise.

    Raises:
        InputError: a bad shape, spacing or contrast.

    >>> image, label = BrainPhantom((16, 16, 16), seed=3).read()
    >>> image.shape, label.dtype.name
    ((4, 16, 16, 16), 'uint8')
    """

    sequences = SEQUENCES

    def __init__(
        self,
        shape: Sequence[int] = (240, 240, 155),
        spacing: Sequence[float] | None = None,
        seed: int = 0,
        contrast: str = "standard",
        look_alike: bool = True,
        tumour: bool = True,
        noise: bool = True,
    ) -> None:
        extent = FIELD_OF_VIEW_MM if spacing is None else [s * n for s, n in zip(spacing, shape)]
        self.shape = check_size("BrainPhantom", shape, extent, 3)
        self.seed = int(seed)
        self.noise = noise
        self.name = f"brain_phantom_{seed}"
        self.spacing = tuple(float(e / n) for e, n in zip(extent, self.shape))
        self.contrast = draw_contrast(self.seed, contrast)
        self.lesions = draw_lesions(self.seed, tumour, look_alike)
        direction = np.array([-1.0, -1.0, 1.0])  # left and back are the negative RAS axes
        self.affine = np.diag([*(direction * self.spacing), 1.0])
        self.affine[:3, 3] = -direction * self.spacing * (np.array(self.shape) - 1) / 2

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(image (4, *S) float32, at least 0 and 0 outside the brain; label (*S) uint8 in BraTS 2023 codes 0-3)."""
        image = np.zeros((4, *self.shape), dtype=np.float32)
        field = np.ones((4, *self.shape), dtype=np.float16)  # coil field, kept until blur is done
        brain = np.zeros(self.shape, dtype=bool)
        label = np.zeros(self.shape, dtype=np.uint8)
        painter = _Painter(self.seed, self.contrast, self.lesions)
        for block in itertools.product(*[cuts(0, n, BLOCK) for n in self.shape]):
            place = box_index([a for a, _ in block], [b - a for a, b in block])
            inside, tissue = painter.voxels(self._grid(block))
            targets: list[np.ndarray] = [image, field, brain, label]
            for target, values in zip(targets, tissue):
                target[place][..., inside] = values
        return self._acquired(image, field, brain), label

    def _grid(self, block: Sequence[tuple[int, int]]) -> Grid:
        lines = [
            (np.arange(a, b) + 0.5 - self.shape[axis] / 2) * self.spacing[axis] for axis, (a, b) in enumerate(block)
        ]
        return Grid.of_lines(lines, float(np.prod(self.spacing) ** (1 / 3)))

    def _acquired(self, image: np.ndarray, field: np.ndarray, brain: np.ndarray) -> np.ndarray:
        """Resolution, gamma, coil field and Rician noise of every sequence, then 0 outside the brain; in place."""
        c = self.contrast
        if not brain.any():
            return image
        # all but the noise is done in the box around the brain, a third of the volume
        lines = [np.flatnonzero(brain.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
        box = tuple(slice(line[0], line[-1] + 1) for line in lines)
        brain = brain[box]
        start = [s.start for s in box]
        shape = brain.shape
        for n in range(4):
            signal = blurred(np.ascontiguousarray(image[n][box]), c, n, self.spacing)[brain]
            signal = np.clip(signal, 0, None) ** c.gamma[n, 0] * field[n][box][brain]
            if self.noise:
                real, imaginary = (place_noise(self.seed, start, shape, 2 * n + k)[brain] for k in (0, 1))
                signal = np.hypot(signal + c.noise[n] * real, c.noise[n] * imaginary)
            image[n] = 0
            # a brain voxel is never exactly 0, which would say that it lies outside
            image[n][box][brain] = np.maximum(signal * c.gain[n, 0], np.float32(1e-3))
        return image


class _Painter:
    """Makes the voxels of one block; its textures take 5 MB, which a list of phantoms need not hold."""

    def __init__(self, seed: int, contrast: Contrast, lesions: Sequence[Lesion]) -> None:
        self.contrast = contrast
        self.lesions = lesions
        self.head = Head(seed, contrast.deformation)
        rng = np.random.default_rng([seed, 19])
        self._textures = {pitch: Texture(pitch, rng) for pitch in (30.0, 11.0, 5.0, 2.0)}
        self._coils = [Texture(80.0, rng) for _ in range(2)]
        angle = rng.uniform(0, 2 * np.pi, (4, 1))
        self._mix = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    def voxels(self, grid: Grid) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """(mask of the block's N voxels where brain may lie, (image (4, N), coil field (4, N), brain (N,), label))."""
        inside = self.head.reach((grid.x, grid.y, grid.z))
        if not inside.any():
            return inside, ()
        x, y, z = (np.broadcast_to(line, grid.shape)[inside] for line in (grid.x, grid.y, grid.z))
        x, y, z = self.head.place((x, y, z), [t(grid)[inside] for t in self.head.bending])
        near = self.head.hull((x, y, z))
        inside[inside] = near
        return inside, self._tissue(grid, inside, (x[near], y[near], z[near])) if near.any() else ()

    def _tissue(self, grid: Grid, inside: np.ndarray, at: Point) -> tuple[np.ndarray, ...]:
        texture = {pitch: t(grid)[inside] for pitch, t in self._textures.items()}
        healthy = at
        for lesion in self.lesions:
            healthy = lesion.displaced(healthy)
        left = np.broadcast_to(grid.x, grid.shape)[inside]
        surfaces = self.head.surfaces(healthy, texture[30.0], texture[11.0])
        image = self._healthy(grid, surfaces, texture)
        label = np.zeros(image.shape[1], dtype=np.uint8)
        for lesion in self.lesions:
            regions = lesion.regions(at, left, surfaces, texture[11.0], texture[5.0])
            self._lesion(image, grid, regions, texture)
            if lesion.tumour:
                for region, code in zip(regions, (OEDEMA, ENHANCING, NECROSIS)):
                    label[region < 0] = code
        field = np.exp(self.contrast.bias * (self._mix @ np.stack([t(grid)[inside] for t in self._coils])))
        brain = surfaces.brain < 0
        return image, field, brain, np.where(brain, label, 0)

    def _healthy(self, grid: Grid, s: Surfaces, texture: dict) -> np.ndarray:
        mean = self.contrast.means
        grain = self.contrast.grain
        grey = mean["grey"] + grain * (texture[2.0] + texture[5.0])
        white = mean["white"] + grain * (texture[5.0] + texture[30.0])
        liquid = mean["csf"] + grain * texture[2.0]
        image = np.empty((4, s.brain.size), dtype=np.float32)
        image[:] = liquid
        # contrast agent fills the veins of the sulci here and there
        vein = np.clip(texture[2.0] - 1, 0, 1) * np.float32(0.6)
        image[1] += vein * (mean["plexus"][1] - image[1])
        fill(image, grid, s.hind_pial, grey)
        fill(image, grid, s.hind_white, mean["stem"] + grain * texture[5.0])
        fill(image, grid, s.pial, grey)
        fill(image, grid, s.white, white)
        deep = np.maximum(s.nuclei, s.white), np.maximum(s.thalami, s.pial)
        for distance, tissue in zip(deep, ("nuclei", "thalami")):
            fill(image, grid, distance, mean[tissue] + grain * texture[2.0])
        fill(image, grid, s.ventricles, liquid)
        fill(image, grid, s.plexus, mean["plexus"] + 3 * grain * texture[2.0])
        return image

    def _lesion(self, image: np.ndarray, grid: Grid, regions: Sequence[np.ndarray], texture: dict) -> None:
        """Oedema fades outwards over a few mm; core and rim are sharp, with bleeding and debris in the necrosis."""
        mean = self.contrast.means
        grain = self.contrast.grain
        oedema, core, necrosis = regions
        if oedema.min() > grid.edge:
            return
        strength = np.clip(np.float32(0.75) - oedema * np.float32(0.06), 0, 1)
        paint(image, coverage(oedema, grid.edge) * strength, mean["oedema"] + 2 * grain * texture[5.0])
        fill(image, grid, core, mean["enhancing"] + 2 * grain * (texture[2.0] + texture[5.0]))
        fill(image, grid, necrosis, mean["necrosis"] + 3 * grain * (texture[5.0] + texture[11.0]))
