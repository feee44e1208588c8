"""Lesions put into brains and taken out of them: the same head with and without a tumour, for training on few patients.

A network that has seen a few patients knows each by heart, with its tumour; it learns what a tumour is only where the
same tissue comes with and without one. Both transforms work on what NormalizeBraind returns: 4 sequences (t1, t1ce, t2,
flair) in [-1, 1], the background exactly -1. MONAI has no such transforms.

Letters: S = spatial shape, R = number of regions, N = voxels of a box.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from ...core.errors import InputError

BACKGROUND = -1.0
ROUNDING = 5e-4  # by which a resampled background may miss it
TRIES = 50
RESIDUE = 0.1  # share of a lesion that may be left where the other half has no counterpart


def brain_mask(image: Tensor) -> Tensor:
    """(*S) bool: where some sequence of (4, *S) is not background."""
    return (image > BACKGROUND + ROUNDING).any(0)


def smooth_noise(shape: Sequence[int], cells: int, random: np.random.RandomState) -> Tensor:
    """(*shape) of about N(0, 1), linear between `cells` random values along each axis."""
    coarse = torch.from_numpy(random.standard_normal((1, 1, *[cells] * len(shape))).astype(np.float32))
    return F.interpolate(coarse, tuple(shape), mode="trilinear", align_corners=True)[0, 0]


class FillLesiond(MapTransform):
    """In a case of "lesion": filled, what its label marks becomes the tissue around it, and the label is empty.

    For a brain whose lesions are neither to be learnt as tumour nor as healthy, such as those of multiple sclerosis:
    without them it is a healthy one. Each voxel takes the Gaussian mean of the solid tissue around the lesion, with
    noise as strong as the tissue's own fine structure, which the same case always gets alike.

    Args:
        keys: image, (4, *S).
        label_key: (R, *S) in {0, 1}.
        margin: voxels around the lesion that are replaced, too.
        width: deviation of the Gaussian, in voxels; four times as wide where no tissue is that near.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", margin: int = 1, width: float = 2.0) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.label_key = label_key
        self.margin = int(margin)
        self.width = float(width)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict:
        case = dict(data)
        if case.get("lesion") != "filled":
            return case
        label = torch.as_tensor(case[self.label_key])
        for key in self.key_iterator(case):
            image = torch.as_tensor(case[key])
            brain = brain_mask(image)
            levels = _levels(image, brain)
            if levels is None:
                continue
            share = _softened(label.amax(0) > 0, self.margin) * brain
            solid = (brain & (share == 0) & ~_liquid(image, levels)).float()
            filled = self._around(image, solid)
            case[key] = _like(case[key], torch.lerp(image, filled, share))
        case[self.label_key] = _like(case[self.label_key], torch.zeros_like(label))
        return case

    def _around(self, image: Tensor, solid: Tensor) -> Tensor:
        """(4, *S): means of the solid tissue around each voxel, with its fine structure's noise."""
        near, weight = self._means(image, solid, self.width)
        far, _ = self._means(image, solid, 4 * self.width)
        means = torch.where(weight > 1e-2, near, far)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        fine = ((image - near) * solid).flatten(1).square().sum(1) / solid.sum().clamp(min=1)
        tissue = means + 0.15 * fine.sqrt().view(-1, 1, 1, 1) * noise
        return tissue.clamp(BACKGROUND + 1e-3, 1.0)

    @staticmethod
    def _means(image: Tensor, solid: Tensor, width: float) -> tuple[Tensor, Tensor]:
        smooth = GaussianFilter(3, width)
        weight = smooth(solid[None, None])[0]
        return smooth((image * solid)[None])[0] / weight.clamp(min=1e-6), weight


