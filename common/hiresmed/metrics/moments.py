"""Feature moments that several processes can collect separately and add up, and the Frechet distance between two.

Letters: N = number of images, D = feature dimension, mu = mean (D,), S = covariance (D, D).
MONAI's, clean-fid's and pytorch-fid's distance calls scipy.linalg.sqrtm(disp=), which SciPy 1.18 removed; ignite's
needs equal counts on both sides.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch

from ..core.distributed import summed
from ..core.errors import InputError
from ..core.output_files import write_then_rename


class FeatureMoments:
    """n, mean (D,) and scatter sum((x - mean)(x - mean)^T) (D, D) of features, in float64, whatever N.

    Args:
        dim: D.
        extractor: `FeatureExtractor.describe()` of the features; moments of two extractors cannot be merged.

    Example:
        >>> x = torch.randn(10, 3)
        >>> parts = FeatureMoments(3).update(x[:4]).merge(FeatureMoments(3).update(x[4:]))
        >>> bool(torch.allclose(parts.covariance, torch.cov(x.double().T)))
        True
    """

    def __init__(self, dim: int, extractor: dict | None = None) -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)
        self.extractor = extractor

    @property
    def covariance(self) -> torch.Tensor:
        """Unbiased covariance S (D, D); raises InputError for fewer than two features."""
        if self.n < 2:
            raise InputError(f"A covariance must have at least two features, got {self.n}; give more images.")
        return self.scatter / (self.n - 1)

    def update(self, features: torch.Tensor) -> FeatureMoments:
        """Adds features (N, D)."""
        x = features.detach().to("cpu", torch.float64)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise InputError(
                f"Features of these moments must have shape (N, {len(self.mean)}), got {tuple(x.shape)}; use one "
                "extractor."
            )
        if not torch.isfinite(x).all():
            raise InputError("Features must be finite, got NaN or infinity; check the images.")
        if len(x) == 0:
            return self
        mean = x.mean(0)
        centred = x - mean
        return self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Adds the features of other moments; raises InputError where they are another extractor's."""
        check_same_extractor(self, other)
        return self._add(other.n, other.mean, other.scatter)

    def _add(self, n: int, mean: torch.Tensor, scatter: torch.Tensor) -> FeatureMoments:
        """Chan, Golub and LeVeque 1979: S = S_a + S_b + delta delta^T n_a n_b / n."""
        total = self.n + n
        if total == 0:
            return self
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.scatter = self.scatter + scatter + torch.outer(delta, delta) * (self.n * n / total)
        self.n = total
        return self

    def all_reduce(self) -> FeatureMoments:
        """The moments of all processes together, on every process; of this one where there is only one."""
        if idist.get_world_size() == 1:
            return self
        device = idist.device()
        count = torch.tensor([float(self.n)], dtype=torch.float64)
        sums = summed(torch.cat([count, self.mean * self.n]).to(device))
        combined = FeatureMoments(len(self.mean), self.extractor)
        combined.n = round(sums[0].item())
        combined.mean = sums[1:] / max(combined.n, 1)
        # every rank shifts its scatter to the common mean, so that one plain sum is Chan's rule for all ranks at once
        delta = self.mean - combined.mean
        combined.scatter = summed((self.scatter + torch.outer(delta, delta) * self.n).to(device))
        return combined

    def save(self, path: str | os.PathLike) -> None:
        """Writes .npz with `mu`, `sigma` (as pytorch-fid reads them), `n` and `extractor` (JSON); atomic."""
        covariance = self.covariance.numpy()
        with write_then_rename(path, shared=True) as aside, open(aside, "wb") as file:
            np.savez(file, mu=self.mean.numpy(), sigma=covariance, n=self.n, extractor=json.dumps(self.extractor))

    @classmethod
    def load(cls, path: str | os.PathLike, n: int | None = None) -> FeatureMoments:
        """Reads .npz with `mu` and `sigma`; `n` is the count for files without one (pytorch-fid's have none)."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {key: file[key] for key in file.files}
            mu = content["mu"]
            sigma = content["sigma"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} must be an .npz file that holds `mu` and `sigma`, got another file ({type(error).__name__}); "
                "write it with FeatureMoments.save."
            ) from error
        n = int(content["n"]) if "n" in content else n
        if n is None or n < 2:
            raise InputError(f"{path} must say of how many images its moments are, got {n}; give that count as `n`.")
        moments = cls(len(mu), json.loads(str(content["extractor"])) if "extractor" in content else None)
        moments.n = n
        moments.mean = torch.from_numpy(mu.astype(np.float64))
        moments.scatter = torch.from_numpy(sigma.astype(np.float64)) * (n - 1)
        return moments


def check_same_extractor(a: FeatureMoments, b: FeatureMoments) -> None:
    """Raises InputError where both moments name their extractors and these differ, or where D differs."""
    if len(a.mean) != len(b.mean):
        raise InputError(
            f"Compared feature moments must have one dimension, got {len(a.mean)} and {len(b.mean)}; use one extractor."
        )
    if a.extractor and b.extractor and a.extractor != b.extractor:
        raise InputError(
            f"Compared feature moments must have one extractor, got {a.extractor} and {b.extractor}; compute both "
            "sides with the same network, weights and preprocessing."
        )


def _root(covariance: torch.Tensor, n: int) -> torch.Tensor:
    """R (D, r) with R R^T = S: triangular (much faster) where N > D and no pivot is near rounding.

    Otherwise from the r eigenvalues above rounding (the root of 1e-16 would be 1e-8).
    """
    if n > len(covariance):
        triangle, failed = torch.linalg.cholesky_ex(covariance)
        pivots = triangle.diagonal().square()
        if not failed and pivots.min() > 1e3 * len(pivots) * torch.finfo(torch.float64).eps * pivots.max():
            return triangle
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > len(values) * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
    return vectors[:, keep] * values[keep].sqrt()


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Squared Frechet distance of two Gaussians, |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson 1982).

    The trace of the root is the sum of the singular values of R_a^T R_b with S = R R^T. A result below the rounding of
    its own terms is 0. It is biased upwards for small N: state N, and the kernel distance beside it.

    Example:
        >>> x = FeatureMoments(2).update(torch.randn(9, 2))
        >>> frechet_distance(x, x)
        0.0
    """
    check_same_extractor(a, b)
    s_a = a.covariance
    s_b = b.covariance
    between = (a.mean - b.mean).square().sum()
    traces = s_a.trace() + s_b.trace()
    overlap = torch.linalg.svdvals(_root(s_a, a.n).T @ _root(s_b, b.n)).sum()
    distance = (between + traces - 2 * overlap).item()
    rounding = len(a.mean) * torch.finfo(torch.float64).eps * (between + traces).item()
    return distance if distance > rounding else 0.0
