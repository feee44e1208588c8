"""What the header of a NIfTI says, and where its voxels lie: read as the standard says, or refused in one sentence."""

from __future__ import annotations

import gzip
import struct
import warnings

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.io import CaseOutput, LoadImageStreamd
from hiresmed.io.readers import cases, files_of, open_volume
from image_files import random_array

AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.8, 0, 50], [0, 0, 2.5, -30], [0, 0, 0, 1]])
VALUES = random_array(shape=(8, 9, 10))
# places of a NIfTI-1 header
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, UNITS, QFORM, QUATERN, SROW, MAGIC = (
    40,
    70,
    76,
    108,
    112,
    123,
    252,
    256,
    280,
    344,
)


def save(path, kind=nibabel.Nifti1Image, patches=(), values=VALUES):
    image = kind(values, AFFINE)
    if hasattr(image, "set_qform"):
        image.set_qform(AFFINE, 1)
        image.set_sform(AFFINE, 1)
        image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    header = path.with_suffix(".hdr") if path.suffix == ".img" else path
    raw = bytearray(header.read_bytes())
    for place, content in patches:
        raw[place : place + len(content)] = content
    header.write_bytes(raw)
    return path


def everything(volume):
    return volume.read([0] * len(volume.shape), volume.shape)


def assert_refused(path, sentence, work):
    with pytest.raises(InputError, match=sentence) as caught:
        open_volume(path, work)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


# ---- units


@pytest.mark.parametrize(
    ("code", "factor"),
    [
        (0, 1),
        (1, 1e3),
        (2, 1),
        (3, 1e-3),
        (2 + 8, 1),
        (1 + 16, 1e3),
        (3 + 24, 1e-3),
        (2 + 32, 1),
        (2 + 56, 1),
        (2 + 64, 1),
    ],
)
def test_lengths_are_mm_whatever_their_unit_and_that_of_time(tmp_path, code, factor):
    """0 is unknown, which most programs write and mean mm; the unit of time, in the upper bits, may be any."""
    volume = open_volume(save(tmp_path / "a.nii", patches=[(UNITS, bytes([code]))]), tmp_path)
    np.testing.assert_allclose(volume.affine[:3], AFFINE[:3] * factor, rtol=1e-6)


@pytest.mark.parametrize("code", [4, 5, 6, 7, 7 + 8, 255])
def test_a_unit_that_the_standard_does_not_know_is_refused(tmp_path, code):
    path = save(tmp_path / "a.nii", patches=[(UNITS, bytes([code]))])
    assert_refused(path, rf"unit of length as meter, mm, micron or unknown .*, got {code & 7}; ", tmp_path)


# ---- pairs of a header and its voxels


@pytest.mark.parametrize("given", ["a.hdr", "a.img"])
def test_a_pair_is_one_image_by_whichever_half_it_is_named(tmp_path, given):
    save(tmp_path / "a.img", nibabel.Nifti1Pair)
    volume = open_volume(tmp_path / given, tmp_path)
    np.testing.assert_array_equal(everything(volume), VALUES)
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
    assert cases(image=tmp_path / given) == [{"image": tmp_path / "a.hdr", "name": "a"}]
    assert files_of(tmp_path / "a.hdr") == [tmp_path / "a.hdr", tmp_path / "a.img"]


def test_the_result_of_a_pair_has_its_codes_in_one_file(tmp_path):
    save(tmp_path / "a.img", nibabel.Nifti1Pair, [(QFORM, struct.pack("<2h", 2, 4))])
    output = CaseOutput(str(tmp_path / "out"))
    (case,) = output.cases(image=tmp_path / "a.img")
    written = nibabel.load(output.save(case, output.open(case["image"], "a"), True))
    assert written.get_filename().endswith("a_synthetic.nii.gz")
    assert [int(written.header[f"{form}_code"]) for form in ("qform", "sform")] == [2, 4]


def test_pairs_and_what_is_half_a_pair_are_named_in_a_folder(tmp_path, caplog):
    save(tmp_path / "a.img", nibabel.Nifti1Pair)
    save(tmp_path / "b.img", nibabel.AnalyzeImage)
    save(tmp_path / "c.img", nibabel.Nifti1Pair)
    (tmp_path / "c.hdr").unlink()
    save(tmp_path / "d.img", nibabel.Nifti1Pair)
    (tmp_path / "d.img").unlink()
    (tmp_path / "e.raw").write_bytes(b"voxels of nobody")
    assert [case["image"].name for case in cases(dataset_dir=tmp_path)] == ["a.hdr", "b.hdr", "d.hdr"]
    assert "Left out, as they are no images: c.img, e.raw." in caplog.text


