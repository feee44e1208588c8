"""Laws: the distance keeps its digits for the moments that feature networks really give: far means, tiny variances.

References have at least 60 digits (mpmath), or are closed forms; see test_moments.py for plain Gaussians.
"""

from __future__ import annotations

import mpmath
import pytest
import torch
from hiresmed.metrics.moments import FeatureMoments, frechet_distance


def features(n, d, seed, decay=0.0):
    """Correlated features whose k-th direction has the deviation 10^(-decay k / d), rotated."""
    random = torch.Generator().manual_seed(seed)
    scales = 10.0 ** (-decay * torch.arange(d, dtype=torch.float64) / d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64)).Q
    return torch.randn(n, d, generator=random, dtype=torch.float64) * scales @ turn


def moments(x):
    return FeatureMoments(x.shape[1]).update(x)


def given(mean, covariance, n=1001):
    m = FeatureMoments(len(mean))
    m.n, m.mean, m.scatter = n, mean.double(), covariance.double() * (n - 1)
    return m


def reference(a, b, digits=60):
    """|mu|^2 + tr S_a + tr S_b - 2 sum sqrt(eig(R S_b R)), R = S_a^(1/2), from the held float64 moments, exactly."""
    with mpmath.workdps(digits):
        s_a, s_b = mpmath.matrix((a.scatter).tolist()) / (a.n - 1), mpmath.matrix(b.scatter.tolist()) / (b.n - 1)
        values, vectors = mpmath.eigsy(s_a)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        overlap = mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in mpmath.eigsy(root * s_b * root, eigvals_only=True))
        between = mpmath.fsum((mpmath.mpf(p) - mpmath.mpf(q)) ** 2 for p, q in zip(a.mean.tolist(), b.mean.tolist()))
        d = len(a.mean)
        return float(between + mpmath.fsum(s_a[i, i] + s_b[i, i] for i in range(d)) - 2 * overlap)


@pytest.mark.parametrize("decay", [0, 2, 4])
def test_variances_over_many_decades_cost_no_digits_where_n_exceeds_d(decay):
    a, b = moments(features(80, 16, 0, decay)), moments(features(60, 16, 1, decay))
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-10)


def test_a_mean_far_from_the_origin_costs_no_digits():
    x, y = features(80, 12, 0) + 1e3, features(60, 12, 1) + 1e3 + 0.1
    a, b = moments(x), moments(y)
    near = frechet_distance(moments(x - 1e3), moments(y - 1e3))
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-10) == pytest.approx(near, rel=1e-10)


def test_two_close_distributions_keep_ten_digits_of_a_small_distance():
    """The distance is about 1e-5 of the traces that it is the difference of."""
    x = features(200, 12, 0)
    y = x * torch.linspace(0.995, 1.005, 12, dtype=torch.float64)
    a, b = moments(x), moments(y)
    found, traces = frechet_distance(a, b), (a.covariance.trace() + b.covariance.trace()).item()
    assert found < 1e-4 * traces
    assert found == pytest.approx(reference(a, b), rel=1e-10)


@pytest.mark.parametrize(("n_a", "n_b"), [(12, 40), (8, 8), (15, 16)])
def test_fewer_images_than_dimensions_cost_at_most_four_digits(n_a, n_b):
    a, b = moments(features(n_a, 16, 2, 1)), moments(features(n_b, 16, 3, 1))
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-6)


def test_commuting_covariances_give_the_closed_form_in_512_dimensions():
    random = torch.Generator().manual_seed(0)
    d = 512
    turn = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64)).Q
    p, q = (10 ** (3 * torch.rand(d, generator=random, dtype=torch.float64) - 3) for _ in range(2))
    mean = torch.randn(d, generator=random, dtype=torch.float64)
    a, b = given(mean, (turn * p) @ turn.T), given(mean + 0.1, (turn * q) @ turn.T)
    expected = d * 0.01 + ((p.sqrt() - q.sqrt()) ** 2).sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def reflected(v: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """H diag(values) H with the reflection H = 1 - 2 v v^T: dense, of known eigenvalues, without a decomposition."""
    v = v / v.norm()
    left = torch.diag(values) - 2 * torch.outer(v, v * values)
    return left - 2 * torch.outer(left @ v, v)


@pytest.mark.parametrize("dims", [512, pytest.param(2048, marks=pytest.mark.slow)])
def test_at_squeezenets_and_inceptions_dimensions_the_distance_of_known_covariances_keeps_ten_digits(dims):
    random = torch.Generator().manual_seed(0)
    v, p, q, mean = (torch.rand(dims, generator=random, dtype=torch.float64) + 0.01 for _ in range(4))
    a, b = given(mean, reflected(v, p**2), n=5001), given(mean + 0.1, reflected(v, q**2), n=5001)
    expected = dims * 0.01 + ((p - q) ** 2).sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
def test_at_2048_dimensions_sets_of_fifty_images_keep_six_digits():
    """The overlap is the nuclear norm of X Y^T of the centred features, a matrix of 50 x 40."""
    x, y = (torch.randn(n, 2048, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (50, 40))
    y = y * torch.linspace(0.5, 1.5, 2048, dtype=torch.float64) + 0.05
    cx, cy = (z - z.mean(0) for z in (x, y))
    overlap = torch.linalg.svdvals(cx @ cy.T).sum() / (49 * 39) ** 0.5
    traces = cx.square().sum() / 49 + cy.square().sum() / 39
    expected = ((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * overlap).item()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_symmetric_turns_with_the_features_and_scales_with_their_square():
    x, y = features(50, 20, 0), features(15, 20, 1)
    turn = torch.linalg.qr(features(20, 20, 5)).Q
    found = frechet_distance(moments(x), moments(y))
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(found, rel=1e-10)
    assert frechet_distance(moments(x @ turn), moments(y @ turn)) == pytest.approx(found, rel=1e-10)
    assert frechet_distance(moments(1e3 * x), moments(1e3 * y)) == pytest.approx(1e6 * found, rel=1e-10)


def test_moments_merged_of_many_shards_give_the_distance_of_the_whole_to_1e_12():
    x, y = features(120, 10, 0) + 50, features(90, 10, 1) + 50
    merged = FeatureMoments(10)
    for shard in x.split([1, 40, 0, 7, 72]):
        merged.merge(FeatureMoments(10).update(shard))
    assert frechet_distance(merged, moments(y)) == pytest.approx(frechet_distance(moments(x), moments(y)), rel=1e-12)


def test_features_in_single_precision_are_summed_in_double():
    x = (features(3000, 6, 0) + 100).float()
    parts = FeatureMoments(6)
    for batch in x.split(7):
        parts.update(batch)
    exact = torch.cov(x.double().T)
    assert (parts.covariance - exact).norm() <= 1e-12 * exact.norm()
