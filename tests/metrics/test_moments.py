"""Laws: however the features are split, the moments are the same; the distance agrees with high precision."""

from __future__ import annotations

import mpmath
import numpy as np
import programs
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.moments import FeatureMoments, frechet_distance

scipy_linalg = pytest.importorskip("scipy.linalg")


def features(n, d, seed=0, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=random, dtype=torch.float64)
    return torch.randn(n, d, generator=random, dtype=torch.float64) @ mix + shift


def moments(x):
    return FeatureMoments(x.shape[1]).update(x)


def reference_distance(x, y):
    """The distance to 60 digits, from the features themselves: tr (S_a S_b)^(1/2) by the eigenvalues of S_a S_b."""
    with mpmath.workdps(60):

        def mu_and_sigma(z):
            m = mpmath.matrix(z.tolist())
            n, d = m.rows, m.cols
            mu = [mpmath.fsum(m[i, j] for i in range(n)) / n for j in range(d)]
            c = mpmath.matrix(n, d)
            for i in range(n):
                for j in range(d):
                    c[i, j] = m[i, j] - mu[j]
            return mu, c.T * c / (n - 1)

        (mu_a, s_a), (mu_b, s_b) = mu_and_sigma(x), mu_and_sigma(y)
        values, vectors = mpmath.eigsy(s_a)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        inner = mpmath.eigsy(root * s_b * root, eigvals_only=True)
        d = len(mu_a)
        traces = mpmath.fsum(s_a[i, i] + s_b[i, i] for i in range(d))
        between = mpmath.fsum((p - q) ** 2 for p, q in zip(mu_a, mu_b))
        return float(between + traces - 2 * mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in inner))


def test_moments_are_the_mean_and_the_unbiased_covariance():
    x = features(50, 7, shift=1000.0)
    m = moments(x)
    torch.testing.assert_close(m.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(m.covariance, torch.cov(x.T), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cuts", [(1, 2, 3), (50,), (0, 99), tuple(range(100))])
def test_shards_merge_to_the_whole_to_1e_12(cuts):
    x = features(100, 6, shift=500.0)
    merged = FeatureMoments(6)
    for part in np.split(np.arange(100), cuts):
        merged.merge(FeatureMoments(6).update(x[part]))
    whole = moments(x)
    assert merged.n == whole.n
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
    assert (merged.scatter - whole.scatter).norm() <= 1e-12 * whole.scatter.norm()


def test_the_distance_agrees_with_60_digits_to_1e_10_where_n_exceeds_d():
    x, y = features(60, 12, 0), features(45, 12, 1, shift=0.3)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(reference_distance(x, y), rel=1e-10)


def test_the_distance_agrees_with_60_digits_to_1e_6_where_it_is_rank_deficient():
    for n_a, n_b in ((6, 6), (5, 40), (3, 9)):
        x, y = features(n_a, 16, 2), features(n_b, 16, 3)
        assert frechet_distance(moments(x), moments(y)) == pytest.approx(reference_distance(x, y), rel=1e-6)


def test_sets_in_orthogonal_subspaces_of_many_dimensions_share_nothing():
    """Then tr (S_a S_b)^(1/2) = 0; with a root of rounding noise in each of 256 dimensions it would be 1e-7."""
    turn = torch.linalg.qr(features(256, 256, 5)).Q
    x, y = features(8, 20, 0) @ turn[:20], features(9, 20, 1) @ turn[20:40]
    expected = (x.mean(0) - y.mean(0)).square().sum() + torch.cov(x.T).trace() + torch.cov(y.T).trace()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected.item(), rel=1e-12)


def test_the_distance_agrees_with_the_matrix_root_of_scipy():
    x, y = features(300, 32, 0), features(200, 32, 1, shift=1.0)
    root = scipy_linalg.sqrtm(np.cov(x.numpy().T) @ np.cov(y.numpy().T)).real
    traces = np.trace(np.cov(x.numpy().T)) + np.trace(np.cov(y.numpy().T)) - 2 * np.trace(root)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + traces
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)


