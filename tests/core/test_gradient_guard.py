"""Gradients that cannot be right make no step; those of a healthy, unsteady training all do."""

from __future__ import annotations

import math

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.gradient_guard import MOST_SKIPPED, WARM_UP, GradientGuard, gradient_norm
from torch import nn


def warm(norm: float = 1.0) -> GradientGuard:
    guard = GradientGuard("generator")
    assert all(guard.allows(torch.tensor(norm), k) for k in range(WARM_UP))
    return guard


@pytest.mark.parametrize("norm", [math.nan, math.inf, 1001.0, 1e37])
def test_a_gradient_that_cannot_be_right_makes_no_step_is_counted_and_logged_and_forgotten(norm, caplog):
    guard = warm()
    assert not guard.allows(torch.tensor(norm), 100)
    assert (guard.skipped, guard.in_a_row, guard.norm) == (1, 1, pytest.approx(1.0))
    assert "Iteration 100: the gradient of the generator" in caplog.text and "1 so far" in caplog.text
    assert guard.allows(torch.tensor(999.0), 101)
    assert (guard.skipped, guard.in_a_row) == (1, 0)


def test_what_is_not_finite_counts_from_the_first_step_on_and_the_factor_after_the_warm_up():
    guard = GradientGuard("generator")
    assert not guard.allows(torch.tensor(math.nan), 1)
    assert all(guard.allows(torch.tensor(10.0 ** (k % 6)), k) for k in range(WARM_UP))
    assert not GradientGuard("generator").allows(torch.tensor(math.inf), 1)
    young = GradientGuard("generator")
    assert young.allows(torch.tensor(1.0), 1) and not young.allows(torch.tensor(1e30), 2)


def test_the_running_norm_follows_a_training_that_changes_slowly_and_ignores_a_lull():
    guard = warm()
    assert all(guard.allows(torch.tensor(1.02**k), k) for k in range(1000)), "by 4e8 in all"
    lulled = warm()
    assert all(lulled.allows(torch.tensor(0.0), k) for k in range(5000))
    assert lulled.allows(torch.tensor(5.0), 5000)
    idle = warm(0.0)
    assert idle.allows(torch.tensor(5.0), 101), "a network that has had no gradient yet has no norm to be a thousand of"


def test_steps_in_a_row_that_may_not_be_taken_end_the_training_with_a_sentence():
    guard = warm()
    for k in range(MOST_SKIPPED - 1):
        assert not guard.allows(torch.tensor(math.inf), k)
    with pytest.raises(InputError, match=r"gradient of the generator must be .* is not finite at 10 steps in a row"):
        guard.allows(torch.tensor(math.inf), 10)


def test_a_resumed_guard_goes_on_from_the_saved_one():
    guard = warm()
    guard.allows(torch.tensor(1e9), 1)
    resumed = GradientGuard("generator")
    resumed.load_state_dict(guard.state_dict())
    assert vars(resumed) == vars(guard)


def test_the_norm_is_that_of_all_gradients_before_they_are_clipped():
    parameters = [nn.Parameter(torch.zeros(n)) for n in (1, 2, 3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([0.0, 4.0])
    assert float(gradient_norm(parameters)) == 5.0
    assert float(gradient_norm(parameters, max_norm=1.0)) == 5.0
    assert float(gradient_norm(parameters)) == pytest.approx(1.0)
    assert float(gradient_norm([])) == 0.0
