"""Which way up a file's image is, and where it lies: as the file says, and where it says two things, refused."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.io import open_volume, save_volume
from hiresmed.io.pictures import picture_shape
from PIL import Image, ImageOps

AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
PIXDIM, VOX_OFFSET = 76, 108  # bytes of a NIfTI-1 header


def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (8, 9, 7)).astype(np.int16)


def nifti(path: Path, sform=(AFFINE, 1), qform=(AFFINE, 1), patch: tuple[int, bytes] | None = None) -> Path:
    image = nibabel.Nifti1Image(values(), AFFINE)
    image.set_sform(*sform)
    image.set_qform(*qform)
    nibabel.save(image, path)
    if patch:
        raw = bytearray(path.read_bytes())
        raw[patch[0] : patch[0] + len(patch[1])] = patch[1]
        path.write_bytes(raw)
    return path


def moved(*shift: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    return affine


MIRRORED = np.diag([0.7, -0.8, 2.5, 1.0])
REFUSED = {
    "sform and qform of another orientation": (
        {"qform": (MIRRORED, 1)},
        "must have one geometry, got an sform that says LPS .* and a qform that says RPS",
    ),
    "sform and qform of other voxel sizes": ({"qform": (np.diag([-1.0, -1, 1, 1]), 1)}, "must have one geometry"),
    "no voxel size and no sform": (
        {"sform": (None, 0), "qform": (None, 0), "patch": (PIXDIM, struct.pack("<4f", 1, 0, 0, 0))},
        r"must give a voxel size for each axis, got \[0.0, 0.0, 0.0\]",
    ),
    "no slice thickness beside a qform": (
        {"sform": (None, 0), "patch": (PIXDIM, struct.pack("<4f", 1, 0.7, 0.8, 0))},
        "must give a voxel size for each axis",
    ),
    "voxels that begin in the header": ({"patch": (VOX_OFFSET, struct.pack("<f", 0))}, "got vox_offset 0"),
}


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_nifti_that_does_not_say_where_it_lies_is_refused(tmp_path, kind, suffix):
    options, sentence = REFUSED[kind]
    path = nifti(tmp_path / "case.nii", **options)
    if suffix == "nii.gz":
        import gzip

        (tmp_path / "case.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        open_volume(tmp_path / f"case.{suffix}", tmp_path / "work")


def test_a_registered_image_lies_where_its_sform_says_and_that_is_told(tmp_path):
    path = nifti(tmp_path / "case.nii", sform=(moved(30, 0, 0), 4))
    with pytest.warns(UserWarning, match="placed by its sform; its qform would place it up to 30 mm away"):
        volume = open_volume(path, tmp_path)
    assert np.allclose(volume.affine, moved(30, 0, 0))


def test_agreeing_forms_and_one_form_alone_are_read_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"sform": (None, 0)}, {"qform": (None, 0)}):
            assert np.allclose(open_volume(nifti(tmp_path / "case.nii", **options), tmp_path).affine, AFFINE)


def test_an_image_without_orientation_says_so_and_gets_none_from_us(tmp_path):
    path = nifti(tmp_path / "case.nii", sform=(None, 0), qform=(None, 0))
    with pytest.warns(UserWarning, match="does not say how it is oriented .* may exchange left and right"):
        volume = open_volume(path, tmp_path)
    (made,) = save_volume(volume, tmp_path / "made", "nii", nibabel.load(path).header)
    header = nibabel.load(made).header
    assert int(header["sform_code"]) == 2, "aligned with another file, not measured by a scanner"
    assert np.allclose(nibabel.load(made).affine, volume.affine)


# ---- pictures


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_a_viewer_shows_it(tmp_path, orientation, suffix):
    smooth = np.add.outer(np.arange(40) * 3, np.arange(56) * 2).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"phone.{suffix}"
    Image.fromarray(smooth).save(path, exif=exif, quality=98, dpi=(50.8, 25.4))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    volume = open_volume(path, tmp_path)
    assert np.array_equal(volume.read((0, 0), volume.shape), shown)
    assert picture_shape(path) == shown.shape == volume.shape
    if suffix == "png":
        rows, columns = (1.0, 0.5) if orientation < 5 else (0.5, 1.0)
        assert volume.spacing == pytest.approx((rows, columns), rel=1e-3)


def test_a_picture_of_16_bits_is_turned_too(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (30, 20)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    volume = open_volume(tmp_path / "deep.png", tmp_path)
    assert np.array_equal(volume.read((0, 0), volume.shape), np.rot90(deep, -1))
