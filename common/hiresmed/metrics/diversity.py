"""Diversity and memorisation of a generator: MS-SSIM between its images, distances from the nearest training images.

Letters: N = number of generated images, M = of training images, D = feature dimension (or pixels).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.metrics import MultiScaleSSIMMetric

from ..core.errors import InputError
from .neighbourhoods import distances
from .planes import Images

# of Wang et al. 2003; images too small for five scales take the first of them, rescaled to sum 1
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_KERNEL = 11
_BATCH = 16  # pairs in memory at a time


def ms_ssim_scales(shape: Sequence[int]) -> int:
    """How many of MS-SSIM's five scales MONAI can use for that spatial shape; InputError below 11 pixels a side."""
    # MONAI asks for 11 (n - 1)^2 pixels; the window has to fit into the image halved n - 1 times, too
    fitting = [n for n in range(1, 6) if min(shape) // max((n - 1) ** 2, 2 ** (n - 1)) >= _KERNEL]
    if not fitting:
        raise InputError(
            f"MS-SSIM must have images of at least {_KERNEL} pixels a side, got {tuple(shape)}; use larger images."
        )
    return fitting[-1]


def random_pairs(n: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """`pairs` distinct pairs i < j of n images, drawn without replacement; all pairs where n has fewer."""
    total = n * (n - 1) // 2
    random = torch.Generator().manual_seed(seed)
    if pairs >= total:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    if total <= 4 * pairs or total < 2**16:
        return [_unranked(k) for k in torch.randperm(total, generator=random)[:pairs].tolist()]
    ranks: dict[int, None] = {}
    while len(ranks) < pairs:  # few of very many: duplicates are rare
        ranks |= dict.fromkeys(torch.randint(total, (pairs - len(ranks),), generator=random).tolist())
    return [_unranked(k) for k in ranks]


def _unranked(k: int) -> tuple[int, int]:
    """The k-th pair i < j in the order (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    j = (1 + math.isqrt(1 + 8 * k)) // 2
    return k - j * (j - 1) // 2, j


def pair_similarities(images: Images, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """MS-SSIM of each pair of images (C, *S) in [-1, 1], scaled to [0, 1]; shape (len(pairs),)."""
    shape = images[0].shape[1:]
    weights = _WEIGHTS[: ms_ssim_scales(shape)]
    weights = tuple(w / sum(weights) for w in weights)
    metric = MultiScaleSSIMMetric(spatial_dims=len(shape), data_range=1.0, weights=weights, kernel_size=_KERNEL)
    similarities = []
    for first in range(0, len(pairs), _BATCH):
        batch = pairs[first : first + _BATCH]
        x, y = (torch.stack([(images[p[side]].float() + 1) / 2 for p in batch]) for side in (0, 1))
        similarities.append(torch.as_tensor(metric(x, y)).flatten().cpu())
        metric.reset()
    return torch.cat(similarities)


def ms_ssim_diversity(generated: Images, real: Images, pairs: int = 200, seed: int = 0) -> dict:
    """Mean MS-SSIM of random pairs of generated images, beside that of the same number of pairs of real images.

    A value far above the real images' means that the generator makes fewer kinds of images (Odena et al. 2017, section
    4.2); on its own the figure says nothing, since anatomy is similar in all images.

    Args:
        generated, real: images (C, *S) in [-1, 1] of one shape; tensors (N, C, *S), lists or datasets.
        pairs: how many of each side; fewer where a side has fewer.
        seed: of the pairs.

    Returns:
        dict: `value`, `standard_error` (a jackknife over images; too large, by the root of 2 at most, where hardly two
        pairs share an image), `real_value`, `real_standard_error`, `n_generated`, `n_real`, `pairs`, `scales`, `seed`.

    Raises InputError for fewer than two images of a side, or unequal shapes.
    """
    if min(len(generated), len(real)) < 2 or pairs < 1:
        raise InputError(
            f"Diversity must have at least two images of each side and one pair, got {len(generated)} generated, "
            f"{len(real)} real and {pairs=}; give more images."
        )
    if generated[0].shape != real[0].shape:
        raise InputError(
            f"Diversity must have generated and real images of one shape, got {tuple(generated[0].shape)} and "
            f"{tuple(real[0].shape)}; resample one side, since MS-SSIM depends on the grid."
        )
    # the same number of pairs of each side
    pairs = min(pairs, *(len(side) * (len(side) - 1) // 2 for side in (generated, real)))
    pairs_by_side = [random_pairs(len(side), pairs, seed) for side in (generated, real)]
    generated_similarity, real_similarity = (pair_similarities(s, p) for s, p in zip((generated, real), pairs_by_side))
    return {
        "value": generated_similarity.mean().item(),
        "standard_error": _standard_error(generated_similarity, pairs_by_side[0]),
        "real_value": real_similarity.mean().item(),
        "real_standard_error": _standard_error(real_similarity, pairs_by_side[1]),
        "n_generated": len(generated),
        "n_real": len(real),
        "pairs": pairs,
        "scales": ms_ssim_scales(generated[0].shape[1:]),
        "seed": seed,
    }


def _standard_error(values: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Standard error of the mean over pairs of images by a jackknife over images; None for fewer than three."""
    of_pairs = torch.tensor(pairs)
    images = of_pairs.unique()
    without = torch.stack([values[(of_pairs != image).all(1)].double().mean() for image in images])
    if len(images) < 3 or not torch.isfinite(without).all():
        return None
    return math.sqrt((len(images) - 1) * without.var(correction=0).item())


def nearest_training(
    generated: torch.Tensor, training: torch.Tensor | Iterable[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean distance (N,), float64, of each generated image from the nearest training image, and its index (N,).

    Args:
        generated: features or flattened images (N, D).
        training: the same of the training images, (M, D) or batches of it, which need not be in memory together.
    """
    nearest = torch.full((len(generated),), math.inf, dtype=torch.float64)
    index = torch.full((len(generated),), -1)
    count = 0
    for batch in [training] if isinstance(training, torch.Tensor) else training:
        if batch.ndim != 2 or generated.ndim != 2 or batch.shape[1] != generated.shape[1]:
            raise InputError(
                "Nearest training images must have two sets of features of one dimension, got "
                f"{tuple(generated.shape)} and {tuple(batch.shape)}; use one extractor for both."
            )
        batch_nearest, position = torch.cat(list(distances(generated, batch))).min(1)
        closer = batch_nearest < nearest
        nearest = torch.where(closer, batch_nearest, nearest)
        index = torch.where(closer, position + count, index)
        count += len(batch)
    if count == 0:
        raise InputError("Nearest training images must have at least one training image, got none; give some.")
    return nearest, index


def memorisation(
    generated: torch.Tensor,
    training: torch.Tensor | Sequence[torch.Tensor],
    held_out: torch.Tensor | None = None,
    share: float = 0.01,
) -> dict:
    """Distances of generated images from training images, beside those of real images that were not trained on.

    A generator that copies is nearer to its training set than new patients are.

    Args:
        generated, training, held_out: features (or flattened images) (N, D), (M, D), (L, D) by one extractor; held_out
            of other subjects than the training images.
        share: quantile of the held-out images' nearest distances below which a generated image counts as near.

    Returns:
        dict: `median`, `minimum` of the distances; `closest`: [generated, training] index of the closest two;
        `n_generated`, `n_training`; with held_out also `held_out_median`, `held_out_minimum`, `median_ratio` (below 1:
        nearer than new patients), `near` (share of generated images below that quantile; `share` is expected), and
        `n_held_out`.
    """
    batches = [training] if isinstance(training, torch.Tensor) else training
    nearest, index = nearest_training(generated, batches)
    first = int(nearest.argmin())
    figures: dict[str, Any] = {
        "median": nearest.median().item(),
        "minimum": nearest.min().item(),
        "closest": [first, int(index[first])],
        "n_generated": len(generated),
        "n_training": sum(map(len, batches)),
    }
    if held_out is None:
        return figures
    # the same distances of real images that were not trained on
    held_out_nearest, _ = nearest_training(held_out, batches)
    median = held_out_nearest.median().item()
    return figures | {
        "held_out_median": median,
        "held_out_minimum": held_out_nearest.min().item(),
        "median_ratio": figures["median"] / median if median > 0 else None,
        "near": (nearest < held_out_nearest.quantile(share)).double().mean().item(),
        "share": share,
        "n_held_out": len(held_out),
    }
