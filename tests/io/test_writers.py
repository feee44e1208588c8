"""Writing box by box: what is written comes back with its geometry, in constant memory, and never half."""

import gzip
import sys
import textwrap

import nibabel
import numpy as np
import programs
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, NiftiVolume, Volume
from hiresmed.io.writers import check_output, final_name, save_volume, write_image_2d, write_nifti
from PIL import Image

OBLIQUE = np.array([[0.7, -0.2, 0.1, 12.5], [0.25, 0.9, -0.3, -7.0], [0.05, 0.2, 2.5, 101.25], [0, 0, 0, 1]])


def random_volume(dtype=np.int16, shape=(17, 23, 11), affine=OBLIQUE):
    values = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    return ArrayVolume(values, affine, "random")


class Broken(ArrayVolume):
    """Fails at the last box."""

    def read(self, start, shape):
        if tuple(np.add(start, shape)) == self.shape:
            raise RuntimeError("the tile could not be made")
        return super().read(start, shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_values_dtype_and_oblique_sheared_affine_come_back_whatever_the_box(tmp_path, dtype, suffix):
    volume = random_volume(dtype)
    path = write_nifti(volume, tmp_path / f"out.{suffix}", box=7)
    image = nibabel.load(path)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
    np.testing.assert_allclose(image.affine, OBLIQUE, rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_qform_and_sform_agree_for_a_rotated_affine(tmp_path):
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3] = np.c_[rotation * [0.5, 0.7, -3.0], [1, 2, 3]]
    header = nibabel.load(write_nifti(random_volume(affine=affine), tmp_path / "out.nii")).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-6)


def test_the_reference_header_gives_its_space_code_but_not_its_free_text(tmp_path):
    reference = nibabel.Nifti1Header()
    reference["descrip"] = b"DOE^JANE"
    reference["sform_code"] = 4
    path = write_nifti(random_volume(), tmp_path / "out.nii", reference)
    header = nibabel.load(path).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 4
    assert b"DOE" not in path.read_bytes()


def test_equal_volumes_give_equal_compressed_bytes_without_name_or_time(tmp_path):
    first = write_nifti(random_volume(), tmp_path / "a.nii.gz").read_bytes()
    second = write_nifti(random_volume(), tmp_path / "b.nii.gz", box=5).read_bytes()
    assert first == second
    assert first[3] == 0 and first[4:8] == b"\0\0\0\0"  # gzip: no flags (no file name), no time
    assert gzip.decompress(first)[344:348] == b"n+1\0"


def test_an_axis_beyond_32767_voxels_becomes_nifti2(tmp_path):
    volume = ArrayVolume(np.arange(40000, dtype=np.int32).reshape(40000, 1), name="long")
    image = nibabel.load(write_nifti(volume, tmp_path / "out.nii"))
    assert isinstance(image, nibabel.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)


