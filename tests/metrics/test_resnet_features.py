"""Laws: MONAI's layers with torchvision's weights give torchvision's features; MedicalNet's give MedicalNet's."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from hiresmed.core.errors import InputError
from hiresmed.core.output_files import sha256_of
from hiresmed.metrics.resnet import MEAN, STD, MedicalNetFeatures, ResNet50Features, backbone_state
from monai.networks.nets import resnet10, resnet50
from torch import nn


@torch.no_grad()
def randomised(network, seed=0):
    source = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for held in (module.weight, module.running_var):
                held.copy_(torch.rand(held.shape, generator=source) + 0.5)
            for held in (module.bias, module.running_mean):
                held.copy_(torch.randn(held.shape, generator=source) * 0.2)
    return network.eval()


def bare(spatial_dims, make, channels):
    options = {"conv1_t_stride": 2, "shortcut_type": "B", "bias_downsample": False, "feed_forward": False}
    return randomised(make(spatial_dims=spatial_dims, n_input_channels=channels, **options))


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return bare(2, resnet50, 3).state_dict()


def saved(state, path):
    torch.save(state, path)
    return {"weights": path, "sha256": sha256_of(path)}


@torch.no_grad()
def test_torchvisions_file_gives_torchvisions_features(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:  # its compiled operators may not fit torch; the network uses none of them
        patch.setattr(torch.library, "register_fake", lambda *_, **__: lambda function: function)
        try:
            models = importlib.import_module("torchvision.models")
        except (ImportError, RuntimeError, AttributeError) as error:
            pytest.skip(f"torchvision cannot be imported: {error}")
    theirs = randomised(models.resnet50(weights=None))
    ours = ResNet50Features(**saved(theirs.state_dict(), tmp_path / "resnet.pth"))
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours.features(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_the_stem_strides_as_torchvisions(state, tmp_path):
    """224 -> 112 -> 56 -> 28 -> 14 -> 7; with MONAI's default stride the weights load, and all grids are twice that."""
    ours = ResNet50Features(**saved(state, tmp_path / "resnet.pth"))
    seen = {}
    for name in ("conv1", "layer1", "layer4"):
        ours.network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.shape[-1]})
        )
    ours(torch.zeros(1, 1, 30, 40))
    assert seen == {"conv1": 112, "layer1": 56, "layer4": 7}


def test_files_of_four_makers_are_unwrapped_to_the_same_weights(state):
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    place = {name: str(k) for k, name in enumerate(children)}
    radimagenet = {f"backbone.{place[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in state.items()}
    swav = {f"module.{k}": v for k, v in state.items()} | {"module.prototypes.weight": 0, "module.projection_head.0": 0}
    medicalnet = {"state_dict": {f"module.{k}": v for k, v in state.items()} | {"module.conv_seg.0.weight": 0}}
    for file in (state | {"fc.weight": 0}, radimagenet, swav, medicalnet):
        found = backbone_state(file)
        assert set(found) == set(state) and all(found[k] is state[k] for k in state)


def test_each_preprocessing_is_what_it_says_and_stands_beside_the_figure(state, tmp_path):
    given = saved(state, tmp_path / "resnet.pth")
    rgb = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    expected = {
        "rgb-imagenet-mean-std": [(u - m) / s for u, m, s in zip((0, 0.5, 1), MEAN, STD)],
        "rgb-minus1..1": [-1, 0, 1],
        "bgr-0..1-minus-imagenet-mean": [1 - 0.406, 0.5 - 0.456, -0.485],
    }
    for name, values in expected.items():
        ours = ResNet50Features(**given, preprocessing=name)
        assert ours.preprocess(rgb).flatten().tolist() == pytest.approx(values)
        assert ours.describe()["preprocessing"] == name and ours.describe()["sha256"] == given["sha256"]
    with pytest.raises(InputError, match="rgb-imagenet-mean-std"):
        ResNet50Features(**given, preprocessing="caffe")
    with pytest.raises(InputError, match=given["sha256"]):
        ResNet50Features(weights=given["weights"])


def test_a_file_of_another_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="must fit ResNet"):
        ResNet50Features(**saved({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth"))


def medicalnet(x, state, blocks):
    """Chen et al. 2019 written down from the weights alone: no stride after layer 2, dilation 2 and 4 instead."""

    def conv(x, name, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, stride=stride, padding=weight.shape[-1] // 2 * dilation, dilation=dilation)

    def norm(x, name):
        held = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *held)

    x = F.max_pool3d(norm(conv(x, "conv1", 2), "bn1").relu(), 3, 2, 1)
    for layer, (count, stride, dilation) in enumerate(zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4)), 1):
        for k in range(count):
            name, step = f"layer{layer}.{k}", stride if k == 0 else 1
            skip = x
            if f"{name}.downsample.0.weight" in state:
                skip = norm(conv(x, f"{name}.downsample.0", step), f"{name}.downsample.1")
            if f"{name}.conv3.weight" in state:
                y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
                y = norm(conv(y, f"{name}.conv2", step, dilation), f"{name}.bn2").relu()
                y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            else:
                y = norm(conv(x, f"{name}.conv1", step, dilation), f"{name}.bn1").relu()
                y = norm(conv(y, f"{name}.conv2", 1, dilation), f"{name}.bn2")
            x = (y + skip).relu()
    return x.mean((2, 3, 4))


@torch.no_grad()
@pytest.mark.parametrize(("depth", "make", "blocks"), [(10, resnet10, (1, 1, 1, 1)), (50, resnet50, (3, 4, 6, 3))])
def test_medicalnets_file_gives_medicalnets_features(tmp_path, depth, make, blocks):
    torch.manual_seed(1)
    plain = bare(3, make, 1)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}}
    ours = MedicalNetFeatures(depth, **saved(wrapped, tmp_path / "medicalnet.pth"))
    x = torch.randn(1, 1, 40, 24, 33)
    expected = medicalnet(x, plain.state_dict(), blocks)
    assert expected.shape == (1, ours.dim) and ours.name == f"medicalnet_resnet{depth}"
    torch.testing.assert_close(ours.features(x), expected, rtol=1e-4, atol=1e-5)
    assert (plain(x) - expected).norm() > 0.01 * expected.norm()  # MONAI's own strides give others


@torch.no_grad()
def test_volumes_are_standardised_by_their_own_foreground(tmp_path):
    ours = MedicalNetFeatures(10, **saved(bare(3, resnet10, 1).state_dict(), tmp_path / "medicalnet.pth"))
    x = torch.full((2, 1, 20, 20, 20), -1.0)
    x[:, :, 5:15, 5:15] = torch.rand(2, 1, 10, 10, 20)
    x[1] = (x[1] + 1) * 0.4 - 1  # another brightness of a like body
    y = ours.prepare(x)
    inside = y[x > -1].view(2, -1)
    torch.testing.assert_close(inside.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(1), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours(x[:1]), ours((x[:1] + 1) * 0.4 - 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours(x)[1:], ours(x[1:]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="foreground"):
        ours(torch.full((1, 1, 20, 20, 20), -1.0))
    with pytest.raises(InputError, match=r"\(B, 1, D, H, W\)"):
        ours(torch.zeros(1, 3, 20, 20))
    with pytest.raises(InputError, match="10 or 50"):
        MedicalNetFeatures(18, sha256="0")
