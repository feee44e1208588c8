"""All figures of two sets of images, generated and real, however they came to lie there.

Letters: N = number of images, D = feature dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ignite.distributed as idist
import torch

from ..core.distributed import rank_share
from ..core.errors import InputError
from .diversity import memorisation, ms_ssim_diversity, nearest_training
from .extractor import FeatureExtractor
from .features import build_extractor
from .mmd import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .neighbourhoods import FeatureReservoir, prdc
from .planes import PlanesOf

Images = Sequence[torch.Tensor]


class SetFeatures:
    """What is kept of a set's features: moments of parts, a reservoir, and the first ones themselves.

    The set is walked through in fixed batches, every world-size-th by this process, so nothing depends on the number of
    processes but the rounding of the moments.

    Args:
        images: (1 or 3, rows, columns) in [-1, 1].
        extractor: the feature network.
        keep: size of the reservoir.
        first: so many features of the lowest numbers are kept; None: all.
        part: number -> name of the part to whose moments an image counts.
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
        made_by = extractor.describe()
        moments = {name: FeatureMoments(extractor.dim, made_by) for name in sorted({part(k) for k in range(self.n)})}
        reservoir = FeatureReservoir(extractor.dim, keep, seed, made_by)
        kept: dict[int, torch.Tensor] = {}
        for numbers, features in self._batches(images):
            reservoir.update(features, numbers)
            kept.update((n, f) for n, f in zip(numbers, features) if n < first)
            for name, sums in moments.items():
                sums.update(features[[part(n) == name for n in numbers]])
        self.moments = {name: sums.all_reduce() for name, sums in moments.items()}
        self.reservoir = reservoir.all_gather()
        self.first = _of_all(kept, extractor.dim)

    def _batches(self, images: Images):
        device = next((p.device for p in self.extractor.parameters()), torch.device("cpu"))
        for k in rank_share(-(-self.n // self.batch_size)):
            numbers = list(range(k * self.batch_size, min((k + 1) * self.batch_size, self.n)))
            batch = [images[n] for n in numbers]
            if len({tuple(image.shape) for image in batch}) == 1:
                yield numbers, self.extractor(torch.stack(batch).to(device)).cpu()
            else:
                yield numbers, torch.cat([self.extractor(image[None].to(device)).cpu() for image in batch])

    def whole(self, *names: str) -> FeatureMoments:
        """Moments of these parts together; of all without names."""
        total = FeatureMoments(self.extractor.dim, self.extractor.describe())
        for name in names or self.moments:
            if name in self.moments:
                total.merge(self.moments[name])
        return total


def _of_all(kept: Mapping[int, torch.Tensor], dim: int) -> torch.Tensor:
    """The features of all processes in the order of their numbers."""
    gathered = [dict(kept)]
    if idist.get_world_size() > 1:
        gathered = [{} for _ in range(idist.get_world_size())]
        torch.distributed.all_gather_object(gathered, dict(kept))
    together = {n: f for part in gathered for n, f in part.items()}
    return torch.stack([together[n] for n in sorted(together)]) if together else torch.zeros(0, dim)


class ImageSetMetrics:
    """Callable (generated, real, training, held_out) -> dict of all figures, each with N and what made it; JSON-able.

    Kernel and Frechet distance, the ratio FID(real, real) / FID(real, generated) at equal numbers, precision, recall,
    density, coverage, MS-SSIM diversity, and with `training` the nearest training images. All processes must call it
    together; the images are shared out among them. Volumes (C, *S) are seen by their three middle planes, which are
    then what N counts, but for MS-SSIM.

    Args:
        extractor: by name, see build_extractor; `random` is comparable with nothing, and says so.
        options: the extractor's own (`weights`, `sha256`, `seed`).
        nearest_k: k of precision and recall; lowered where a set is smaller.
        pairs: of the MS-SSIM; 0: none.
        keep: features of each side for all but the moments.
        first: generated images (planes of volumes) that are compared with all training images.
        device: of the extractor.

    Raises InputError for an extractor without weights, or fewer than four images of a side.
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
        self._walk = {"keep": keep, "batch_size": batch_size, "seed": seed}
        self.nearest: torch.Tensor | None = None  # of each of the first generated images, after a call

    def __call__(
        self, generated: Images, real: Images, training: Images | None = None, held_out: Images | None = None
    ) -> dict:
        if min(len(generated), len(real)) < 4:
            raise InputError(
                f"A comparison wants at least four images of each side, but got {len(generated)} generated and "
                f"{len(real)} real; give more."
            )
        seen = PlanesOf(real)
        drawn = PlanesOf(generated)
        half = len(real) // 2 * seen.each
        rest = min(len(seen) - half, len(drawn))
        theirs = SetFeatures(seen, self.extractor, part=lambda n: _part(n, half, rest), **self._walk)
        made = SetFeatures(
            drawn, self.extractor, first=self.first, part=lambda n: "b" if n < rest else "c", **self._walk
        )
        name = self.extractor.name
        counts = {"n_real": len(seen), "n_generated": len(drawn)}
        x = theirs.reservoir.features
        y = made.reservoir.features
        figures = {
            "made_by": self.extractor.describe(),
            f"{name}_kernel_distance": kernel_distance(x, y, seed=self.seed),
            f"{name}_kernel_distance_of_real_halves": self._between_halves(x),
            f"{name}_frechet_distance": {"value": frechet_distance(theirs.whole(), made.whole()), **counts},
            f"{name}_frechet_ratio": self._ratio(theirs, made, half, rest),
            f"{name}_prdc": prdc(x, y, min(self.nearest_k, len(x) - 1, len(y) - 1)),
        }
        if self.pairs:
            figures["ms_ssim_diversity"] = ms_ssim_diversity(generated, real, self.pairs, self.seed)
        if training is not None:
            figures[f"{name}_memorisation"] = self._memorisation(made.first, training, held_out)
        return figures

    def _between_halves(self, features: torch.Tensor) -> dict:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
        a = features[order[: len(order) // 2]]
        b = features[order[len(order) // 2 :]]
        return kernel_distance(a, b, seed=self.seed)

    @staticmethod
    def _ratio(theirs: SetFeatures, made: SetFeatures, half: int, rest: int) -> dict:
        """Both distances at half against `rest` images, as the Frechet distance grows where N is small."""
        between_real = frechet_distance(theirs.whole("a"), theirs.whole("b"))
        to_made = frechet_distance(theirs.whole("a"), made.whole("b"))
        return {
            "value": between_real / to_made if to_made > 0 else None,
            "between_real": between_real,
            "real_to_generated": to_made,
            "n": [half, rest],
        }

    def _memorisation(self, made: torch.Tensor, training: Images, held_out: Images | None) -> dict:
        planes = PlanesOf(training)
        seen = SetFeatures(planes, self.extractor, first=None, **self._walk).first
        others = None
        if held_out is not None and len(held_out) > 0:
            others = SetFeatures(PlanesOf(held_out), self.extractor, first=self.first, **self._walk).first
        _, nearest = nearest_training(made[:: planes.each], seen)
        self.nearest = nearest // planes.each
        return memorisation(made, seen, others)


def _part(number: int, half: int, rest: int) -> str:
    return "a" if number < half else "b" if number < half + rest else "c"
