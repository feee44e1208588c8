"""Laws: with the same weights, the same features as the three sources; a file of another network is refused."""

from __future__ import annotations

import functools
import importlib
import random

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.output_files import sha256_of
from hiresmed.metrics import inception
from hiresmed.metrics.inception import BlockA, ConvNorm, InceptionKeras, InceptionTf2015, InceptionTorchvision

SIDE = 96  # instead of 299: the same layers, a tenth of the work


def torchvision_models(monkeypatch):
    """torchvision's networks, also where its compiled operators (none of which they use) do not fit torch."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.library, "register_fake", lambda *_, **__: lambda function: function)
        try:
            return importlib.import_module("torchvision.models")
        except (ImportError, RuntimeError, AttributeError) as error:
            pytest.skip(f"torchvision cannot be imported: {error}")


@torch.no_grad()
def randomised(network, seed=0):
    """The network in eval mode, with norms that do something, and biases of either sign."""
    source = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            # about the gain of a ReLU network, so that the image still counts after 48 layers
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.copy_(torch.randn(module.weight.shape, generator=source) * deviation)
        if isinstance(module, torch.nn.BatchNorm2d):
            for held, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.2, 0.4)):
                held.copy_(torch.rand(held.shape, generator=source) * (high - low) + low)
            module.running_mean.copy_(torch.randn(module.bias.shape, generator=source) * 0.1)
            module.running_var.copy_(torch.rand(module.bias.shape, generator=source) + 0.5)
    return network.eval()


def images(n=2):
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9)) * 2 - 1


def saved(state, path):
    torch.save(state, path)
    return {"weights": path, "sha256": sha256_of(path)}


@pytest.fixture(scope="module")
def network():
    return randomised(inception.InceptionV3())


@torch.no_grad()
def test_torchvisions_file_gives_torchvisions_features(monkeypatch, tmp_path):
    models = torchvision_models(monkeypatch)
    theirs = randomised(models.inception_v3(weights=None, init_weights=False, transform_input=False))
    ours = InceptionTorchvision(**saved(theirs.state_dict(), tmp_path / "inception.pth"))
    theirs.fc = torch.nn.Identity()
    x = images()
    expected = theirs(x)
    torch.testing.assert_close(ours.features(ours.preprocess(x)), expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] - expected[1]).norm() > 1e-2 * expected.norm()


@torch.no_grad()
def test_the_file_of_fid_gives_pytorch_fids_features(monkeypatch, network, tmp_path):
    models = torchvision_models(monkeypatch)
    fid = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")
    theirs = models.inception_v3(weights=None, init_weights=False, aux_logits=False)
    a, c = fid.FIDInceptionA, functools.partial(fid.FIDInceptionC, 768)
    made = {
        "5b": a(192, 32),
        "5c": a(256, 64),
        "5d": a(288, 64),
        "6b": c(128),
        "6c": c(160),
        "6d": c(160),
        "6e": c(192),
    }
    made |= {"7b": fid.FIDInceptionE_1(1280), "7c": fid.FIDInceptionE_2(2048)}
    for name, block in made.items():
        setattr(theirs, f"Mixed_{name}", block)
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(network.state_dict())
    ours = InceptionTf2015(**saved(network.state_dict(), tmp_path / "inception.pth"))
    expected = theirs.eval()(images())
    torch.testing.assert_close(ours.network(images()), expected, rtol=1e-5, atol=1e-6)
    assert (network(images()) - expected).norm() > 1e-3 * expected.norm()  # the pools count


@torch.no_grad()
def test_a_keras_file_gives_keras_features(monkeypatch, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    if keras.backend.backend() != "torch":
        pytest.skip("keras was imported with another backend than torch")
    theirs = keras.applications.InceptionV3(weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3))
    source = torch.Generator().manual_seed(0)
    for layer in theirs.layers:
        shapes = [w.shape for w in layer.get_weights()]
        if len(shapes) == 3:  # a norm: beta, mean, variance
            draw = [torch.rand(s, generator=source).numpy() for s in shapes]
            layer.set_weights([draw[0] * 0.6 - 0.2, draw[1] * 0.2 - 0.1, draw[2] + 0.5])
        elif shapes:
            deviation = (2 / (shapes[0][0] * shapes[0][1] * shapes[0][2])) ** 0.5
            layer.set_weights([torch.randn(shapes[0], generator=source).numpy() * deviation])
    theirs.save(tmp_path / "inception.h5")
    ours = InceptionKeras(weights=tmp_path / "inception.h5", sha256=sha256_of(tmp_path / "inception.h5"))
    expected = theirs(images().permute(0, 2, 3, 1), training=False).detach().cpu()
    torch.testing.assert_close(ours.network(images()), expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).norm() > 1e-2 * expected.norm()


def keras_file(path, network, first=0, gamma=False, group="model_weights"):
    """The network's weights in Keras 2's layout, layers in a shuffled order, numbered from `first` on."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    layers = [m for m in network.modules() if isinstance(m, ConvNorm)]
    order = list(range(len(layers)))
    random.Random(0).shuffle(order)
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        root.attrs["layer_names"] = ["shuffled"]
        for k in order:
            number = f"_{first + k}" if first + k else ""
            conv, bn = f"conv2d{number}", f"batch_normalization{number}"
            weight = layers[k].conv.weight.detach().permute(2, 3, 1, 0)
            root[f"{conv}/{conv}/kernel:0"] = weight.contiguous().numpy()
            fields = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            fields |= {"gamma": "weight"} if gamma else {}
            for theirs, mine in fields.items():
                root[f"{bn}/{bn}/{theirs}:0"] = getattr(layers[k].bn, mine).detach().numpy()
        root["predictions/predictions/kernel:0"] = weight[0, 0].numpy()
    return {"weights": path, "sha256": sha256_of(path)}


