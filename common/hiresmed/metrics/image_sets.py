"""All figures of two sets of images, generated and real, whatever their source.

Letters: N = number of images, D = feature dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from ..core.distributed import gather_objects, rank_share
from ..core.errors import InputError
from .diversity import memorisation, ms_ssim_diversity, nearest_training
from .extractor import FeatureExtractor
from .features import build_extractor
from .mmd import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .neighbourhoods import FeatureReservoir, prdc
from .planes import Images, PlanesOf

logger = logging.getLogger(__name__)
FEWEST = 4  # images of a side, of whose halves there is a covariance


class SetFeatures:
    """A summary of a set's features: moments of its parts, a reservoir, and the features of its first images.

    The set is read in fixed batches, every world-size-th by this process, so that only the rounding of the moments
    depends on the number of processes.

    Args:
        images: (1 or 3, rows, columns) in [-1, 1].
        extractor: the feature network.
        keep: size of the reservoir.
        first: number of images, the first ones, whose features are kept; None: all.
        part: number of an image -> name of the part whose moments it belongs to.
        batch_size: images per call of the extractor.
        seed: of the reservoir.
    """

    def __init__(
        self,
        images: Images,
        extractor: FeatureExtractor,
        keep: int = 5000,
        first: int | None = 0,
        part: Callable[[int], str] = lambda number: "all",
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.n = len(images)
        self.extractor = extractor
        self.batch_size = batch_size
        first = self.n if first is None else min(first, self.n)
        origin = extractor.describe()
        moments = {name: FeatureMoments(extractor.dim, origin) for name in sorted({part(k) for k in range(self.n)})}
        reservoir = FeatureReservoir(extractor.dim, keep, seed, origin)
        first_features: dict[int, torch.Tensor] = {}
        for numbers, features in self._batches(images):
            reservoir.update(features, numbers)
            first_features.update((n, f) for n, f in zip(numbers, features) if n < first)
            for name, sums in moments.items():
                sums.update(features[[part(n) == name for n in numbers]])
        self.moments = {name: sums.all_reduce() for name, sums in moments.items()}
        self.reservoir = reservoir.all_gather()
        self.first = _of_all(first_features, extractor.dim)

    def _batches(self, images: Images):
        device = next((p.device for p in self.extractor.parameters()), torch.device("cpu"))
        for k in rank_share(-(-self.n // self.batch_size)):
            numbers = list(range(k * self.batch_size, min((k + 1) * self.batch_size, self.n)))
            batch = [images[n] for n in numbers]
            if len({tuple(image.shape) for image in batch}) == 1:
                yield numbers, self.extractor(torch.stack(batch).to(device)).cpu()
            else:
                yield numbers, torch.cat([self.extractor(image[None].to(device)).cpu() for image in batch])

    def combined_moments(self, *names: str) -> FeatureMoments:
        """Moments of the named parts together; without names, of all parts."""
        total = FeatureMoments(self.extractor.dim, self.extractor.describe())
        for name in names or self.moments:
            if name in self.moments:
                total.merge(self.moments[name])
        return total


def _of_all(features: Mapping[int, torch.Tensor], dim: int) -> torch.Tensor:
    """The features of all processes in the order of their numbers."""
    together = {n: f for part in gather_objects(dict(features)) for n, f in part.items()}
    return torch.stack([together[n] for n in sorted(together)]) if together else torch.zeros(0, dim)


class ImageSetMetrics:
    """Callable (generated, real, training, held_out) -> dict of all figures with N and the extractor; JSON-able.

    Kernel and Frechet distance, the ratio FID(real, real) / FID(real, generated) at equal numbers, precision, recall,
    density, coverage, MS-SSIM diversity, and with `training` the nearest training images. The standard error of the
    kernel distance is over patients where a set names them (`subjects`), else over images. All processes must call it
    together; the images are distributed among them. Volumes (C, *S) are represented by their three middle planes, and N
    counts planes, except for MS-SSIM.

    Args:
        extractor: by name, see build_extractor; figures of `random` cannot be compared, and say so.
        options: the extractor's own (`weights`, `sha256`, `seed`).
        nearest_k: k of precision and recall; lowered where a set is smaller.
        pairs: of the MS-SSIM; 0: none.
        keep: number of features kept of each side, for everything but the moments.
        first: number of generated images (planes of volumes) that are compared with all training images.
        seed: of all random choices.
        batch_size: images per call of the extractor.
        device: of the extractor.

    Of fewer than four images on a side there are no distances, with a warning. Raises InputError for an extractor
    without weights, or a side without images.
    """

    def __init__(
        self,
        extractor: str = "squeezenet",
        options: Mapping | None = None,
        nearest_k: int = 5,
        pairs: int = 200,
        keep: int = 5000,
        first: int = 500,
        seed: int = 0,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
    ) -> None:
        self.extractor = build_extractor(extractor, **dict(options or {})).to(device)
        self.nearest_k = nearest_k
        self.pairs = pairs
        self.first = first
        self.seed = seed
        self._walk: dict[str, Any] = {"keep": keep, "batch_size": batch_size, "seed": seed}
        self.nearest: torch.Tensor | None = None  # of each of the first generated images, after a call

    def __call__(
        self, generated: Images, real: Images, training: Images | None = None, held_out: Images | None = None
    ) -> dict:
        fewest = min(len(generated), len(real))
        if fewest < 1:
            raise InputError(
                f"A comparison must have images on both sides, got {len(generated)} generated and {len(real)} real; "
                "give more."
            )
        real_planes = PlanesOf(real)
        generated_planes = PlanesOf(generated)
        half = len(real) // 2 * real_planes.each
        rest = min(len(real_planes) - half, len(generated_planes))
        real_features = SetFeatures(real_planes, self.extractor, part=lambda n: _part(n, half, rest), **self._walk)
        generated_features = SetFeatures(
            generated_planes, self.extractor, first=self.first, part=lambda n: "b" if n < rest else "c", **self._walk
        )
        name = self.extractor.name
        figures: dict = {"made_by": self.extractor.describe()}
        if fewest >= FEWEST:
            figures |= self._distances(real_planes, generated_planes, real_features, generated_features, half, rest)
        else:
            logger.warning(
                f"Distances between sets must have at least {FEWEST} images on both sides, got {len(generated)} "
                f"generated and {len(real)} real, and are left out; give more images."
            )
        if self.pairs and fewest >= 2:
            figures["ms_ssim_diversity"] = ms_ssim_diversity(generated, real, self.pairs, self.seed)
        if training is not None:
            figures[f"{name}_memorisation"] = self._memorisation(generated_features.first, training, held_out)
        return figures

    def _distances(
        self,
        real_planes: PlanesOf,
        generated_planes: PlanesOf,
        real_features: SetFeatures,
        generated_features: SetFeatures,
        half: int,
        rest: int,
    ) -> dict:
        name = self.extractor.name
        counts = {"n_real": len(real_planes), "n_generated": len(generated_planes)}
        x = real_features.reservoir.features
        y = generated_features.reservoir.features
        groups = (
            real_planes.groups_of(real_features.reservoir.numbers()),
            generated_planes.groups_of(generated_features.reservoir.numbers()),
        )
        distance = frechet_distance(real_features.combined_moments(), generated_features.combined_moments())
        return {
            f"{name}_kernel_distance": kernel_distance(x, y, *groups),
            f"{name}_kernel_distance_of_real_halves": self._between_halves(x, groups[0]),
            f"{name}_frechet_distance": {"value": distance, **counts},
            f"{name}_frechet_ratio": self._ratio(real_features, generated_features, half, rest),
            f"{name}_prdc": prdc(x, y, min(self.nearest_k, len(x) - 1, len(y) - 1)),
        }

    def _between_halves(self, features: torch.Tensor, groups: Sequence[Hashable]) -> dict:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
        a = order[: len(order) // 2]
        b = order[len(order) // 2 :]
        return kernel_distance(features[a], features[b], [groups[n] for n in a], [groups[n] for n in b])

    @staticmethod
    def _ratio(real: SetFeatures, generated: SetFeatures, half: int, rest: int) -> dict:
        """Both distances with the same numbers of images, since the Frechet distance is larger for small N."""
        between_real = frechet_distance(real.combined_moments("a"), real.combined_moments("b"))
        to_generated = frechet_distance(real.combined_moments("a"), generated.combined_moments("b"))
        return {
            "value": between_real / to_generated if to_generated > 0 else None,
            "between_real": between_real,
            "real_to_generated": to_generated,
            "n": [half, rest],
        }

    def _memorisation(self, generated: torch.Tensor, training: Images, held_out: Images | None) -> dict:
        planes = PlanesOf(training)
        training_features = SetFeatures(planes, self.extractor, first=None, **self._walk).first
        held_out_features = None
        if held_out is not None and len(held_out) > 0:
            held_out_features = SetFeatures(PlanesOf(held_out), self.extractor, first=self.first, **self._walk).first
        _, nearest = nearest_training(generated[:: planes.each], training_features)
        self.nearest = nearest // planes.each
        return memorisation(generated, training_features, held_out_features)


def _part(number: int, half: int, rest: int) -> str:
    return "a" if number < half else "b" if number < half + rest else "c"
