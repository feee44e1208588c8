"""Laws: the estimator is the paper's double sum, unbiased, and its standard error is that of new samples."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.mmd import kernel_distance


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


def value(x, y):
    return kernel_distance(x, y)["value"]


def test_the_estimator_is_the_double_sum_over_pairs():
    x, y = normal(5, 3, 0), normal(7, 3, 1, shift=0.5)
    assert value(x, y) == pytest.approx(brute_force(x, y), rel=1e-12)


def test_two_numbers_against_two_by_hand():
    # k(0, 1) = 1, k(2, 3) = 343; between: k(0, .) = 1, k(1, 2) = 27, k(1, 3) = 64: mean 93 / 4
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert value(x, y) == 1 + 343 - 2 * 93 / 4


def test_it_is_unbiased_at_tiny_n():
    values = torch.tensor([value(normal(4, 3, 2 * s), normal(4, 3, 2 * s + 1)) for s in range(1000)])
    assert abs(values.mean()) < 3 * values.std() / 1000**0.5
    assert (values < 0).any()


def test_it_grows_with_the_shift():
    none, little, much = (value(normal(200, 8, 0), normal(150, 8, 1, shift)) for shift in (0, 0.3, 0.6))
    assert abs(none) < 0.1 * much and none < little < much


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y, groups = normal(23, 4, 0), normal(17, 4, 1, 0.5), [k // 3 for k in range(23)]
    together = kernel_distance(x, y, groups)
    monkeypatch.setattr("hiresmed.metrics.mmd._ROWS", 5)
    assert kernel_distance(x, y, groups) == pytest.approx(together, rel=1e-12)


def test_the_standard_error_is_the_jackknife_of_groups_left_out_one_by_one():
    x, y = normal(9, 3, 0), normal(7, 3, 1, 0.5)
    groups = ["a", "a", "b", "b", "b", "c", "c", "d", "d"]
    without_x = [value(x[[g != left for g in groups]], y) for left in "abcd"]
    without_y = [value(x, torch.cat([y[:k], y[k + 1 :]])) for k in range(7)]
    variance = sum(
        (len(v) - 1) * torch.tensor(v, dtype=torch.float64).var(correction=0) for v in (without_x, without_y)
    )
    figures = kernel_distance(x, y, groups)
    assert figures["standard_error"] == pytest.approx(variance.sqrt().item(), rel=1e-9)
    assert (figures["groups_real"], figures["groups_generated"]) == (4, 7)
    assert (figures["n_real"], figures["n_generated"]) == (9, 7)


@pytest.mark.parametrize(("patients", "slices"), [(40, 1), (20, 6)])
def test_the_standard_error_is_the_deviation_of_new_samples_of_patients(patients, slices):
    """Slices of a patient are alike: taken for independent, their error would come out much too small."""

    def sample(seed, shift):
        centres = normal(patients, 4, 2 * seed, shift).repeat_interleave(slices, 0)
        return centres + 0.3 * normal(len(centres), 4, 2 * seed + 1)

    groups = [k // slices for k in range(patients * slices)]
    pairs = [(sample(3 * s, 0.0), sample(3 * s + 1, 0.5)) for s in range(60)]
    figures = [kernel_distance(x, y, groups, groups) for x, y in pairs]
    deviation = torch.tensor([f["value"] for f in figures]).std()
    claimed = torch.tensor([f["standard_error"] for f in figures]).mean()
    assert 0.75 < claimed / deviation < 1.35
    if slices > 1:
        alone = torch.tensor([kernel_distance(x, y)["standard_error"] for x, y in pairs]).mean()
        assert alone < 0.6 * deviation


def test_images_of_one_patient_have_no_standard_error():
    figures = kernel_distance(normal(6, 3, 0), normal(6, 3, 1), ["one"] * 6)
    assert figures["standard_error"] is None and figures["groups_real"] == 1


@pytest.mark.parametrize(
    ("x", "y", "groups"),
    [
        (torch.ones(1, 3), torch.ones(5, 3), None),
        (torch.ones(5, 3), torch.ones(5, 4), None),
        (torch.ones(5, 3), torch.ones(5, 3), ["a"] * 4),
        (torch.full((5, 3), float("nan")), torch.ones(5, 3), None),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x, y, groups):
    with pytest.raises(InputError):
        kernel_distance(x, y, groups)
