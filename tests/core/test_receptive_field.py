"""The probe finds how far a network sees, neither less nor more, and refuses by name what sees everywhere."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.receptive_field import ReceptiveField, probe_receptive_field, receptive_field_of
from hiresmed.methods.msgan import PatchGenerator
from monai.networks.layers.factories import Conv
from monai.networks.nets import BasicUNet
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Conv2d(4, 1, 3, padding=1))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(1, 1, 1), ReceptiveField(0, 1, 0)),
        (nn.Conv2d(1, 1, 7, padding=3), ReceptiveField(3, 1, 0)),
        (nn.Conv2d(1, 1, 7), ReceptiveField(3, 1, 3)),
        (nn.Conv2d(1, 1, (3, 7), padding=(1, 3)), ReceptiveField(3, 1, 0)),  # the larger axis counts
        (nn.Conv2d(1, 1, 3, padding=4, dilation=4), ReceptiveField(4, 1, 0)),
        (chain(nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2)), ReceptiveField(4, 1, 0)),
        (chain(nn.Conv2d(4, 4, 5)), ReceptiveField(4, 1, 2)),  # one valid layer among same-padded ones
        # 2 x 2 cells: a voxel's cell begins at most 1 before it, 3 x 3 cells reach 2 further
        (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=2)),
         ReceptiveField(2, 2, 0)),
        (nn.Sequential(nn.Conv2d(1, 1, 4, 4), nn.ConvTranspose2d(1, 1, 4, 4)), ReceptiveField(0, 4, 0)),
    ],
)  # fmt: skip
def test_hand_counted_fields(network, expected):
    assert probe_receptive_field(network, 1, 2) == expected


def test_a_three_dimensional_field_is_that_of_its_longest_axis():
    network = nn.Conv3d(2, 1, (1, 3, 5), padding=(0, 1, 2))
    assert probe_receptive_field(network, 2, 3) == ReceptiveField(2, 1, 0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("factor", "blocks"), [(1, 1), (2, 0), (2, 1), (2, 2), (4, 1)])
def test_what_the_generator_declares_is_what_the_probe_finds(dims, factor, blocks):
    network = PatchGenerator(dims, 3, width=4, fine_width=4, num_blocks=blocks, factor=factor)
    declared = receptive_field_of(network, 3, dims)
    assert declared == ReceptiveField(network.margin, factor, network.margin)
    assert probe_receptive_field(network, 3, dims) == declared


def test_silenced_layers_do_not_fool_the_probe():
    """Zero-initialised last layers, closed rectifiers, negative norms: the architecture looks as far as ever."""
    network = PatchGenerator(2, 2, width=4, fine_width=4, num_blocks=1)
    honest = probe_receptive_field(network, 2, 2)
    for weight in network.out.parameters():
        nn.init.zeros_(weight)
    assert probe_receptive_field(network, 2, 2) == honest

    normed = chain(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()
    normed[1].running_mean.fill_(1e6)  # closes the rectifier behind it for any ordinary input
    assert probe_receptive_field(normed, 1, 2).halo == 3

    signed = chain(spectral_norm(nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU()).eval()
    signed[1].parametrizations.weight[0]._u.abs_()
    signed[1].parametrizations.weight[0]._v.abs_().neg_()  # positive weights over a negative norm
    assert probe_receptive_field(signed, 1, 2).halo == 3


def test_a_maximum_hides_none_of_its_inputs():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(7, 1, 3))
    assert probe_receptive_field(network, 1, 2) == ReceptiveField(3, 1, 0)
    assert isinstance(network[1], nn.MaxPool2d), "the network itself is left alone"


def test_the_network_is_left_as_it_was():
    network = chain(nn.BatchNorm2d(4), spectral_norm(nn.Conv2d(4, 4, 3, padding=1))).eval()
    network[1].running_mean.fill_(3.0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    probe_receptive_field(network, 1, 2)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network(torch.zeros(1, 1, 8, 8)).dtype == torch.float32


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


class Mean(nn.Module):
    """A functional global mean, in no layer's list."""

    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(self.pool(x)))


@pytest.mark.parametrize(
    ("layer", "name", "kind"),
    [
        (nn.InstanceNorm2d(4), "1", "InstanceNorm2d"),
        (nn.GroupNorm(2, 4), "1", "GroupNorm"),
        (nn.LayerNorm([4, 8, 8]), "1", "LayerNorm"),
        (Attention(), "1.attention", "MultiheadAttention"),
        (Squeeze(), "1.pool", "AdaptiveAvgPool2d"),
        (nn.AdaptiveMaxPool2d(8), "1", "AdaptiveMaxPool2d"),
        (nn.Dropout2d(0.5).train(), "1", "Dropout2d"),
        (nn.BatchNorm2d(4).train(), "1", "BatchNorm2d"),
        (nn.BatchNorm2d(4, track_running_stats=False), "1", "BatchNorm2d"),
    ],
)
def test_a_layer_with_statistics_over_space_is_refused_by_name(layer, name, kind):
    was_training = layer.training
    network = chain(layer).eval()
    layer.train(was_training)
    with pytest.raises(InputError, match=rf"layer '{name}' \({kind}\)"):
        probe_receptive_field(network, 1, 2)


def test_the_same_layers_at_rest_pass():
    network = chain(nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.Dropout(0.5)).eval()
    assert probe_receptive_field(network, 1, 2).halo == 2


def test_a_functional_mean_is_named_by_the_probe():
    with pytest.raises(InputError, match=r"layer '1' \(Mean\) reaches across a cube"):
        probe_receptive_field(chain(Mean(), nn.ReLU()), 1, 2)


def test_a_declared_field_excuses_no_layer():
    network = PatchGenerator(2, 2, width=4, fine_width=4, num_blocks=1)
    network.blocks.append(nn.InstanceNorm2d(4))
    with pytest.raises(InputError, match=r"layer 'blocks\.1' \(InstanceNorm2d\)"):
        receptive_field_of(network, 2, 2)


def test_a_network_that_changes_the_grid_is_refused():
    with pytest.raises(InputError, match="keeps the grid, got 16 voxels from 32"):
        probe_receptive_field(nn.Conv2d(1, 1, 3, stride=2, padding=1), 1, 2)


def test_a_network_of_a_library_is_probed_or_refused_like_ours():
    unet = BasicUNet(2, 1, 1, features=(4, 4, 4, 4, 4, 4)).eval()
    with pytest.raises(InputError, match="InstanceNorm2d"):
        probe_receptive_field(unet, 1, 2)
    plain = BasicUNet(2, 1, 1, features=(4, 4, 4, 4, 4, 4), norm=("batch", {})).eval()
    field = probe_receptive_field(plain, 1, 2)
    assert field.alignment == 16 and field.shrink == 0
    conv = Conv[Conv.CONV, 2]
    assert sum(isinstance(m, conv) for m in plain.modules()) == 19
    assert 64 < field.halo <= 160