def test_real_values_for_an_integer_file_are_rounded_and_limited_not_wrapped(tmp_path):
    volume = ArrayVolume(np.array([[-4e4, -1.6], [1.6, 4e4]], np.float32), name="hu")
    volume.dtype = np.dtype(np.int16)
    written = np.asarray(nibabel.load(write_nifti(volume, tmp_path / "out.nii")).dataobj)
    np.testing.assert_array_equal(written, [[-32768, -2], [2, 32767]])


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_writer_that_fails_leaves_an_earlier_result_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    path.write_bytes(b"earlier")
    broken = Broken(np.zeros((9, 9, 9), np.int16))
    with pytest.raises(RuntimeError):
        write_nifti(broken, path, box=4)
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_killed_writer_leaves_no_final_name(tmp_path, suffix):
    program = f"""
        import os, signal, numpy as np
        from hiresmed.core.volumes import ArrayVolume
        from hiresmed.io.writers import write_nifti
        class Killed(ArrayVolume):
            def read(self, start, shape):
                if start != (0, 0, 0):
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().read(start, shape)
        write_nifti(Killed(np.ones((8, 8, 8), np.int16)), {str(tmp_path / f"out.{suffix}")!r}, box=4)
    """
    assert programs.run(["-c", textwrap.dedent(program)]).returncode == -9
    assert not (tmp_path / f"out.{suffix}").exists()
    write_nifti(ArrayVolume(np.full((8, 8, 8), 3, np.int16)), tmp_path / f"out.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"out.{suffix}"]
    assert (np.asarray(nibabel.load(tmp_path / f"out.{suffix}").dataobj) == 3).all()


class Ramp(Volume):
    """A large volume that is computed, not held: value = sum of the indices modulo 1000."""

    def __init__(self, shape):
        self.shape, self.affine, self.dtype, self.name = shape, np.eye(4), np.dtype(np.int16), "ramp"

    def read(self, start, shape):
        axes = np.ogrid[tuple(slice(s, s + n) for s, n in zip(start, shape))]
        return (sum(axes) % 1000).astype(np.int16)


def peak_growth_mb(tmp_path, action):
    """How much a fresh process grows at most, above what it had after its imports.

    VmHWM, as ru_maxrss would start from what the parent process holds.
    """
    program = f"""
        from test_writers import Ramp
        from hiresmed.core.volumes import NiftiVolume, check_finite
        from hiresmed.io.writers import write_nifti
        path = {str(tmp_path / "big.nii")!r}
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        write_nifti(Ramp((8, 8, 8)), path + ".small.nii")
        before = peak()
        {action}
        print((peak() - before) / 1024)
    """
    folder = __file__.rsplit("/", 1)[0]
    done = programs.run(["-c", textwrap.dedent(program)], cwd=folder)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_writing_and_reading_100_mb_grows_the_process_by_less_than_40_mb(tmp_path):
    shape = (400, 400, 312)
    action = f"write_nifti(Ramp({shape}), path, box=64); check_finite(NiftiVolume(path), 128)"
    assert peak_growth_mb(tmp_path, action) < 40
    assert (tmp_path / "big.nii").stat().st_size == 352 + 2 * np.prod(shape)
    box = NiftiVolume(tmp_path / "big.nii").read((390, 3, 77), (10, 20, 30))
    np.testing.assert_array_equal(box, Ramp(shape).read((390, 3, 77), (10, 20, 30)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_pictures_keep_rows_columns_values_and_both_spacings(tmp_path, dtype, suffix):
    from hiresmed.io.pictures import read_picture

    affine = np.array([[0, -0.2, 0, 0], [-0.143, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    values = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (5, 9)).astype(dtype)
    path = write_image_2d(ArrayVolume(values, affine), tmp_path / f"x.{suffix}")
    back = read_picture(path)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.read((0, 0), back.shape), values)
    np.testing.assert_allclose(back.spacing, (0.143, 0.2), rtol=2e-4)
    with Image.open(path) as picture:
        assert picture.size == (9, 5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_tiff_keeps_negative_and_real_values_and_png_warns_about_them(tmp_path):
    hounsfield = ArrayVolume(np.array([[-1000, 40], [3000, 0]], np.int16))
    np.testing.assert_array_equal(Image.open(write_image_2d(hounsfield, tmp_path / "x.tiff")), hounsfield.array)
    real = ArrayVolume(np.array([[-0.5, 1e6]], np.float32))
    np.testing.assert_array_equal(Image.open(write_image_2d(real, tmp_path / "y.tif")), real.array)
    with pytest.warns(UserWarning, match="25"):
        path = write_image_2d(hounsfield, tmp_path / "x.png")
    np.testing.assert_array_equal(Image.open(path), [[0, 40], [3000, 0]])


@pytest.mark.parametrize("name", ["x.png", "x.bmp"])
def test_a_picture_of_a_volume_or_of_an_unknown_kind_is_refused(tmp_path, name):
    volume = random_volume() if name == "x.png" else ArrayVolume(np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"write nii|change it"):
        write_image_2d(volume, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_save_volume_writes_the_name_that_final_name_announces(tmp_path):
    for output_format, volume in [
        ("nii", random_volume()),
        ("nii.gz", random_volume()),
        ("png", random_volume(np.uint8, (4, 5))),
        ("tiff", random_volume(np.uint8, (4, 5))),
    ]:
        made = save_volume(volume, tmp_path / "new" / "case.1", output_format)
        assert made == [tmp_path / "new" / final_name("case.1", output_format)]
        assert made[0].is_file()
    with pytest.raises(InputError, match=r"output_format must be one of nii, nii\.gz, dicom, dcm, png, tiff"):
        save_volume(random_volume(), tmp_path / "case", "mp4")


def test_check_output_creates_refuses_and_allows(tmp_path):
    folder = check_output(tmp_path / "a" / "b", 10, final_names=["x.nii"])
    assert folder.is_dir() and not list(folder.iterdir())
    (folder / "x.nii").touch()
    with pytest.raises(InputError, match=r"x\.nii.*overwrite.*resume"):
        check_output(folder, 10, final_names=["y.nii", "x.nii"])
    check_output(folder, 10, overwrite=True, final_names=["x.nii"])
    check_output(folder, 10, resume=True, final_names=["x.nii"])
    with pytest.raises(InputError, match=r"must have \d.* [kMGT]?B free for this result"):
        check_output(folder, 10**18)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="written to"):
        check_output(tmp_path / "file", 0)


def test_a_disk_too_small_is_said_before_a_byte_is_written(tmp_path):
    with pytest.raises(InputError, match=r"must have \d.* [kMGT]?B free for this result"):
        write_nifti(Ramp((2**20, 2**20, 2**10)), tmp_path / "x.nii")
    assert not list(tmp_path.iterdir())
