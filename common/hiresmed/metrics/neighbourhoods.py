"""Precision, recall, density, coverage: how much of each set of features lies within the other's neighbourhoods.

They need the features themselves, so a set of any size is reduced to a fixed number by a reservoir that several
processes can fill separately and merge. MONAI and ignite have neither.

Letters: M, N = number of real and generated images, D = feature dimension, K = features that a reservoir keeps.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch

from ..core.distributed import gathered, summed
from ..core.errors import InputError
from ..core.output_files import write_then_rename

_ROWS = 1024  # of a table of distances in memory at a time
_LAST = 2**63 - 1  # a rank that no feature has


class FeatureReservoir:
    """At most K features, a uniform sample without replacement of all that were added, whatever their number.

    Each image has a rank that is a hash of (seed, its number), and the K lowest ranks are kept. So the sample depends
    on the numbers alone: not on the order, the batches, or which process handled which image.

    Args:
        dim: D.
        size: K.
        seed: of the sample.
        extractor: `FeatureExtractor.describe()` of the features.

    Example:
        >>> x = torch.arange(100.0).view(100, 1)
        >>> parts = FeatureReservoir(1, 5).update(x[60:], range(60, 100)).merge(FeatureReservoir(1, 5).update(x[:60]))
        >>> torch.equal(parts.features, FeatureReservoir(1, 5).update(x).features), parts.n
        (True, 100)
    """

    def __init__(self, dim: int, size: int = 5000, seed: int = 0, extractor: dict | None = None) -> None:
        if size < 1:
            raise InputError(f"size must be at least one feature, got {size}; raise it.")
        self.size = size
        self.seed = seed
        self.extractor = extractor
        self.n = 0
        self.features = torch.zeros(0, dim)
        self.ranks = torch.zeros(0, dtype=torch.int64)

    def update(self, features: torch.Tensor, numbers: Sequence[int] | None = None) -> FeatureReservoir:
        """Adds features (N, D) of the images with those numbers, from 0 on and distinct over all processes.

        Without numbers they follow those already added, which is right for a single process. Raises InputError for a
        number that was added before.
        """
        x = features.detach().to("cpu", torch.float32)
        if x.ndim != 2 or x.shape[1] != self.features.shape[1]:
            raise InputError(
                f"Features must have shape (N, {self.features.shape[1]}), got {tuple(x.shape)}; use one extractor."
            )
        if not torch.isfinite(x).all():
            raise InputError("Features must be finite, got NaN or infinity; check the images.")
        numbers = range(self.n, self.n + len(x)) if numbers is None else numbers
        if len(numbers) != len(x):
            raise InputError(f"Each of {len(x)} features must have a number, got {len(numbers)} numbers; give as many.")
        return self._keep(x, _hashed(self.seed, numbers), len(x))

    def numbers(self) -> list[int]:
        """The number of each feature's image, where the images added are those from 0 to n - 1."""
        ranks, places = self.ranks.sort()
        all_ranks, numbers = _hashed(self.seed, range(self.n)).sort()
        sampled_numbers = numbers[torch.searchsorted(all_ranks, ranks)]
        return sampled_numbers[places.argsort()].tolist()

    def merge(self, other: FeatureReservoir) -> FeatureReservoir:
        """Adds the features of another reservoir of the same seed and extractor, and of images with other numbers."""
        mine = (self.seed, self.size, self.extractor)
        others = (other.seed, other.size, other.extractor)
        if mine != others:
            raise InputError(
                f"Reservoirs of one seed, size and extractor are wanted, got {mine} and {others}; fill both alike."
            )
        return self._keep(other.features, other.ranks, other.n)

    def _keep(self, features: torch.Tensor, ranks: torch.Tensor, n: int) -> FeatureReservoir:
        ranks, order = torch.cat([self.ranks, ranks]).sort()
        if (ranks[1:] == ranks[:-1]).any():
            raise InputError(
                "Every image must have a number of its own, got one twice; give `numbers` that are distinct over all "
                "batches and processes."
            )
        lowest = order[: self.size]
        self.features = torch.cat([self.features, features])[lowest]
        self.ranks = ranks[: self.size]
        self.n += n
        return self

    def all_gather(self) -> FeatureReservoir:
        """The reservoir of all processes together, on every process; this one where there is only one."""
        world = idist.get_world_size()
        if world == 1:
            return self
        device = idist.device()
        missing = self.size - len(self.ranks)
        ranks = torch.cat([self.ranks, torch.full((missing,), _LAST)]).to(device)
        features = torch.cat([self.features, torch.zeros(missing, self.features.shape[1])]).to(device)
        ranks = gathered(ranks)
        features = gathered(features)
        n = int(summed(torch.tensor([self.n], device=device)).item())
        combined = FeatureReservoir(features.shape[1], self.size, self.seed, self.extractor)
        filled = ranks != _LAST
        return combined._keep(features[filled], ranks[filled], n)

    def save(self, path: str | os.PathLike) -> None:
        """Writes .npz, completely or not at all."""
        about = json.dumps({"size": self.size, "seed": self.seed, "n": self.n, "extractor": self.extractor})
        with write_then_rename(path, shared=True) as aside, open(aside, "wb") as file:
            np.savez(file, features=self.features.numpy(), ranks=self.ranks.numpy(), about=about)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureReservoir:
        """Reads a file of `save`; raises InputError for any other file."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                features = file["features"]
                ranks = file["ranks"]
                about = json.loads(str(file["about"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} must be a feature reservoir, got another file ({type(error).__name__}); write it with "
                "FeatureReservoir.save."
            ) from error
        reservoir = cls(features.shape[1], about["size"], about["seed"], about["extractor"])
        reservoir.features = torch.from_numpy(features)
        reservoir.ranks = torch.from_numpy(ranks)
        reservoir.n = about["n"]
        return reservoir


def _hashed(seed: int, numbers: Sequence[int]) -> torch.Tensor:
    """63-bit hashes by SplitMix64 (Steele et al. 2014), which maps distinct 64-bit numbers to distinct ones.

    Only the dropped bit can make two hashes equal, about once in 2^63 pairs. NumPy's generators give a stream, while
    here each number needs its own value whatever came before.
    """
    with np.errstate(over="ignore"):
        start = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
        x = np.asarray(numbers, dtype=np.uint64) + _mixed(start * np.uint64(0x9E3779B97F4A7C15))
        x = _mixed((x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64))


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def distances(x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
    """Euclidean distances (rows, N) in float64 of each next 1024 rows of (M, D) from all of (N, D)."""
    x = x.detach().cpu().double()
    y = y.detach().cpu().double()
    origin = x[:1]  # a common offset would cost digits; with a feature as origin integers stay integers
    x = x - origin
    y = y - origin
    squares = y.square().sum(1)
    for rows in x.split(_ROWS):
        yield (rows.square().sum(1, keepdim=True) - 2 * rows @ y.T + squares).clamp(min=0).sqrt()


def neighbour_radii(x: torch.Tensor, nearest_k: int) -> torch.Tensor:
    """Distance (N,) of each feature of (N, D) from its k-th nearest neighbour in the set, not counting itself."""
    radii: list[torch.Tensor] = []
    for block in distances(x, x):
        # each feature's distance from itself is 0, not the rounding of its square
        block[torch.arange(len(block)), torch.arange(len(block)) + sum(map(len, radii))] = 0
        radii.append(block.kthvalue(nearest_k + 1, dim=1).values)
    return torch.cat(radii)


def prdc(real: torch.Tensor, generated: torch.Tensor, nearest_k: int = 5) -> dict:
    """Precision, recall, density and coverage of features (M, D), (N, D).

    A feature's neighbourhood is the open ball that reaches to its k-th nearest neighbour in its own set.
    `precision`: share of generated images in some real one's; `recall`: share of real ones in some generated one's
    (Kynkaanniemi et al. 2019, eq. 1, 2). `density`: mean number of real neighbourhoods that hold a generated image,
    over k (may exceed 1); `coverage`: share of real neighbourhoods that hold a generated image (Naeem et al. 2020,
    eq. 3, 4). All depend on M and N: compare figures of equal numbers.

    Args:
        real, generated: features by the same extractor.
        nearest_k: k.

    Returns:
        dict of the four, and `nearest_k`, `n_real`, `n_generated`.

    Raises InputError for unequal dimensions, values that are not finite, or sets of k images or fewer.

    Example:
        >>> x = torch.arange(8.0).view(8, 1)
        >>> found = prdc(x, x + 100, nearest_k=2)
        >>> found["precision"], found["recall"], found["density"], found["coverage"]
        (0.0, 0.0, 0.0, 0.0)
    """
    _check(real, generated, nearest_k)
    real_radii = neighbour_radii(real, nearest_k)
    generated_radii = neighbour_radii(generated, nearest_k)
    # counts over blocks of the table of distances
    holders = torch.zeros(len(generated), dtype=torch.int64)  # real neighbourhoods that hold each generated image
    recalled = covered = first = 0
    for block in distances(real, generated):
        radii = real_radii[first : first + len(block), None]
        holders += (block < radii).sum(0)
        recalled += int((block < generated_radii).any(1).sum())
        covered += int((block < radii).any(1).sum())
        first += len(block)
    return {
        "precision": (holders > 0).double().mean().item(),
        "recall": recalled / len(real),
        "density": holders.double().mean().item() / nearest_k,
        "coverage": covered / len(real),
        "nearest_k": nearest_k,
        "n_real": len(real),
        "n_generated": len(generated),
    }


def _check(real: torch.Tensor, generated: torch.Tensor, nearest_k: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InputError(
            f"Precision and recall must have two sets of features of one dimension, got shapes "
            f"{tuple(real.shape)} and {tuple(generated.shape)}; use one extractor for both."
        )
    if nearest_k < 1 or min(len(real), len(generated)) <= nearest_k:
        raise InputError(
            f"Each image must have nearest_k={nearest_k} neighbours (at least 1) in its set, got sets of {len(real)} "
            f"and {len(generated)} images; give more images, or another nearest_k."
        )
    if not (torch.isfinite(real).all() and torch.isfinite(generated).all()):
        raise InputError("Precision and recall must have finite features, got NaN or infinity; check the images.")