@pytest.mark.parametrize(("first", "gamma", "group"), [(0, True, "model_weights"), (94, False, None)])
def test_a_keras_file_is_read_by_the_numbers_of_its_layers(network, tmp_path, first, gamma, group):
    ours = InceptionKeras(**keras_file(tmp_path / "k.h5", network, first, gamma, group)).network.state_dict()
    for name, value in network.state_dict().items():
        expected = torch.ones_like(value) if name.endswith("bn.weight") and not gamma else value
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=0)


def test_other_h5_files_are_refused(network, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with pytest.raises(InputError, match="94 convolutions and norms, got 7 and 7"):
        InceptionKeras(**keras_file(tmp_path / "other.h5", BlockA(192, 32)))
    with h5py.File(tmp_path / "three.h5", "w") as file:
        file["layers/conv2d/vars/0"] = [0.0]
    (tmp_path / "none.h5").write_bytes(b"no hdf5")
    for name in ("three.h5", "none.h5"):
        with pytest.raises(InputError, match=rf"{name} must be a Keras \.h5 file"):
            InceptionKeras(weights=tmp_path / name, sha256=sha256_of(tmp_path / name))


def test_there_are_94_convolutions_and_the_published_number_of_parameters(network):
    """torchvision's 23,834,568 with 1000 classes, less the classifier of 2,049,000."""
    assert sum(isinstance(m, ConvNorm) for m in network.modules()) == 94
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 - 2_049_000


def test_each_family_pools_in_its_own_way():
    """Of nine ones a corner sees four: 4/9 with the border, 1 without it."""
    found = {}
    for family in (InceptionTf2015, InceptionTorchvision, InceptionKeras):
        with torch.device("meta"):
            made = inception.InceptionV3(family.count_border, family.last_pool)
        x = torch.ones(1, 1, 3, 3)
        x[..., 1, 1] = 10
        blocks = (made.Mixed_5b, made.Mixed_6e, made.Mixed_7b, made.Mixed_7c)
        found[family.name] = [block.pooled(x)[0, 0, 0, 0].item() for block in blocks]
    assert found["inception_v3_tf2015"] == [3.25, 3.25, 3.25, 10]
    assert found["inception_v3_torchvision"] == pytest.approx([13 / 9] * 4)
    assert found["inception_v3_keras"] == [3.25] * 4


def test_images_come_to_the_network_as_it_was_trained_and_figures_name_the_file(network, tmp_path):
    state = network.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "AuxLogits.fc.bias": torch.zeros(3)}
    given = saved(state, tmp_path / InceptionTf2015.usual_name)
    tf = InceptionTf2015(weights=tmp_path, sha256=given["sha256"].upper())
    black_and_white = tf.prepare(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 40, 50))
    assert black_and_white.shape == (2, 3, 299, 299)
    torch.testing.assert_close(black_and_white[:, 0, 0, 0], torch.tensor([-1.0, 127 / 128]))
    described = tf.describe()
    assert described["sha256"] == given["sha256"] and described["extractor"] == "inception_v3_tf2015"
    assert described["preprocessing"] != InceptionTorchvision.preprocessing
    with pytest.raises(InputError, match=given["sha256"]):
        InceptionTf2015(weights=tmp_path)
    with pytest.raises(InputError, match="must have the sha256"):
        InceptionTf2015(weights=tmp_path, sha256="0" * 64)
    with pytest.raises(InputError, match="must fit InceptionV3"):
        InceptionTorchvision(**saved({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth"))