def test_two_gaussians_in_one_dimension_give_the_closed_form():
    a, b = FeatureMoments(1), FeatureMoments(1)
    for m, mean, std in ((a, 1.0, 2.0), (b, 4.0, 5.0)):
        m.n, m.mean, m.scatter = 101, torch.tensor([mean]).double(), torch.tensor([[100 * std**2]]).double()
    assert frechet_distance(a, b) == pytest.approx((4 - 1) ** 2 + (5 - 2) ** 2, rel=1e-14)


@pytest.mark.parametrize("n", [4, 500])
def test_one_set_in_two_orders_has_distance_0(n):
    x = features(n, 20)
    assert frechet_distance(moments(x), moments(x)) == 0
    assert frechet_distance(moments(x), moments(x.flip(0))) == 0


def test_a_shift_by_a_vector_is_its_squared_length():
    x = features(30, 5)
    assert frechet_distance(moments(x), moments(x + torch.tensor([3.0, 4, 0, 0, 0]))) == pytest.approx(25, rel=1e-10)


def test_the_file_reads_as_pytorch_fid_reads_it_and_comes_back_whole(tmp_path):
    x = features(40, 5)
    made_by = {"extractor": "random", "seed": 0}
    saved = FeatureMoments(5, made_by).update(x)
    saved.save(tmp_path / "real.npz")
    with np.load(tmp_path / "real.npz") as file:
        mu, sigma = file["mu"][:], file["sigma"][:]
    np.testing.assert_allclose(mu, x.mean(0))
    np.testing.assert_allclose(sigma, np.cov(x.numpy(), rowvar=False))
    loaded = FeatureMoments.load(tmp_path / "real.npz")
    assert loaded.n == 40 and loaded.extractor == made_by and frechet_distance(saved, loaded) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["real.npz"]


def test_a_foreign_file_needs_its_count_and_a_broken_one_is_named(tmp_path):
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(InputError, match="how many images"):
        FeatureMoments.load(tmp_path / "foreign.npz")
    assert torch.equal(FeatureMoments.load(tmp_path / "foreign.npz", n=9).covariance, torch.eye(2).double())
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("broken.npz", "absent.npz"):
        with pytest.raises(InputError, match=name):
            FeatureMoments.load(tmp_path / name)


def test_moments_of_two_networks_do_not_mix():
    a, b = FeatureMoments(3, {"extractor": "squeezenet"}), FeatureMoments(3, {"extractor": "random"})
    with pytest.raises(InputError, match="one extractor"):
        a.merge(b)


def test_nan_features_and_single_images_are_refused():
    with pytest.raises(InputError, match="finite"):
        moments(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(moments(torch.ones(1, 2)), moments(torch.ones(3, 2)))


RANK = """
import sys

import ignite.distributed as idist
import torch

from hiresmed.metrics.moments import FeatureMoments

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
x = torch.load(f"{folder}/x.pt")
for cut in (13, 21):  # uneven shards, then an empty one
    FeatureMoments(4).update(x[:cut] if rank == 0 else x[cut:]).all_reduce().save(f"{folder}/{rank}_{cut}.npz")
idist.finalize()
"""


def test_two_processes_with_uneven_or_empty_shards_hold_the_moments_of_the_whole(tmp_path):
    x = features(21, 4, shift=100.0)
    torch.save(x, tmp_path / "x.pt")
    ranks = [programs.Program(["-c", RANK, rank, tmp_path]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    whole = moments(x)
    for name in ("0_13", "1_13", "0_21", "1_21"):
        held = FeatureMoments.load(tmp_path / f"{name}.npz")
        assert held.n == 21
        torch.testing.assert_close(held.mean, whole.mean, rtol=1e-12, atol=0)
        assert (held.scatter - whole.scatter).norm() <= 1e-12 * whole.scatter.norm()


def test_one_process_reduces_to_itself():
    m = moments(features(5, 3))
    assert m.all_reduce() is m
