"""Laws: weights are proven before they are used; slices are what they say; figures name their network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.output_files import sha256_of
from hiresmed.metrics.extractor import find_weights, load_state
from hiresmed.metrics.features import build_extractor, compare_features, slice_features, slice_images
from hiresmed.metrics.squeezenet import WEIGHTS, SqueezeNet
from PIL import Image
from scipy.ndimage import gaussian_filter

DATA = Path(os.environ.get("HIRESMED_DATA", "/nowhere"))


@pytest.fixture(scope="module")
def squeezenet():
    for folder in (os.environ.get("HIRESMED_WEIGHTS"), DATA.parent / "weights"):
        if folder and (Path(folder) / WEIGHTS).exists():
            return build_extractor("squeezenet", weights=folder)
    pytest.skip(f"neither HIRESMED_WEIGHTS nor the folder beside HIRESMED_DATA holds {WEIGHTS}")


def test_slices_are_those_of_the_volume_in_the_fixed_window():
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    images = list(slice_images(volume, (0, 119), axes=(0, 2)))
    assert len(images) == 4 + 6
    np.testing.assert_allclose(images[1][0], volume[1] / 59.5 - 1, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(images[4 + 5][0], volume[:, :, 5] / 59.5 - 1, rtol=1e-6, atol=1e-6)
    assert next(slice_images(volume - 1000, (0, 119))).eq(-1).all()


def test_every_nth_slice_and_patches_cover_the_middle():
    volume = np.arange(10)[:, None, None] * np.ones((1, 7, 9))
    planes = list(slice_images(volume, (0, 9), axes=(0,), every=4, patch=3))
    assert len(planes) == 3 * (2 * 3)
    found = sorted({round((p.mean().item() + 1) * 4.5) for p in planes})
    assert found == [0, 4, 8]


def test_patches_do_not_overlap_and_are_the_images_own_pixels():
    image = np.arange(48.0).reshape(6, 8)
    found = torch.stack(list(slice_images(image, (0, 47), patch=3)))
    values = ((found + 1) * 23.5).round().long().flatten()
    assert len(values.unique()) == len(values) == 4 * 9


def test_a_batch_gives_what_single_images_give():
    extractor = build_extractor("random", seed=1)
    volume = np.random.default_rng(0).normal(size=(9, 20, 30))
    together = slice_features(volume, extractor, (-2, 2))
    apart = torch.cat([extractor(x[None]) for x in slice_images(volume, (-2, 2))])
    assert together.shape == (59, 64)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_the_random_network_comes_from_its_seed_and_leaves_the_global_generator_alone():
    x = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = build_extractor("random", seed=3)(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(build_extractor("random", seed=3)(x), one)
    assert not torch.equal(build_extractor("random", seed=4)(x), one)


def test_every_figure_names_its_network_and_says_how_it_was_made():
    extractor = build_extractor("random", seed=2)
    x, y = torch.rand(10, 64), torch.rand(12, 64)
    found = json.loads(json.dumps(compare_features(x, y, extractor)))
    assert set(found) == {"random_kernel_distance", "random_frechet_distance", "random_prdc"}
    for name, figure in found.items():
        assert figure["n_real"] == 10 and figure["n_generated"] == 12 and figure["extractor"] == "random"
        assert figure["extractor_seed"] == 2 and figure["comparable"] is False
        assert {"sha256", "preprocessing", "resize", "seed"} <= set(figure)
        assert ({"recall", "coverage"} if name == "random_prdc" else {"value"}) <= set(figure)


def test_an_unknown_network_is_refused_with_the_names_of_the_known():
    with pytest.raises(InputError, match=r"inception_v3_keras, .*random, .*squeezenet"):
        build_extractor("vgg")


def test_absent_weights_are_named_with_the_place_to_put_them(monkeypatch, tmp_path):
    monkeypatch.delenv("HIRESMED_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=rf"{WEIGHTS}.*HIRESMED_WEIGHTS"):
        build_extractor("squeezenet")
    monkeypatch.setenv("HIRESMED_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=str(tmp_path)):
        build_extractor("squeezenet")
    (tmp_path / WEIGHTS).write_bytes(b"1")
    assert find_weights(WEIGHTS) == tmp_path / WEIGHTS


def test_weights_of_another_sum_another_network_or_with_code_inside_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(InputError, match="sha256"):
        build_extractor("squeezenet", weights=tmp_path / "linear.pth")
    with pytest.raises(InputError, match="must fit"):
        build_extractor("squeezenet", weights=tmp_path / "linear.pth", sha256=sha256_of(tmp_path / "linear.pth"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="plain tensors"):
        load_state(tmp_path / "pickle.pth", sha256_of(tmp_path / "pickle.pth"))


def test_squeezenet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in SqueezeNet().parameters()) == 1_235_496


@pytest.mark.realdata
@pytest.mark.parametrize(("photograph", "label", "probability"), [("chelsea", 285, 0.515), ("coffee", 967, 0.998)])
def test_squeezenet_knows_a_cat_and_an_espresso(squeezenet, photograph, label, probability):
    path = DATA / "natural2d" / f"{photograph}.png"
    if not path.exists():
        pytest.skip(f"HIRESMED_DATA names no folder with natural2d/{photograph}.png")
    rgb = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
    found = squeezenet.network(squeezenet.prepare(rgb)).softmax(1)[0]
    assert found.argmax() == label and found[label].item() == pytest.approx(probability, abs=2e-3)


def _spoil(kind, x, strength):
    rng = np.random.default_rng(0)
    if kind == "noise":
        return x + rng.normal(size=x.shape) * strength
    if kind == "blur":
        return gaussian_filter(x, strength)
    tiles = np.kron(rng.normal(size=(16, 16)) * strength, np.ones((32, 32)))
    return x + tiles[: x.shape[0], : x.shape[1]]


def _patch_features(images, squeezenet):
    return torch.cat([slice_features(x, squeezenet, (0, 255), patch=250) for x in images])


@pytest.fixture(scope="module")
def xrays(squeezenet):
    paths = sorted((DATA / "xray2d").glob("*.jpg"))[:12]
    if len(paths) < 12:
        pytest.skip("HIRESMED_DATA names no folder with 12 X-rays in xray2d/")
    images = [np.asarray(Image.open(p).convert("L").reduce(4), dtype=float) for p in paths]
    return images[1::2], _patch_features(images[::2], squeezenet), _patch_features(images[1::2], squeezenet)


@pytest.mark.realdata
@pytest.mark.parametrize(("kind", "strengths"), [("noise", (8, 32)), ("blur", (1, 4)), ("seams", (8, 32))])
def test_noise_blur_and_seams_of_growing_strength_raise_both_distances_on_real_xrays(
    squeezenet, xrays, kind, strengths
):
    others, real, untouched = xrays
    spoilt = [_patch_features([_spoil(kind, x, s) for x in others], squeezenet) for s in strengths]
    found = [compare_features(real, features, squeezenet) for features in (untouched, *spoilt)]
    for name in ("squeezenet_kernel_distance", "squeezenet_frechet_distance"):
        values = [f[name]["value"] for f in found]
        assert values[0] < values[1] < values[2] and values[2] > 1.5 * values[0]
    assert not any("fid" in key.lower() or "kid" in key.lower() for f in found for key in f)
