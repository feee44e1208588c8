"""Onto the working grid and back: what lay somewhere lies there again, whatever the file's axes and voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import SplitEnsembled, WorkingGridd
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

SHAPE = (38, 45, 30)


def brain(affine: np.ndarray, shape=SHAPE) -> tuple[MetaTensor, MetaTensor]:
    """A ball at world (6, -4, 3) mm of radius 34 mm, and in it a smaller one, seen through the affine; outside -1."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    ball = np.linalg.norm(world - [6, -4, 3], axis=-1) < 34
    lesion = np.linalg.norm(world - [18, -10, 8], axis=-1) < 14
    image = np.stack([np.where(ball, 0.5, -1.0), np.where(ball, world[..., 0] / 100, -1.0)]).astype(np.float32)
    return tuple(
        MetaTensor(torch.from_numpy(v), affine=torch.from_numpy(affine))
        for v in (image, lesion[None].astype(np.float32))
    )


def centred(directions: np.ndarray, spacing) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


AFFINES = {
    "LPS": centred(np.diag([-1.0, -1, 1]), (2.0, 2.0, 3.0)),
    "RAS": centred(np.eye(3), (2.0, 2.0, 3.0)),
    "SAL": centred(np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]]), (2.5, 2.0, 3.0)),
    "oblique": centred(np.linalg.qr(np.array([[1, 0.2, 0], [-0.15, 1, 0.1], [0.1, 0, 1.0]]))[0], (2.0, 2.2, 2.7)),
}


@pytest.mark.parametrize("axes", AFFINES)
@pytest.mark.parametrize("spacing", [None, 3.5, 1.7])
def test_a_lesion_taken_onto_the_grid_and_back_covers_itself(axes, spacing):
    image, label = brain(AFFINES[axes])
    grid = Compose([WorkingGridd(["image", "label"], spacing)])
    seen = grid({"image": image, "label": label})
    assert seen["image"].shape[1:] == seen["label"].shape[1:]
    back = Invertd("pred", grid, "image", nearest_interp=False)({**seen, "pred": seen["label"].clone()})["pred"]
    assert back.shape == label.shape and np.allclose(back.affine, image.affine, atol=1e-5)
    found, truth = back.as_tensor() > 0.5, label.as_tensor() > 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > (0.999 if spacing is None else 0.93)


def test_one_patient_looks_the_same_however_his_file_is_stored():
    seen = {name: WorkingGridd("image", 4.0)({"image": brain(AFFINES[name])[0]})["image"] for name in ("LPS", "RAS")}
    assert torch.allclose(seen["LPS"].as_tensor(), seen["RAS"].as_tensor(), atol=1e-5)
    middle = [n // 2 for n in seen["LPS"].shape[2:]]
    x = seen["LPS"].as_tensor()[1, :, middle[0], middle[1]]
    assert (x[2:-2].diff() < 0).all(), "the first axis runs to the left, against world x"


def test_a_voxel_at_half_the_resolution_is_the_mean_of_eight():
    values = torch.rand(1, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    image = MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)))
    seen = WorkingGridd("image", 2.0, crop=False)({"image": image})["image"]
    mean = torch.nn.functional.avg_pool3d(values, 2)
    assert seen.shape == mean.shape and torch.allclose(seen.as_tensor(), mean, atol=1e-5)


def test_the_box_is_that_of_the_brain_and_nothing_of_it_is_lost():
    image, label = brain(AFFINES["LPS"])
    seen = WorkingGridd(["image", "label"])({"image": image, "label": label})
    assert (seen["image"].as_tensor() > -1).sum() == (image.as_tensor() > -1).sum()
    for axis in (1, 2, 3):
        for end in (0, -1):
            assert (seen["image"].as_tensor().select(axis, end) > -1).any(), "a face without brain could be cut"
    assert seen["label"].sum() == label.sum()
    whole = WorkingGridd("image", crop=False)({"image": image})["image"]
    assert whole.shape == image.shape
    empty = MetaTensor(torch.full((2, 5, 4, 3), -1.0), affine=torch.eye(4, dtype=torch.float64))
    assert WorkingGridd("image")({"image": empty})["image"].shape == empty.shape


@pytest.mark.parametrize("spacing", [0, -1.0, "2 mm"])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(InputError, match="spacing must be a positive number of mm"):
        WorkingGridd("image", spacing)


def test_an_ensembles_halves_are_probability_and_variance():
    pred = torch.arange(6.0).view(6, 1, 1, 1)
    split = SplitEnsembled("pred")({"pred": pred})
    assert torch.equal(split["pred"], pred[:3]) and torch.equal(split["probability"], pred[:3])
    assert torch.equal(split["variance"], pred[3:])
