"""Images for generators from noise: brought to one grid by the means of areas, shown equally often, the same again."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.datasets import ReadImage, image_cases
from PIL import Image


def picture(path: Path, values: np.ndarray, **how) -> Path:
    Image.fromarray(values).save(path, **how)
    return path


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_a_photograph_is_brought_to_the_size_by_the_means_of_areas(tmp_path):
    values = noise(16, 24, 3)
    case = {"image": picture(tmp_path / "p.png", values), "name": "p"}
    image = ReadImage((4, 8), 3, "full")(case)["image"]
    means = values.reshape(4, 4, 8, 3, 3).mean((1, 3)) / 127.5 - 1
    torch.testing.assert_close(image, torch.from_numpy(means).movedim(-1, 0).float(), rtol=0, atol=1e-5)


def test_crop_takes_the_middle_of_the_sizes_proportions(tmp_path):
    values = noise(10, 24)
    case = {"image": picture(tmp_path / "p.png", values), "name": "p"}
    image = ReadImage((5, 5), 1, "full", "crop")(case)["image"][0]
    means = values[:, 7:17].reshape(5, 2, 5, 2).mean((1, 3)) / 127.5 - 1
    np.testing.assert_allclose(image, means, atol=1e-5)


def test_small_images_are_interpolated_and_one_long_axis_still_averaged(tmp_path):
    values = np.repeat(np.arange(0, 240, 40, dtype=np.uint8)[:, None], 8, 1)
    image = ReadImage((12, 4), 1, [0, 240])({"image": picture(tmp_path / "p.png", values), "name": "p"})["image"][0]
    assert image.shape == (12, 4) and torch.equal(image[:, :1].expand(-1, 4), image)
    assert (image.diff(dim=0) >= 0).all() and abs(float(image.mean()) - (100 / 120 - 1)) < 1e-5


def test_palettes_cmyk_transparency_and_turned_pictures_become_colours(tmp_path):
    values = noise(6, 8, 3) // 64 * 64
    plain = picture(tmp_path / "plain.png", values)
    palette, clear, turned = (tmp_path / n for n in ("palette.png", "clear.png", "turned.png"))
    picture(clear, np.concatenate([values, noise(6, 8, 1)], -1))
    Image.fromarray(values).quantize(256).save(palette)
    exif = Image.Exif()
    exif[274] = 6  # to be turned right by a quarter
    Image.fromarray(np.ascontiguousarray(np.rot90(values))).save(turned, exif=exif)
    read = ReadImage((6, 8), 3, "full")
    wanted = read({"image": plain, "name": "p"})["image"]
    for path in (palette, clear, turned):
        torch.testing.assert_close(read({"image": path, "name": "p"})["image"], wanted, msg=path.name)
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("RGB", (8, 6), (200, 30, 30)).convert("CMYK").save(cmyk)
    red = read({"image": cmyk, "name": "p"})["image"].mean((1, 2))
    assert red[0] > 0.4 and red[1] < -0.6


def test_a_volume_gives_its_axial_slices_with_one_window_for_all(tmp_path):
    volume = np.random.default_rng(0).normal(size=(8, 6, 10)).astype(np.float32)
    volume += np.arange(10)  # brighter from slice to slice
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
    cases = image_cases(str(tmp_path), None, (6, 8), slices=(0.2, 0.8), slice_step=2)
    assert [case["slice"] for case in cases] == [2, 4, 6] and cases[0]["name"] == "v_002"
    images = [ReadImage((6, 8), 1, "robust")(case)["image"] for case in cases]
    assert images[0].shape == (1, 6, 8) and images[0].mean() < images[1].mean() < images[2].mean()
    a, b = cases[0]["window"]
    # anterior up, the patient's right at the left: the array's (i, j) turned
    plane = np.flip(volume[:, :, 2].T, (0, 1))
    np.testing.assert_allclose(images[0][0], (np.clip(plane, a, b) - a) * 2 / (b - a) - 1, atol=1e-5)
    whole = image_cases(str(tmp_path), None, (8, 6, 10))
    assert len(whole) == 1 and ReadImage((8, 6, 10))(whole[0])["image"].shape == (1, 8, 6, 10)


def test_without_a_folder_there_are_phantom_slices_in_both_sections():
    names = {
        section: {case["name"].rsplit("_", 1)[0] for case in image_cases(None, section, (16, 16), phantoms=3)}
        for section in ("training", "validation")
    }
    assert names == {"training": {"phantom_0", "phantom_1"}, "validation": {"phantom_2"}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": 2}, "image_channels must be 1"),
        ({"channels": 3, "image": "v.nii"}, "must be a PNG, JPEG or TIFF as image_channels is 3"),
        ({"intensity": "bright"}, "intensity must be robust, full, or two"),
        ({"fit": "squeeze"}, "fit must be resize or crop"),
        ({"image": "text.png"}, "must be a PNG, JPEG or TIFF"),
        ({"image": "text.png", "channels": 3}, "must be a PNG, JPEG or TIFF"),
    ],
)
def test_what_cannot_be_read_or_asked_for_is_refused(arguments, words, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    arguments = {"intensity": "full", **arguments}
    path = tmp_path / arguments.pop("image", "none.png")
    with pytest.raises(InputError, match=words):
        ReadImage((8, 8), **arguments)({"image": path, "name": "case"})


@pytest.mark.parametrize("slices", [[0.8, 0.2], [0.5], "all", [-1, 0.5]])
def test_slices_that_are_no_rising_shares_are_refused(slices):
    with pytest.raises(InputError, match="slices must be two rising shares"):
        image_cases(None, "training", (16, 16), slices=slices)
