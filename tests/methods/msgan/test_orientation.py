"""One body is drawn alike, to the byte, however its file orders the axes; masks and sketches go by their own affine."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.pyramids import MemoryStores
from hiresmed.core.views import as_canonical
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator, training_cases
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

ORDERS = ("RAS", "LAS", "LPS", "LPI", "SAR", "PIR", "RSA", "ASL")
TILTED = np.array([[1.5, 0.2, 0, -7], [-0.2, 1.5, 0.1, 3], [0, -0.1, 2, 11], [0, 0, 0, 1.0]])
SMALL = {"width": 8, "fine_width": 4, "num_blocks": 1}


class Memory:
    """Stores of a case that are held in memory."""

    def stores(self, case, recipe):
        return MemoryStores("float32")


@pytest.fixture(scope="module")
def network() -> MultiScaleGenerator:
    torch.manual_seed(0)
    network = MultiScaleGenerator(3, 2, base=SMALL, stage=SMALL)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def body(shape=(26, 21, 19), seed: int = 0) -> nibabel.Nifti1Image:
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-1000, 1000, (1, 1, 4, 4, 4)))
    values = torch.nn.functional.interpolate(coarse, shape)[0, 0].numpy()
    return nibabel.Nifti1Image(values.astype(np.float32), TILTED)


def stored(image: nibabel.Nifti1Image, order: str) -> nibabel.Nifti1Image:
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(order)))


def volume(image: nibabel.Nifti1Image) -> ArrayVolume:
    return ArrayVolume(np.asarray(image.dataobj), image.affine, "body.nii")


def drawn(network, case: dict, **options) -> nibabel.Nifti1Image:
    """What the cascade makes of a case, as an image again."""
    inferer = CascadeInferer(GradientSketch(), Memory(), 12, base_size=8, progress=False, dtype="float32", **options)
    made = inferer({name: volume(image) for name, image in case.items()}, network).image
    return nibabel.Nifti1Image(made.read([0, 0, 0], made.shape), made.affine)


def assert_same(made: nibabel.Nifti1Image, wanted: nibabel.Nifti1Image) -> None:
    assert np.array_equal(made.get_fdata(), wanted.get_fdata()) and np.allclose(made.affine, wanted.affine)


@pytest.mark.parametrize("order", ORDERS)
def test_one_body_is_drawn_alike_in_any_order_and_comes_back_in_its_own(network, order):
    image = body()
    made = drawn(network, {"image": stored(image, order)})
    assert made.shape == stored(image, order).shape and np.allclose(made.affine, stored(image, order).affine)
    assert_same(made, stored(drawn(network, {"image": image}), order))


@pytest.mark.parametrize("order", ["LPS", "SAR"])
def test_size_and_region_are_in_the_order_of_the_file(network, order):
    image = body()
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(order))
    size = np.array([30, 28, 24])[turn[:, 0].astype(int).argsort()].tolist()
    whole = drawn(network, {"image": stored(image, order)}, size=size)
    assert whole.shape == tuple(size)
    region = [[3, 15], [8, 20], [0, 17]]
    part = drawn(network, {"image": stored(image, order)}, size=size, region=region)
    assert_same(part, whole.slicer[3:15, 8:20, 0:17])
    assert_same(whole, stored(drawn(network, {"image": image}, size=[30, 28, 24]), order))


@pytest.mark.parametrize("order", ["LPS", "SAR"])
@pytest.mark.parametrize("name", ["mask", "sketch"])
def test_a_mask_or_sketch_in_another_order_is_the_same(network, name, order):
    image = body()
    other = np.zeros(image.shape, np.float32)
    other[3:11, 4:16, 5:14] = 1
    other = nibabel.Nifti1Image(other, image.affine)
    made = drawn(network, {"image": image, name: stored(other, order)})
    assert_same(made, drawn(network, {"image": image, name: other}))
    mirrored = nibabel.Nifti1Image(np.asarray(other.dataobj)[::-1].copy(), image.affine)
    assert not np.array_equal(made.get_fdata(), drawn(network, {"image": image, name: mirrored}).get_fdata())


@pytest.mark.parametrize("name", ["mask", "sketch"])
def test_a_mask_or_sketch_that_lies_elsewhere_is_refused(network, name):
    image = body()
    away = image.affine.copy()
    away[0, 3] += 4
    other = nibabel.Nifti1Image(np.ones(image.shape, np.float32), away)
    with pytest.raises(InputError, match=rf"The {name} must lie where the image lies, got .* 4\.0 mm"):
        drawn(network, {"image": image, name: other})


def test_training_sees_what_inference_sees(network, tmp_path):
    image = body((24, 20, 18))
    prepared = []
    for order in ("RAS", "SAR", "LPS"):
        folder = tmp_path / order
        folder.mkdir()
        nibabel.save(stored(image, order), folder / "case.nii")
        cases = [{"image": str(folder / "case.nii")}]
        (case,) = training_cases(None, "training", network, GradientSketch(), base_size=8, cases_list=cases)
        levels = [*case.images, *case.sketches]
        prepared.append([level.read([0] * 3, level.shape) for level in levels])
        assert np.allclose(case.images[0].affine, as_canonical(volume(image)).affine)
    for other in prepared[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(prepared[0], other))