PAIRS = {
    "Analyze 7.5": ("a.hdr", nibabel.AnalyzeImage, "got Analyze 7.5, which does not say what is left and right"),
    "Analyze 7.5, by its voxels": ("a.img", nibabel.AnalyzeImage, "got Analyze 7.5"),
    "Analyze 7.5 as SPM wrote it": ("a.hdr", nibabel.Spm99AnalyzeImage, "got Analyze 7.5"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_an_analyze_file_does_not_say_which_side_is_left(tmp_path, kind):
    name, form, sentence = PAIRS[kind]
    save(tmp_path / "a.img", form)
    assert_refused(tmp_path / name, sentence, tmp_path)


@pytest.mark.parametrize(("lost", "given", "sentence"), [
    ("a.img", "a.hdr", r"a\.hdr must have its voxels in a\.img beside it, got no such file"),
    ("a.hdr", "a.img", r"a\.img must have its header in a\.hdr beside it, got no such file"),
])  # fmt: skip
def test_half_a_pair_is_refused(tmp_path, lost, given, sentence):
    save(tmp_path / "a.img", nibabel.Nifti1Pair)
    (tmp_path / lost).unlink()
    assert_refused(tmp_path / given, sentence, tmp_path)


def test_voxels_that_were_cut_off_are_refused(tmp_path):
    save(tmp_path / "a.img", nibabel.Nifti1Pair)
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
    assert_refused(tmp_path / "a.hdr", "must be 1440 bytes long by its header .* got 1439", tmp_path)


def test_a_servers_request_is_checked_as_a_run_is(tmp_path):
    load = LoadImageStreamd("image", CaseOutput(str(tmp_path / "out")))
    save(tmp_path / "a.img", nibabel.AnalyzeImage)
    save(tmp_path / "b.nii", patches=[(UNITS, bytes([5]))])
    for name, sentence in (("a.hdr", "got Analyze 7.5"), ("b.nii", "unit of length")):
        with pytest.raises(InputError, match=sentence):
            load({"image": str(tmp_path / name)})


# ---- headers


def floats(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def shorts(*numbers):
    return struct.pack(f"<{len(numbers)}h", *numbers)


NAN = float("nan")
ODD = {
    "an sform that is no number": ([(SROW, floats(NAN))], "got sform that is none"),
    "an sform of zeros": ([(SROW, floats(*[0] * 12))], "got sform that is none"),
    "an endless sform alone": ([(QFORM, shorts(0)), (SROW, floats(float("inf")))], "affine of finite values"),
    "a quaternion of no length 1": ([(QUATERN, floats(3, 4, 5))], "got qform that is none"),
    "a quaternion that is no number": ([(QUATERN, floats(NAN))], "got qform that is none"),
    "an offset in the header": ([(VOX_OFFSET, floats(8))], "a.nii must"),
    "an offset below 0": ([(VOX_OFFSET, floats(-352))], "a.nii must"),
    "an offset that is no number": ([(VOX_OFFSET, floats(NAN))], "a.nii must"),
    "an offset beyond the file": ([(VOX_OFFSET, floats(1e30))], "a.nii must"),
    "more voxels than bytes": ([(DIM, shorts(3, 8, 9, 30000))], "must be 4320352 bytes long by its header"),
    "no voxels": ([(DIM, shorts(3, 8, 0, 10))], "voxels along every axis"),
    "a negative size": ([(DIM, shorts(3, 8, -9, 10))], "a.nii must"),
    "eight axes": ([(DIM, shorts(8))], "a.nii must"),
    "no axes": ([(DIM, shorts(0))], "a.nii must"),
    "an unknown type": ([(DATATYPE, shorts(77))], "must be a NIfTI image"),
    "bits": ([(DATATYPE, shorts(1))], "must be a NIfTI image"),
    "an endless slope": ([(SLOPE, floats(float("inf")))], "a finite scl_slope, got inf"),
    "a slope without an intercept": ([(SLOPE, floats(1, NAN))], "a.nii must"),
    "no magic": ([(MAGIC, b"lore")], "must be a NIfTI image"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_header_is_refused_in_one_sentence(tmp_path, kind, packed):
    patches, sentence = ODD[kind]
    path = save(tmp_path / "a.nii", patches=patches)
    if packed:
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.nii.gz"
        sentence = sentence.replace("a.nii must", "a.nii.gz must")
        if kind == "more voxels than bytes":
            sentence = "4320352"
    assert_refused(path, sentence, tmp_path / "work")


@pytest.mark.parametrize(("slope", "intercept", "wanted"), [
    (2.0, -1024.0, VALUES * 2.0 - 1024), (0.0, 5.0, VALUES), (NAN, 0.0, VALUES),
])  # fmt: skip
def test_a_scaling_holds_and_a_slope_of_0_is_none(tmp_path, slope, intercept, wanted):
    path = save(tmp_path / "a.nii", patches=[(SLOPE, floats(slope, intercept))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(everything(open_volume(path, tmp_path)), wanted)
