"""The schedule's numbers are those of the papers, at every time, and its three predictions say the same thing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import NoiseSchedule
from hiresmed.methods.patchddm.schedule import CLEAN, PREDICTIONS, SPACINGS
from monai.networks.schedulers import DDPMScheduler


def alpha_bar(schedule: NoiseSchedule, t):
    return np.exp(schedule.log_alpha_bar(t))


def test_levels_are_monais_to_the_precision_of_its_float32():
    ours = alpha_bar(NoiseSchedule(), np.arange(1000))
    theirs = DDPMScheduler(1000, "linear_beta").alphas_cumprod.double().numpy()
    np.testing.assert_allclose(ours[:990], theirs[:990], rtol=2e-4)


def test_alpha_bar_is_the_running_product_written_out():
    schedule, product = NoiseSchedule(steps=50), 1.0
    for t in range(50):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 49)
        assert math.isclose(alpha_bar(schedule, t), product, rel_tol=1e-12)
        assert math.isclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rel_tol=1e-15)
        assert math.isclose(schedule.ratio(t), schedule.sigma(t) / schedule.alpha(t), rel_tol=1e-12)
        assert math.isclose(schedule.log_snr(t), math.log(schedule.alpha(t) / schedule.sigma(t)), rel_tol=1e-12)


def test_between_whole_times_the_levels_fall_strictly_and_time_of_finds_them_again():
    schedule = NoiseSchedule()
    times = np.linspace(CLEAN, 999, 4321)
    ratios = schedule.ratio(times)
    assert (np.diff(ratios) > 0).all()
    np.testing.assert_allclose(schedule.time_of(ratios), times, atol=1e-9)
    middle = math.sqrt(alpha_bar(schedule, 500) * alpha_bar(schedule, 501))
    assert math.isclose(alpha_bar(schedule, 500.5), middle, rel_tol=1e-12)
    assert (alpha_bar(schedule, CLEAN), schedule.sigma(CLEAN), schedule.time_of(1e9)) == (1, 0, 999)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 600, 1000])
def test_any_number_of_steps_gives_that_many_falling_times_and_the_clean_one(spacing, steps):
    times = NoiseSchedule().times(steps, spacing)
    assert len(times) == steps + 1 and times[-1] == CLEAN
    assert (np.diff(times) < 0).all() and times[-2] >= 0 and times[0] <= 999
    if spacing != "leading":
        assert math.isclose(times[0], 999), "x_T is noise alone at the last time only"
    if spacing in ("linspace", "log_snr", "karras") and steps > 1:
        assert math.isclose(times[-2], 0, abs_tol=1e-9)
    if spacing in ("leading", "trailing", "linspace"):
        assert all(t == round(t) for t in times)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_an_earlier_first_time_is_that_of_a_schedule_that_ends_there(spacing, monkeypatch):
    schedule = NoiseSchedule(first=49)
    monkeypatch.setattr("hiresmed.methods.patchddm.schedule.BETAS", (1e-4, 1e-4 + 49 / 999 * (0.02 - 1e-4)))
    short = NoiseSchedule(steps=50)
    monkeypatch.undo()
    assert schedule.times(4, spacing) == pytest.approx(short.times(4, spacing), abs=1e-6)
    assert alpha_bar(schedule, 999) == alpha_bar(NoiseSchedule(), 999), "training sees all times"
    with pytest.raises(InputError, match="below the 1000"):
        NoiseSchedule(first=1000)


def test_the_continuous_spacings_are_even_in_their_own_measure():
    schedule = NoiseSchedule()
    snr = np.diff(schedule.log_snr(np.array(schedule.times(12, "log_snr")[:-1])))
    np.testing.assert_allclose(snr, snr[0], rtol=1e-9)
    root = np.diff(schedule.ratio(np.array(schedule.times(12, "karras")[:-1])) ** (1 / 7))
    np.testing.assert_allclose(root, root[0], rtol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_and_split_are_inverse_for_a_time_per_sample(prediction):
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 431, 999])
    schedule = NoiseSchedule(prediction=prediction)
    x_t, target = schedule.noised(x0, eps, t), schedule.target(x0, eps, t)
    found = schedule.split(target, x_t, t)
    torch.testing.assert_close(found[0], x0, rtol=0, atol=1e-11)
    torch.testing.assert_close(found[1], eps, rtol=0, atol=1e-11)
    for b, time in enumerate(t.tolist()):
        alpha = math.sqrt(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: time + 1]))
        sigma = math.sqrt(1 - alpha**2)
        torch.testing.assert_close(x_t[b], alpha * x0[b] + sigma * eps[b], rtol=0, atol=1e-12)
        written = {"eps": eps[b], "x0": x0[b], "v": alpha * eps[b] - sigma * x0[b]}[prediction]
        torch.testing.assert_close(target[b], written, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clean_leaves_the_networks_output_alone_and_split_derives_eps_from_the_clipped_image(prediction):
    schedule, x, output = NoiseSchedule(prediction=prediction), torch.randn(1, 1, 9), 3 * torch.randn(1, 1, 9)
    kept = output.clone()
    x0, eps = schedule.split(output, x, 300, clip=(-1, 1))
    assert torch.equal(output, kept) and x0.abs().max() == 1
    torch.testing.assert_close(schedule.noised(x0, eps, 300), x)


def test_unknown_words_and_impossible_numbers_are_met_with_a_sentence():
    for wrong in ({"prediction": "epsilon"}, {"steps": 0}):
        with pytest.raises(InputError):
            NoiseSchedule(**wrong)
    with pytest.raises(InputError, match="at most the 1000"):
        NoiseSchedule().times(1001)
    with pytest.raises(InputError, match="spacing must be one of"):
        NoiseSchedule().times(10, "uniform")
