"""Wrong images are refused in one sentence that says what was wanted, what came and the cure."""

import gzip

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, NiftiVolume, check_finite
from hiresmed.io.readers import cases, open_volume
from image_files import random_array, save_itk, save_nifti
from PIL import Image

GREY8 = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12


def wrong(name, sentence):
    """Registers a maker of a wrong input `name` and the sentence that must come."""

    def register(make):
        WRONG.append(pytest.param(name, make, sentence, id=make.__name__))
        return make

    return register


WRONG = []


@wrong("a.nii", "got an empty file")
def empty_file(path):
    path.touch()


@wrong("nowhere.nii", "which does not exist")
def missing(path):
    pass


@wrong("a", "got none in it")
def empty_folder(path):
    path.mkdir()


@wrong("a", "folder with b.nii and others.*dataset_dir")
def folder_of_images(path):
    path.mkdir()
    save_nifti(path / "b.nii", random_array())


@wrong("a.nii", "must be a NIfTI image, got a file that nibabel cannot read")
def not_a_nifti(path):
    path.write_bytes(b"lorem ipsum " * 99)


@wrong("a.nii", "must be a NIfTI image")
def nifti_cut_in_the_header(path):
    save_nifti(path, random_array())
    path.write_bytes(path.read_bytes()[:200])


@wrong("a.nii", r"must be 8954 bytes long by its header \(\(17, 23, 11\) int16\), got 8953.*truncated")
def nifti_cut_by_one_byte(path):
    save_nifti(path, random_array())
    path.write_bytes(path.read_bytes()[:-1])


@wrong("a.nii.gz", "whole gzip file, got a truncated or damaged one")
def gzip_cut(path):
    save_nifti(path, random_array())
    path.write_bytes(path.read_bytes()[:-20])


@wrong("a.nii.gz", "whole gzip file, got a truncated or damaged one")
def gzip_with_a_wrong_checksum(path):
    save_nifti(path, random_array())
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 255
    path.write_bytes(raw)


@wrong("a.nii.gz", "bytes long by its header.*truncated")
def gzip_of_a_cut_nifti(path):
    save_nifti(path.with_suffix(""), random_array())
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()[:-99]))


@wrong("a.nii.gz", "must be a NIfTI image")
def nii_gz_that_is_no_gzip(path):
    path.write_bytes(b"lorem ipsum " * 99)


@wrong("a.nii", r"one 2-D or 3-D image of one channel, got shape \(5, 6, 7, 2\)")
def four_axes(path):
    save_nifti(path, random_array(shape=(5, 6, 7, 2)))


@wrong("a.nii.gz", r"one 2-D or 3-D image of one channel, got shape \(5, 6, 7, 1, 3\)")
def nifti_vectors(path):
    save_nifti(path, random_array(shape=(5, 6, 7, 1, 3)))


@wrong("a.nii", "more than one channel")
def nifti_rgb(path):
    save_nifti(path, np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


@wrong("a.nii", "more than one channel or an unusual type")
def nifti_complex(path):
    save_nifti(path, np.zeros((5, 6, 7), np.complex64))


@wrong("a.nii", r"voxels along every axis, got shape \(5, 0, 7\)")
def zero_axis(path):
    save_nifti(path, np.zeros((5, 0, 7), np.int16))


def spoil_sform(path, row):
    save_nifti(path, random_array())
    raw = bytearray(path.read_bytes())
    raw[280:296] = np.array(row, "<f4").tobytes()  # srow_x
    path.write_bytes(raw)


@wrong("a.nii", "invertible .* affine of finite values")
def singular_affine(path):
    spoil_sform(path, [0, 0, 0, 0])


@wrong("a.nii", "invertible .* affine of finite values")
def infinite_affine(path):
    spoil_sform(path, [np.inf, 0, 0, 0])


@wrong("a.mha", r"one channel, got 3 per voxel \(shape \(3, 7, 6, 5\)\)")
def metaimage_vectors(path):
    save_itk(path, random_array(np.uint8, (5, 6, 7, 3)), vector=True)


@wrong("a.mha", r"got shape \(7, 6, 5, 4\)")
def metaimage_of_four_axes(path):
    save_itk(path, random_array(np.uint8, (4, 5, 6, 7)), dims=4)


@wrong("a.nrrd", "must be a NRRD or MetaImage file")
def not_a_nrrd(path):
    path.write_bytes(b"lorem ipsum " * 99)


@wrong("a.mha", "that ITK can read")
def metaimage_cut(path):
    save_itk(path, random_array(shape=(40, 30, 20)))
    path.write_bytes(path.read_bytes()[:20000])


@wrong("a.nrrd", "that ITK can read")
def nrrd_cut(path):
    save_itk(path, random_array(shape=(40, 30, 20)))
    path.write_bytes(path.read_bytes()[:20000])


@wrong("a.png", "cannot be read.*truncated or of another kind")
def png_cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


@wrong("a.jpg", "cannot be read.*truncated or of another kind")
def not_a_jpeg(path):
    path.write_bytes(b"lorem ipsum " * 99)


@wrong("a.tif", "got 2 pages")
def two_pages(path):
    Image.fromarray(GREY8).save(path, save_all=True, append_images=[Image.fromarray(GREY8)])


@wrong("a.docx", "must be an image .*none of these")
def not_an_image(path):
    path.write_bytes(b"lorem ipsum " * 99)


@wrong("a.zarr", "OME-Zarr")
def zarr_without_an_image(path):
    path.mkdir()


@pytest.mark.parametrize(("name", "make", "sentence"), WRONG)
def test_a_wrong_input_is_refused_in_one_sentence_and_leaves_no_copy(tmp_path, name, make, sentence):
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as caught:
        open_volume(tmp_path / name, tmp_path / "work")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert [p for p in (tmp_path / "work").glob("*") if not p.name.endswith(".nii") or ".nii." in p.name] == []


def test_an_empty_path_is_not_the_current_folder(tmp_path):
    for call in (lambda: open_volume("", tmp_path), lambda: cases(image=""), lambda: cases(dataset_dir=" ")):
        with pytest.raises(InputError, match="got nothing"):
            call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found_where_they_are_read(tmp_path, value):
    values = random_array(np.float32)
    values[10, 3, 8] = value
    volume = NiftiVolume(save_nifti(tmp_path / "a.nii", values))
    volume.read((11, 0, 0), (6, 23, 11))
    for mistake in (lambda: volume.read((9, 2, 7), (3, 3, 3)), lambda: check_finite(volume, 4)):
        with pytest.raises(InputError, match=r"NaN or infinity, e\.g\. at voxel \(10, 3, 8\)"):
            mistake()
    with pytest.raises(InputError, match=r"\(10, 3, 8\)"):
        check_finite(ArrayVolume(values), 5)
    check_finite(ArrayVolume(random_array(np.float32)), 5)


def test_a_working_folder_that_cannot_be_written_is_named(tmp_path):
    source = save_nifti(tmp_path / "a.nii.gz", random_array())
    (tmp_path / "work").write_text("a file")
    with pytest.raises(InputError, match=r"work must be free for what this run writes"):
        open_volume(source, tmp_path / "work")
