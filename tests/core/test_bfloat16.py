"""bfloat16 that is wrong is found, rounding is not; and the search leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from falsified import Falsified
from hiresmed.core import bfloat16
from hiresmed.core.bfloat16 import (
    GRADIENT_TOLERANCE,
    InferencePrecision,
    PrecisionComparison,
    TrainingPrecision,
    compare_tensors,
    describe_shapes,
    preserve_state,
    probe_gradients,
    probe_output,
)
from hiresmed.core.processor import processor_name
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
RIGHT = PrecisionComparison(True, "w", 0.01, 1.0, 0.999)
WRONG = PrecisionComparison(False, "conv.weight", 1e9, 1e9, 0.01)


class Network(nn.Module):
    """Convolution, batch norm, dropout, one falsified scale, and a last layer that starts at 0."""

    def __init__(self, garbage=lambda gradient: gradient) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.garbage = garbage
        self.last = nn.Conv2d(8, 1, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        x = self.drop(self.norm(self.first(x)).relu())
        x = x.bfloat16() if torch.is_autocast_enabled(x.device.type) else x
        return self.last(Falsified.apply(x, self.scale, self.garbage))


def probe(network: nn.Module) -> PrecisionComparison:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4, 1, 8, 8, generator=random)
    target = torch.randn(4, 1, 8, 8, generator=random)

    def gradients(autocast: bool) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (network(x).float() - target).square().mean()
        loss.backward()
        return {name: p.grad for name, p in network.named_parameters()}

    return probe_gradients(gradients, [network], CPU)


def test_a_healthy_network_passes_though_its_last_layer_starts_at_zero():
    torch.manual_seed(0)
    likeness = probe(Network())
    assert likeness.alike
    assert 0.98 < likeness.cosine < 1, "the layers before the last had a gradient, and it was rounded"
    assert likeness.error < GRADIENT_TOLERANCE / 2


@pytest.mark.parametrize(
    "garbage",
    [
        lambda g: torch.full_like(g, 1e37),
        lambda g: torch.full_like(g, math.nan),
        lambda g: torch.zeros_like(g),
        lambda g: g.flip(1) * 1.5 + g.norm(),
        lambda g: -g,
        lambda g: 2 * g,
        lambda g: torch.full_like(g, 3e-3),
    ],
    ids=["huge", "nan", "zero", "other", "negative", "double", "small constant"],
)
def test_a_falsified_gradient_is_found_and_named(garbage):
    torch.manual_seed(0)
    likeness = probe(Network(garbage))
    assert not likeness.alike
    assert likeness.worst == "scale"


def test_the_probe_leaves_no_trace():
    torch.manual_seed(0)
    network = Network()
    network.first.weight.grad = torch.full_like(network.first.weight, 7.0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    probe(network)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert (network.first.weight.grad == 7).all() and network.scale.grad is None


def test_an_error_inside_leaves_no_trace_either():
    network = Network()
    with pytest.raises(ZeroDivisionError), preserve_state([network], CPU):
        network(torch.ones(2, 1, 4, 4)).sum().backward()
        assert network.last.weight.any() and network.first.weight.grad is not None
        raise ZeroDivisionError
    assert not network.last.weight.any() and network.first.weight.grad is None
    assert network.norm.num_batches_tracked == 0


def test_noise_in_place_of_a_zero_gradient_is_rounding_up_to_a_share_of_the_whole():
    """The bias before a normalisation: its gradient is 0, rounding leaves something of any direction."""
    weight, bias = torch.ones(4, 25), torch.zeros(4)
    noise = torch.tensor([0.1, 0.0, 0.0, 0.0])
    assert compare_tensors({"w": weight, "b": bias}, {"w": weight, "b": noise}, 0.5).alike
    assert not compare_tensors({"w": weight, "b": bias}, {"w": weight, "b": 10 * noise}, 0.5).alike
    assert not compare_tensors({"w": weight, "v": bias[None]}, {"w": weight, "v": noise[None]}, 0.5).alike, (
        "of a weight, no"
    )
    assert compare_tensors({}, {}, 0.5).alike


def test_a_probe_is_taken_once_for_each_kind_of_batch_and_a_wrong_one_ends_bfloat16(caplog):
    asked = []

    def answer(likeness):
        return lambda: asked.append(likeness) or likeness

    precision = TrainingPrecision(True)
    for kind in ("8x8", "8x8", "4x4", "8x8"):
        precision.settle(kind, answer(RIGHT), CPU)
    assert len(asked) == 2 and precision.autocast and not caplog.records
    precision.settle("2x2", answer(WRONG), CPU)
    precision.settle("1x1", answer(RIGHT), CPU)
    assert len(asked) == 3 and not precision.autocast
    (record,) = caplog.records
    assert record.getMessage().startswith("amp is true, but gradients in bfloat16 are not those of float32")
    assert "'conv.weight' has 1e+09 times the length" in record.getMessage()
    assert record.getMessage().endswith("the run goes on in float32.")


def test_without_amp_nothing_is_probed():
    precision = TrainingPrecision(False)
    precision.settle("8x8", lambda: pytest.fail("probed"), CPU)
    assert not precision.autocast


@pytest.mark.parametrize(("likeness", "autocast"), [(RIGHT, True), (WRONG, False)])
def test_a_resumed_training_decides_as_the_one_before_it_and_another_machine_anew(likeness, autocast, monkeypatch):
    before = TrainingPrecision(True)
    before.settle("8x8", lambda: likeness, CPU)
    resumed = TrainingPrecision(True)
    resumed.load_state_dict(before.state_dict())
    resumed.settle("8x8", lambda: pytest.fail("probed again"), CPU)
    assert resumed.autocast is autocast
    monkeypatch.setattr(bfloat16, "machine_name", lambda device: "another")
    elsewhere = TrainingPrecision(True)
    elsewhere.load_state_dict(before.state_dict())
    elsewhere.settle("8x8", lambda: RIGHT, CPU)
    assert elsewhere.autocast and elsewhere.machine == "another"


def test_a_phase_with_amp_after_one_without_finds_out():
    before = TrainingPrecision(False)
    before.settle("8x8", lambda: RIGHT, CPU)
    after = TrainingPrecision(True)
    after.load_state_dict(before.state_dict())
    after.settle("8x8", lambda: WRONG, CPU)
    assert not after.autocast and after.kinds == ["8x8"]


def test_a_card_too_small_for_float32_trains_unchecked_and_says_so(caplog):
    def probe() -> PrecisionComparison:
        raise torch.OutOfMemoryError

    precision = TrainingPrecision(True)
    precision.settle("8x8", probe, CPU)
    assert precision.autocast
    assert "bfloat16 is used without a check" in caplog.text


def test_an_output_that_bfloat16_changes_is_found_and_one_that_it_rounds_is_not(caplog):
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 8), torch.randn(2, 8)

    def broken() -> torch.Tensor:
        y = layer(x)
        return y * 1e6 if y.dtype == torch.bfloat16 else y

    assert probe_output(lambda: layer(x), CPU).alike
    precision = InferencePrecision(True, CPU)
    with precision.context("layer", lambda: layer(x)):
        assert layer(x).dtype == torch.bfloat16
    with precision.context("layer", lambda: pytest.fail("tried twice")):
        pass
    assert not caplog.records
    with precision.context("broken", broken):
        assert layer(x).dtype == torch.float32
    assert "outputs in bfloat16 are not those of float32" in caplog.text
    with InferencePrecision(False, CPU).context("layer", lambda: pytest.fail("tried without amp")):
        assert layer(x).dtype == torch.float32


def test_kinds_are_shapes_without_the_batch_axis():
    assert describe_shapes(torch.zeros(2, 1, 8, 9), 3) == describe_shapes(torch.zeros(5, 1, 8, 9), 3) == "1x8x9, 3"


def test_machines_are_told_apart_by_processor_and_torch():
    assert processor_name() in bfloat16.machine_name(CPU) and torch.__version__ in bfloat16.machine_name(CPU)


def test_convolutions_are_probed_at_the_sizes_of_small_levels(monkeypatch):
    found = bfloat16.probe_convolutions(CPU)
    assert set(found) == {1, 2, 3, 4, 8}
    # 2 x 2 x 2 is wrong on processors with AVX512 and torch 2.13
    assert all(0.99 < likeness.cosine < 1 for size, likeness in found.items() if size != 2)
    monkeypatch.setattr(bfloat16, "GRADIENT_TOLERANCE", 0.0)
    assert not any(likeness.alike for likeness in bfloat16.probe_convolutions(CPU).values())
