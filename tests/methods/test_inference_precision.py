"""Inference with `amp` is bfloat16's where that is right on this machine; where not float32's, and it says so."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hiresmed.core import bfloat16
from hiresmed.core.autocast import AutocastInferer
from hiresmed.core.exact_tiling import ExactTiledInferer
from hiresmed.methods.inr_gan import Frame, ImplicitGenerator, ImplicitInferer, SampleInferer, TiledSampler
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator
from hiresmed.methods.patchddm import DDIM, DiffusionInferer, NoiseSchedule
from hiresmed.reports.run_report import SHOWN
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


class Convolution(nn.Module):
    """A convolution of 2-D images (and a time, which it ignores)."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x, t=None):
        return self.layer(x)


def tiled(amp):
    return ExactTiledInferer(8, amp=amp)(image(1), Convolution())


def autocast(amp):
    return AutocastInferer(amp=amp)(image(1), Convolution())


def diffusion(amp):
    inferer = DiffusionInferer(DDIM(NoiseSchedule()), steps=2, amp=amp, num_samples=2)
    return inferer(image(1), Convolution(4))


def implicit(amp):
    return ImplicitInferer(Frame.of((12, 10)), 8, 16, amp=amp)(latents(), generator())


def samples(amp):
    return SampleInferer(None, Frame.of((12, 10)), amp=amp)(latents(), generator())


def sampler(amp):
    return TiledSampler(generator(), Frame.of((12, 10)), 8, 16, amp)(latents())


def cascade(amp):
    small = {"width": 4, "num_blocks": 1, "fine_width": 4}
    network = MultiScaleGenerator(2, num_stages=2, base=small, stage=small)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    inferer = CascadeInferer(GradientSketch(), None, 16, 16, window=(-1, 1), amp=amp, progress=False)
    return inferer(image(1), network)


def image(channels: int) -> torch.Tensor:
    return torch.randn(1, channels, 20, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def latents() -> torch.Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(1))


def generator() -> ImplicitGenerator:
    return ImplicitGenerator(2, latent_size=8, style_size=8, channels=(16, 8), mapping_layers=2)


WAYS = [tiled, autocast, diffusion, implicit, samples, sampler, cascade]


def made(way, amp: bool) -> np.ndarray:
    torch.manual_seed(0)
    return way(amp).detach().numpy()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_amp_rounds_the_result_and_says_nothing_where_bfloat16_is_right(way, caplog):
    exact, rounded = made(way, False), made(way, True)
    assert not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()
    assert not caplog.records


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_where_bfloat16_is_wrong_the_result_is_float32s_and_one_sentence_says_so(way, monkeypatch, caplog):
    monkeypatch.setattr(bfloat16, "OUTPUT_TOLERANCE", 0.0)
    before = len(SHOWN.sentences)
    assert np.array_equal(made(way, False), made(way, True))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "outputs in bfloat16 are not those of float32 on this machine" in record.getMessage()
    assert SHOWN.sentences[before:] == [record.getMessage()], "for report.json"


def test_the_trial_is_small_and_taken_once_for_stages_that_are_alike(monkeypatch):
    tried = []
    probe = bfloat16.probe_output

    def spy(example, device):
        return probe(lambda: tried.append(example()) or tried[-1], device)

    monkeypatch.setattr(bfloat16, "probe_output", spy)
    inferer, network = ExactTiledInferer(64, amp=True), Convolution()
    large = torch.zeros(1, 1, 128, 128)
    inferer(large, network)
    inferer(large, network)
    assert [tuple(y.shape[2:]) for y in tried] == [(10, 10)] * 2, "in float32 and in bfloat16: 8 and a halo of 1"
    sized = DiffusionInferer(DDIM(NoiseSchedule()), steps=1, amp=True, multiple=8)
    sized(torch.zeros(1, 1, 64, 40), Convolution(4))
    assert [tuple(y.shape[2:]) for y in tried[2:]] == [(16, 16)] * 2
