"""What a server needs around a bundle: latents in place of images, results as its writer wants them."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latents_of
from hiresmed.io import CaseOutput, LoadImageStreamd, RequestedLatentd, ServedImaged
from PIL import Image


def test_a_request_gets_the_latent_that_a_run_draws_for_the_same_seed_and_number():
    draw = RequestedLatentd("image", latent_size=16, seed=5)
    assert torch.equal(draw({"image": "a.png", "seed": "3", "number": 2})["image"], latents_of(3, [2], 16)[0])
    assert torch.equal(draw({"image": "a.png"})["image"], latents_of(5, [0], 16)[0])
    assert draw({"name": "sample_0000"}) == {"name": "sample_0000"}
    with pytest.raises(InputError, match="seed must be a whole number"):
        draw({"image": "a.png", "seed": "x"})


def test_pictures_leave_as_columns_and_rows_and_volumes_as_they_are():
    picture = torch.tensor([[[0.4, 70000.0, -3.0], [1.0, 2.0, 3.0]]])
    served = ServedImaged("pred", "uint16")({"pred": picture})["pred"]
    assert served.dtype == np.uint16 and served.tolist() == [[0, 1], [65535, 2], [0, 3]]
    volume = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert np.array_equal(ServedImaged("pred", "int16")({"pred": volume})["pred"], volume.numpy().astype(np.int16))


def test_the_runs_own_cases_and_what_is_no_tensor_pass_and_several_channels_are_refused():
    served = ServedImaged("pred", "uint16", own="samples")
    block, rendering = torch.zeros(2, 1, 4, 4), object()
    assert served({"pred": block, "samples": [{}, {}]})["pred"] is block
    assert served({"pred": rendering})["pred"] is rendering
    with pytest.raises(InputError, match="one channel, but the image has 3"):
        served({"pred": torch.zeros(3, 4, 4)})


def test_the_window_is_what_the_ends_of_a_networks_value_range_become():
    served = ServedImaged("pred", "uint8", window=[10, 210], value_range=[0, 1])
    assert served({"pred": torch.tensor([[[0.0, 0.25, 1.0, 1.5]]])})["pred"].ravel().tolist() == [10, 60, 210, 210]


def test_a_bare_picture_is_loaded_as_rows_and_columns_in_grey(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    load = LoadImageStreamd(["image"], CaseOutput(str(tmp_path / "out")))
    for name in ("a.png", "rgb.png"):
        assert np.array_equal(load({"image": str(tmp_path / name)})["image"].numpy(), grey[None])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["two_axes.nii.gz", "one_slice.nii.gz"])
def test_a_bare_slice_is_loaded_as_rows_and_columns_too_and_leaves_nothing_behind(tmp_path, name):
    grey = np.arange(12, dtype=np.int16).reshape(3, 4)
    stored = grey.T if name.startswith("two") else grey.T[..., None]
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-2.0, -3, 1, 1])), tmp_path / name)
    image = LoadImageStreamd(["image"], CaseOutput(str(tmp_path / "out")))({"image": str(tmp_path / name)})["image"]
    assert np.array_equal(image.numpy(), grey[None])
    assert np.allclose(image.affine.numpy() @ [1, 2, 0, 1], [-4, -3, 0, 1]), "row 1, column 2"
    assert not (tmp_path / "out").exists()
