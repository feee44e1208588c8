"""Laws: the estimator is the paper's double sum, unbiased, and the subsets come from the seed alone."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.mmd import kernel_distance, mmd2_unbiased


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def brute_force(x, y):
    def k(u, v):
        return (sum(a * b for a, b in zip(u, v)) / len(u) + 1) ** 3

    x, y = x.tolist(), y.tolist()
    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_the_estimator_is_the_double_sum_over_pairs():
    x, y = normal(5, 3, 0), normal(7, 3, 1, shift=0.5)
    assert mmd2_unbiased(x, y).item() == pytest.approx(brute_force(x, y), rel=1e-12)


def test_two_numbers_against_two_by_hand():
    # k(0, 1) = 1, k(2, 3) = 343; between: k(0, .) = 1, k(1, 2) = 27, k(1, 3) = 64: mean 93 / 4
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert mmd2_unbiased(x, y).item() == 1 + 343 - 2 * 93 / 4


def test_it_is_unbiased_at_tiny_n():
    values = torch.stack([mmd2_unbiased(normal(4, 3, 2 * s), normal(4, 3, 2 * s + 1)) for s in range(3000)])
    assert abs(values.mean()) < 3 * values.std() / 3000**0.5
    assert (values < 0).any()


def test_one_subset_of_everything_is_the_estimator_itself():
    x, y = normal(6, 4, 0), normal(6, 4, 1, shift=1.0)
    found = kernel_distance(x, y, subsets=1, subset_size=6)
    assert found["value"] == pytest.approx(mmd2_unbiased(x, y).item(), rel=1e-12)
    assert found["standard_error"] is None


def test_the_mean_over_subsets_estimates_the_whole_and_grows_with_the_shift():
    found = [kernel_distance(normal(200, 8, 0), normal(150, 8, 1, shift), subsets=60) for shift in (0, 0.3, 0.6)]
    whole = mmd2_unbiased(normal(200, 8, 0), normal(150, 8, 1, 0.6)).item()
    assert abs(found[2]["value"] - whole) < 5 * found[2]["standard_error"]
    assert found[0]["value"] < found[1]["value"] < found[2]["value"]
    assert abs(found[0]["value"]) < 0.1 * found[2]["value"]


def test_every_figure_comes_with_its_n_and_seed():
    found = kernel_distance(normal(30, 2, 0), normal(20, 2, 1), subsets=5, seed=7)
    said = {key: found[key] for key in ("n_real", "n_generated", "subsets", "subset_size", "seed")}
    assert said == {"n_real": 30, "n_generated": 20, "subsets": 5, "subset_size": 10, "seed": 7}


def test_the_seed_and_nothing_else_chooses_the_subsets():
    x, y = normal(30, 2, 0), normal(20, 2, 1)
    torch.manual_seed(1)
    one = kernel_distance(x, y, seed=3)
    torch.manual_seed(2)
    assert kernel_distance(x, y, seed=3) == one
    assert kernel_distance(x, y, seed=4)["value"] != one["value"]


def test_the_standard_error_is_the_spread_over_the_root_of_the_number_of_subsets():
    x, y = normal(40, 3, 0), normal(40, 3, 1)
    few, many = (kernel_distance(x, y, subsets=n)["standard_error"] for n in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        (torch.ones(1, 3), torch.ones(5, 3), {}),
        (torch.ones(5, 3), torch.ones(5, 4), {}),
        (torch.ones(5, 3), torch.ones(5, 3), {"subset_size": 6}),
        (torch.full((5, 3), float("nan")), torch.ones(5, 3), {}),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x, y, options):
    with pytest.raises(InputError):
        kernel_distance(x, y, **options)
