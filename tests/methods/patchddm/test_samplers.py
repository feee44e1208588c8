"""Each sampler is its paper's formula, and finds the exact solution of a diffusion that has one.

For data N(m, s^2) the best denoiser is known, and the probability-flow equation carries a voxel along at a constant
number of standard deviations: x_t = alpha m + k sqrt(alpha^2 s^2 + sigma^2).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.methods.patchddm import DDIM, DPMSolver, Heun, NoiseSchedule
from hiresmed.methods.patchddm.schedule import PREDICTIONS
from monai.networks.schedulers import DDIMScheduler

SAMPLERS = [DDIM, DPMSolver, Heun]
MEAN, SPREAD = 0.3, 0.25
ABAR = np.concatenate([np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), [1.0]])  # ABAR[-1]: clean


def start() -> torch.Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)


class Gaussian:
    """The exact denoiser of data N(MEAN, SPREAD^2), in any prediction; keeps the times it was asked at."""

    def __init__(self, prediction: str = "x0") -> None:
        self.schedule, self.asked = NoiseSchedule(prediction=prediction), []

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.asked.append(t)
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x0 = MEAN + SPREAD**2 * alpha / (SPREAD**2 * alpha**2 + sigma**2) * (x - alpha * MEAN)
        return self.schedule.target(x0, (x - alpha * x0) / sigma, t)

    def solution(self, x_T: torch.Tensor) -> torch.Tensor:
        """The equation solved from T - 1 to 0, and the last step, which all samplers share: the denoiser itself."""
        first, last = (
            (float(self.schedule.alpha(t)), math.hypot(self.schedule.alpha(t) * SPREAD, self.schedule.sigma(t)))
            for t in (999, 0)
        )
        x = last[0] * MEAN + (x_T - first[0] * MEAN) / first[1] * last[1]
        return self.schedule.clean(self(x, 0), x, 0)


def wave(x, t):
    """A network without any law, for comparisons with formulas written out."""
    return torch.sin(1.7 * x + 0.01 * t) if torch.is_tensor(x) else math.sin(1.7 * x + 0.01 * t)


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
@pytest.mark.parametrize("sampler, order", [(DDIM, 1), (DPMSolver, 2), (Heun, 2)])
def test_the_exact_solution_is_reached_with_the_solvers_order(sampler, order, spacing):
    def error(steps):
        denoise, x = Gaussian(), start()
        return float((sampler(denoise.schedule, spacing)(denoise, x.clone(), steps) - denoise.solution(x)).abs().max())

    coarse, fine = error(64), error(128)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert fine < {1: 0.02, 2: 1e-3}[order]


def test_at_equal_network_evaluations_the_second_order_solvers_are_closer():
    def error(sampler, steps):
        denoise, x = Gaussian(), start()
        found = sampler(denoise.schedule, "log_snr")(denoise, x.clone(), steps)
        return float((found - denoise.solution(x)).abs().max())

    errors = {"ddim": error(DDIM, 63), "dpm": error(DPMSolver, 63), "heun": error(Heun, 32)}
    assert errors["dpm"] < errors["heun"] < errors["ddim"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_evaluations_says_how_often_the_network_runs(sampler, steps):
    denoise = Gaussian()
    solver = sampler(denoise.schedule)
    solver(denoise, start(), steps)
    assert len(denoise.asked) == solver.evaluations(steps) == (2 * steps - 1 if sampler is Heun else steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_prediction_does_not_matter_where_all_three_say_the_same(sampler):
    found = []
    for prediction in PREDICTIONS:
        denoise = Gaussian(prediction)
        found.append(sampler(denoise.schedule)(denoise, start(), 12))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_perfect_denoiser_returns_the_image_and_its_buffer_is_never_written(sampler, steps):
    image = torch.rand(2, 3, 4, 5)
    kept = image.clone()
    found = sampler(NoiseSchedule(prediction="x0"))(lambda x, t: image, torch.randn(2, 3, 4, 5), steps)
    torch.testing.assert_close(found, kept, rtol=0, atol=1e-3 if sampler is Heun and steps > 1 else 1e-6)
    assert torch.equal(image, kept)
    assert steps > 1 or torch.equal(found, kept)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_may_return_its_very_argument(sampler):
    schedule = NoiseSchedule(prediction="x0")
    given = sampler(schedule)(lambda x, t: x, start(), 6)
    copied = sampler(schedule)(lambda x, t: x.clone(), start(), 6)
    assert torch.equal(given, copied)


@pytest.mark.parametrize("sampler, volumes", [(DDIM, 1), (DPMSolver, 2), (Heun, 2)])
def test_no_more_volumes_lie_beside_the_network_than_the_solver_needs(sampler, volumes):
    held = []

    def network(x, t):
        held.append(live.now / 4096)
        return x * 0.5

    with LiveBytes() as live:
        sampler(NoiseSchedule(), clip=(-1, 1))(network, torch.zeros(1, 1, 1024), 6)
    assert max(held) == volumes


@pytest.mark.parametrize("clip", [None, (-0.6, 0.7)])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_ddim_is_equation_12_written_out_for_scalars(steps, spacing, clip):
    """Formula of eps-prediction; the noise is derived again from the clipped image."""
    schedule = NoiseSchedule(prediction="eps")
    times = [int(t) for t in schedule.times(steps, spacing)]
    expected = []
    for x in start().flatten().tolist():
        for t, s in pairwise(times):
            eps = wave(x, t)
            x0 = (x - math.sqrt(1 - ABAR[t]) * eps) / math.sqrt(ABAR[t])
            if clip is not None:
                x0 = min(max(x0, clip[0]), clip[1])
                eps = (x - math.sqrt(ABAR[t]) * x0) / math.sqrt(1 - ABAR[t])
            x = math.sqrt(ABAR[s]) * x0 + math.sqrt(1 - ABAR[s]) * eps
        expected.append(x)
    found = DDIM(schedule, spacing, clip)(wave, start(), steps).flatten()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_ddim_with_eta_is_equation_16_written_out_and_adds_no_noise_at_the_end():
    schedule, eta, steps = NoiseSchedule(prediction="eps"), 0.7, 13
    fresh = [torch.sin(torch.arange(9.0, dtype=torch.float64) + k).view(1, 1, 9) for k in range(steps + 1)]
    times, asked = [int(t) for t in schedule.times(steps, "trailing")], []

    def noise(k):
        asked.append(k)
        return fresh[k].clone()

    x = start()
    for k, (t, s) in enumerate(pairwise(times), start=1):
        eps = wave(x, t)
        x0 = (x - math.sqrt(1 - ABAR[t]) * eps) / math.sqrt(ABAR[t])
        sigma = eta * math.sqrt((1 - ABAR[s]) / (1 - ABAR[t])) * math.sqrt(1 - ABAR[t] / ABAR[s])
        x = math.sqrt(ABAR[s]) * x0 + math.sqrt(1 - ABAR[s] - sigma**2) * eps + sigma * fresh[k]
    found = DDIM(schedule, eta=eta)(wave, start(), steps, noise)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    assert asked == list(range(1, steps))


def test_ddim_with_eta_1_draws_the_datas_own_distribution():
    denoise, generator = Gaussian(), torch.Generator().manual_seed(0)

    def noise(k):
        return torch.randn(1, 1, 20_000, generator=generator, dtype=torch.float64)

    found = DDIM(denoise.schedule, eta=1.0)(denoise, noise(0), 250, noise)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.006)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.015)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])  # steps of unequal and of equal size in lambda
def test_dpm_solver_is_algorithm_2_written_out_for_scalars(spacing):
    schedule, steps = NoiseSchedule(prediction="x0"), 6
    times = schedule.times(steps, spacing)
    alpha, sigma, lam = (f(np.array(times)) for f in (schedule.alpha, schedule.sigma, schedule.log_snr))
    expected = []
    for x in start().flatten().tolist():
        q = []
        for i in range(1, steps + 1):
            q.append(wave(x, times[i - 1]))
            h = lam[i] - lam[i - 1]
            d = q[-1]
            if 1 < i < steps:
                r = (lam[i - 1] - lam[i - 2]) / h
                d = (1 + 1 / (2 * r)) * q[-1] - 1 / (2 * r) * q[-2]
            x = sigma[i] / sigma[i - 1] * x - alpha[i] * (math.exp(-h) - 1) * d
        expected.append(x)
    found = DPMSolver(schedule, spacing)(wave, start(), steps).flatten()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_heun_is_algorithm_1_written_out_for_scalars():
    """In the paper's own variables: y = x / alpha with noise level r = sigma / alpha."""
    schedule, steps = NoiseSchedule(prediction="x0"), 9
    times = schedule.times(steps, "karras")
    r, alpha = schedule.ratio(np.array(times)), schedule.alpha(np.array(times))
    expected = []
    for x in start().flatten().tolist():
        y = x / alpha[0]
        for i in range(steps):
            d = (y - wave(alpha[i] * y, times[i])) / r[i]
            following = y + (r[i + 1] - r[i]) * d
            if r[i + 1] != 0:
                slope = (following - wave(alpha[i + 1] * following, times[i + 1])) / r[i + 1]
                following = y + (r[i + 1] - r[i]) * (d + slope) / 2
            y = following
        expected.append(y)
    found = Heun(schedule)(wave, start(), steps).flatten()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_monais_ddim_misses_the_next_time_at_20_steps_and_ours_does_not():
    """Why we have our own; if this fails, MONAI has mended its scheduler and ours may go."""
    theirs = DDIMScheduler(1000, clip_sample=False)
    theirs.set_timesteps(20)
    times = theirs.timesteps.tolist()
    landed = [t - theirs.num_train_timesteps // theirs.num_inference_steps for t in times]
    assert sum(a != b for a, b in zip(landed, times[1:])) == 19

    # the image is 0 everywhere, so what the network finds must be the noise that x_T began with, at every step
    schedule, z = NoiseSchedule(prediction="eps"), torch.ones(1, 1, 4, dtype=torch.float64)
    found, drifting, x = [], [], z.clone() * float(schedule.sigma(999))

    def denoise(x, t):
        found.append(float((x / schedule.sigma(t)).mean()))
        return x / float(schedule.sigma(t))

    DDIM(schedule, "linspace")(denoise, x.clone(), 20)
    np.testing.assert_allclose(found, 1, rtol=1e-12)
    for t in times:
        eps = x / float(schedule.sigma(t))
        drifting.append(float(eps.mean()))
        x = theirs.step(eps, t, x)[0]
    assert drifting[-1] > 1.5


def test_impossible_knobs_are_met_with_a_sentence():
    schedule = NoiseSchedule()
    with pytest.raises(InputError, match="eta must lie"):
        DDIM(schedule, eta=1.5)
    with pytest.raises(InputError, match="must have fresh noise"):
        DDIM(schedule, eta=0.5)(wave, start(), 3)
    for clip in ((1, -1), (0, 0), (1,), 3, "ab"):
        with pytest.raises(InputError, match="two rising numbers"):
            Heun(schedule, clip=clip)