class RandMirrorLesiond(RandomizableTransform, MapTransform):
    """With a probability, a lesion's tissue is replaced by that of the other half of the brain, and the label is empty.

    The halves meet in the middle of the brain's bounding box along the first axis, which in the working grid (LPS) runs
    from right to left. The seam is as soft as `margin`. A lesion of which more than a tenth has a counterpart outside
    the brain, or within the lesion itself, is left as it is.

    Args:
        keys: image, (4, *S).
        label_key: (R, *S) in {0, 1}.
        prob: of a case with a lesion.
        margin: voxels around the lesion that are replaced, too, as it displaces and swells what is around it.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", prob: float = 0.3, margin: int = 2) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key = label_key
        self.margin = int(margin)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict:
        case = dict(data)
        self.randomize(None)
        lesion = torch.as_tensor(case[self.label_key]).amax(0) > 0
        if not self._do_transform or not lesion.any():
            return case
        for key in self.key_iterator(case):
            image = torch.as_tensor(case[key])
            brain = brain_mask(image)
            mirrored = _mirrored(torch.cat([image, lesion[None].to(image)]), brain)
            healthy = brain_mask(mirrored[:-1]) & (mirrored[-1] == 0)
            if (lesion & ~healthy).sum() > RESIDUE * lesion.sum():
                return case
            share = _softened(lesion, self.margin) * (healthy & brain)
            case[key] = _like(case[key], torch.lerp(image, mirrored[:-1], share))
        case[self.label_key] = _like(case[self.label_key], torch.zeros_like(torch.as_tensor(case[self.label_key])))
        return case


class RandImplantLesiond(RandomizableTransform, MapTransform):
    """With a probability, lesions as of a glioma are drawn into a brain and added to its label.

    A lesion is an uneven ellipsoid of oedema (bright in flair and t2, dark in t1) around a core (darker in t1; with or
    without a rim that enhances in t1ce). Its values are taken from the brain's own range, so that any scanner's suit,
    and some of the tissue's structure shows through. It spares what is liquid. Small bright spots, as age and multiple
    sclerosis cause them, are drawn without a label.

    Args:
        keys: image, (4, *S).
        label_key: (R, *S) in {0, 1}; a lesion belongs to the first region, its core to a second, its rim to a third.
        prob: of an implant.
        radius: voxels, from and to, drawn alike.
        most: lesions, from 1 to so many.
        spot_prob: of unlabelled spots.
        spots: of these, from 1 to so many.

    Raises:
        InputError: radii that are not positive and rising.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        prob: float = 0.5,
        radius: Sequence[float] = (4.0, 12.0),
        most: int = 2,
        spot_prob: float = 0.3,
        spots: int = 8,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.low, self.high = (float(r) for r in radius)
        if not 1 <= self.low <= self.high:
            raise InputError(f"radius must be two rising numbers of voxels from 1 on, got {list(radius)}; change it.")
        self.label_key = label_key
        self.most = int(most)
        self.spot_prob = float(spot_prob)
        self.spots = int(spots)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict:
        case = dict(data)
        self.randomize(None)
        with_spots = self.R.random_sample() < self.spot_prob
        if not (self._do_transform or with_spots):
            return case
        label = torch.as_tensor(case[self.label_key]).clone()
        for key in self.key_iterator(case):
            image = torch.as_tensor(case[key]).clone()
            brain = brain_mask(image)
            levels = _levels(image, brain)
            if levels is None:
                continue
            liquid = _liquid(image, levels)
            if with_spots:
                for _ in range(self.R.randint(1, self.spots + 1)):
                    self._draw(image, None, brain, liquid, levels, self.R.uniform(1.0, 2.2))
            if self._do_transform:
                for _ in range(self.R.randint(1, self.most + 1)):
                    self._draw(image, label, brain, liquid, levels, self.R.uniform(self.low, self.high))
            case[key] = _like(case[key], image)
        case[self.label_key] = _like(case[self.label_key], label)
        return case

    def _draw(
        self, image: Tensor, label: Tensor | None, brain: Tensor, liquid: Tensor, levels: Tensor, radius: float
    ) -> None:
        """One lesion of this radius into image (and label), in place; nothing where the brain has no place for it."""
        centre = self._centre(brain & ~liquid, radius)
        if centre is None:
            return
        reach = round(1.6 * radius) + 3
        box = tuple(slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, brain.shape))
        depth = self._depth(box, centre, radius)
        tissue = brain[box] & ~liquid[box]
        place = (slice(None), *box)
        image[place] = torch.where(tissue, self._painted(image[place], depth, levels, radius), image[place])
        if label is not None:
            core = depth - self._core
            for region, inside in zip(label, (depth, core, core)):
                region[box][tissue & (inside > 0)] = 1

    def _centre(self, allowed: Tensor, radius: float) -> tuple[int, ...] | None:
        """A random allowed voxel whose neighbours at half a radius along each axis are allowed, too."""
        places = allowed.flatten().nonzero()[:, 0]
        step = max(1, round(radius / 2))
        for _ in range(TRIES if len(places) else 0):
            flat = int(places[self.R.randint(len(places))])
            centre = tuple(int(v) for v in np.unravel_index(flat, allowed.shape))
            around = [(*centre[:a], centre[a] + s, *centre[a + 1 :]) for a in range(3) for s in (-step, step)]
            if all(0 <= p < n for q in around for p, n in zip(q, allowed.shape)) and all(
                bool(allowed[q]) for q in around
            ):
                return centre
        return None

    def _depth(self, box: Sequence[slice], centre: Sequence[int], radius: float) -> Tensor:
        """(*N): voxels below the lesion's uneven surface, negative outside."""
        stretch = self.R.uniform(0.75, 1.3, 3)
        lines = [
            (torch.arange(b.start, b.stop, dtype=torch.float32) - c) / s
            for b, c, s in zip(box, centre, stretch.tolist())
        ]
        distance = sum(
            line.square().reshape([-1 if a == axis else 1 for a in range(3)]) for axis, line in enumerate(lines)
        ).sqrt()
        shape = distance.shape
        uneven = 0.14 * smooth_noise(shape, 5, self.R) + 0.07 * smooth_noise(shape, 9, self.R)
        self._core = radius * self.R.uniform(0.25, 0.7)  # voxels of oedema around the core
        return radius * (1 + uneven) - distance

    def _painted(self, image: Tensor, depth: Tensor, levels: Tensor, radius: float) -> Tensor:
        """Image (4, *N) with the lesion: levels (3, 4) are the brain's low, middle and high values."""
        low, middle, high = levels
        up = high - middle
        down = middle - low
        uniform = lambda a, b: float(self.R.uniform(a, b))  # noqa: E731
        dark = uniform(0.1, 0.7)
        oedema = middle.clone()
        oedema[0] -= dark * down[0]
        oedema[1] -= dark * uniform(0.8, 1.2) * down[1]
        oedema[2] += uniform(0.35, 1.0) * up[2]
        oedema[3] += uniform(0.45, 1.1) * up[3]
        core = oedema.clone()
        dark = uniform(0.3, 1.1)
        core[0] = middle[0] - dark * down[0]
        core[1] = middle[1] - dark * down[1]
        core[2] += uniform(-0.2, 0.3) * up[2]
        core[3] += uniform(-0.9, 0.3) * up[3]
        rim = core.clone()
        if self.R.random_sample() < 0.5:
            rim[1] = middle[1] + uniform(0.5, 1.3) * up[1]
        thick = uniform(0.8, 0.2 * radius + 1.0)
        inside = depth - self._core
        shape = (-1, 1, 1, 1)
        values = oedema.view(shape).expand_as(image)
        values = torch.where(inside > 0, rim.view(shape), values)
        values = torch.where(inside > thick, core.view(shape), values)
        structure = uniform(0.1, 0.45)  # share of the tissue's own that is left
        grain = 0.06 * smooth_noise(depth.shape, max(4, min(depth.shape) // 2), self.R)
        values = values + structure * (image - middle.view(shape)) + grain
        share = torch.sigmoid(depth / uniform(0.25, 0.8))
        # a brain's voxel is never exactly the background
        return torch.lerp(image, values, share).clamp(BACKGROUND + 1e-3, 1.0)


def _levels(image: Tensor, brain: Tensor) -> Tensor | None:
    """(3, 4): the 5th, 50th and 99th percentile of each sequence in the brain; None without a brain."""
    values = image[:, brain][:, ::7]
    if values.shape[1] < 100:
        return None
    return torch.quantile(values, torch.tensor([0.05, 0.5, 0.99]), dim=1)


def _liquid(image: Tensor, levels: Tensor) -> Tensor:
    """(*S): dark in t1 and bright in t2."""
    low, middle, high = levels
    dark = image[0] < middle[0] - 0.6 * (middle[0] - low[0])
    return dark & (image[2] > middle[2] + 0.6 * (high[2] - middle[2]))


def _mirrored(image: Tensor, brain: Tensor) -> Tensor:
    """(C, *S) mirrored in the middle of the brain's bounding box along the first axis; background comes in."""
    lines = brain.any(2).any(1).nonzero()[:, 0]
    if not len(lines):
        return image.flip(1)
    source = int(lines[0]) + int(lines[-1]) - torch.arange(image.shape[1])
    inside = (source >= 0) & (source < image.shape[1])
    mirrored = image[:, source.clamp(0, image.shape[1] - 1)].clone()
    mirrored[:-1, ~inside] = BACKGROUND
    mirrored[-1, ~inside] = 0
    return mirrored


def _softened(mask: Tensor, margin: int) -> Tensor:
    """(*S) in [0, 1]: 1 on the mask, 0 beyond `margin` voxels around it, linear in between."""
    share = mask[None, None].float()
    if margin < 1:
        return share[0, 0]
    size = 2 * margin + 1
    wide = F.max_pool3d(share, size, 1, margin)
    return torch.maximum(F.avg_pool3d(wide, 3, 1, 1, count_include_pad=False), share)[0, 0]


def _like(old: Tensor, new: Tensor) -> Tensor:
    """New values under the old tensor's meta data."""
    if not isinstance(old, MetaTensor):
        return new
    result = old.clone()
    result.as_tensor().copy_(new)
    return result
