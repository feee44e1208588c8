"""Reading box by box: a box is what the whole file holds there; folders of cases."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, NiftiVolume, Volume, iter_boxes
from hiresmed.io.pictures import read_picture
from hiresmed.io.readers import ItkVolume, case_name, cases, open_volume
from hiresmed.io.stores import ZarrStores
from image_files import OBLIQUE, random_array, save_itk, save_nifti
from PIL import Image


def assert_boxes_equal(volume, whole):
    assert volume.shape == whole.shape
    rng = np.random.default_rng(1)
    for _ in range(25):
        start = [int(rng.integers(0, n)) for n in whole.shape]
        shape = [int(rng.integers(1, n - s + 1)) for s, n in zip(start, whole.shape)]
        box = volume.read(start, shape)
        assert box.dtype == volume.dtype
        np.testing.assert_array_equal(box, whole[tuple(slice(s, s + n) for s, n in zip(start, shape))])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_box_of_a_nifti_is_the_whole_files_box(tmp_path, dtype, kind, order):
    values = random_array(dtype)
    volume = open_volume(save_nifti(tmp_path / "a.nii", values, kind=kind, order=order), tmp_path / "work")
    assert volume.dtype == dtype and volume.name == "a.nii"
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    assert_boxes_equal(volume, values)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_stored_scaling_gives_real_values(tmp_path, order):
    values = random_array(np.int16)
    volume = NiftiVolume(save_nifti(tmp_path / "a.nii", values, slope=(0.5, -1024.0), order=order))
    assert volume.dtype == np.float32
    assert_boxes_equal(volume, values * np.float32(0.5) - 1024)


def test_a_compressed_file_is_unpacked_once_and_again_only_when_it_changes(tmp_path):
    values = random_array()
    source = save_nifti(tmp_path / "a.b.nii.gz", values)
    volume = open_volume(str(source), str(tmp_path / "work"))
    assert_boxes_equal(volume, values)
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    assert volume.name == "a.b.nii.gz" and volume.path.parent == tmp_path / "work"
    stamp = volume.path.stat().st_mtime_ns
    assert open_volume(source, tmp_path / "work").path.stat().st_mtime_ns == stamp
    assert len(list((tmp_path / "work").iterdir())) == 1
    save_nifti(source, values + 1)
    os.utime(source, (1, 1))
    assert_boxes_equal(open_volume(source, tmp_path / "work"), values + 1)


def test_two_cases_of_one_name_do_not_share_a_working_copy(tmp_path):
    for folder, shift in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        save_nifti(tmp_path / folder / "ct.nii.gz", random_array() + shift)
    first, second = (open_volume(tmp_path / f / "ct.nii.gz", tmp_path / "work") for f in "ab")
    assert_boxes_equal(first, random_array())
    assert_boxes_equal(second, random_array() + 1)


@pytest.mark.parametrize(("stored", "seen"), [((9, 8, 1), (9, 8)), ((9, 8, 7, 1, 1), (9, 8, 7)), ((9, 8), (9, 8))])
def test_trailing_axes_of_length_1_are_dropped(tmp_path, stored, seen):
    values = random_array(shape=stored)
    volume = NiftiVolume(save_nifti(tmp_path / "a.nii", values))
    assert_boxes_equal(volume, values.reshape(seen))
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_affines_are_in_mm_whatever_the_files_unit(tmp_path, unit, factor):
    volume = NiftiVolume(save_nifti(tmp_path / "a.nii", random_array(), unit=unit))
    np.testing.assert_allclose(volume.affine[:3], OBLIQUE[:3] * factor, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize(("suffix", "compression"), [("mha", False), ("mha", True), ("mhd", False), ("nrrd", True)])
def test_nrrd_and_metaimage_have_monais_values_and_geometry(tmp_path, suffix, compression, dtype):
    from monai.transforms import LoadImage

    source = save_itk(tmp_path / f"a.{suffix}", random_array(dtype, (40, 9, 7)), compression=compression)
    volume = open_volume(source, tmp_path / "work")
    theirs = LoadImage(reader="ITKReader", image_only=True)(source)
    assert volume.dtype == dtype and volume.name == source.name
    assert_boxes_equal(volume, theirs.numpy().astype(dtype))
    np.testing.assert_allclose(volume.affine, theirs.affine.numpy(), rtol=1e-6, atol=1e-6)


def test_labels_beyond_float_precision_survive(tmp_path):
    values = (2**24 + random_array(np.int32, (5, 6, 7)) * 2 + 1).astype(np.int32)
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 7 6 5\n"
    (tmp_path / "a.mha").write_bytes(
        (header + "ElementType = MET_INT\nElementDataFile = LOCAL\n").encode() + values.tobytes()
    )
    assert_boxes_equal(open_volume(tmp_path / "a.mha", tmp_path), values.T)


def test_a_plain_metaimage_is_converted_in_slabs(tmp_path):
    volume = ItkVolume(save_itk(tmp_path / "a.mha", random_array(shape=(40, 9, 7))))
    assert volume.slab < 40
    assert_boxes_equal(volume, random_array(shape=(40, 9, 7)).T)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_a_2d_file_of_itk_is_rows_and_columns(tmp_path, name):
    rows_and_columns = random_array(shape=(9, 7))
    volume = open_volume(save_itk(tmp_path / name, rows_and_columns, dims=2), tmp_path)
    assert_boxes_equal(volume, rows_and_columns)
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5), rtol=1e-6)


def save_picture(path: Path, values: np.ndarray) -> Path:
    """One picture of (rows, columns) as each format's usual writer stores it."""
    if path.suffix in (".png", ".tiff"):
        Image.fromarray(values).save(path)
    elif path.suffix in (".mha", ".nrrd"):
        import itk

        itk.imwrite(itk.image_from_array(values), str(path))
    elif path.suffix == ".zarr":
        stores = ZarrStores(path.parent, {})
        (level,) = stores.pyramid("result", [values.shape], [1], np.eye(4), "uint16", 1.0, [(8, 8)])
        level.write((0, 0), values)
        (path.parent / "result.ome.zarr").rename(path)
    else:  # as SimpleITK and MONAI write pictures: columns first
        columns_first = values.T if path.name.startswith("two_axes") else values.T[..., None]
        nibabel.save(nibabel.Nifti1Image(columns_first, np.diag([-1.0, -1, 1, 1])), path)
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "a.tiff", "a.mha", "a.nrrd", "a.zarr", "two_axes.nii", "two_axes.nii.gz", "a.nii", "a.nii.gz"]
)
def test_a_picture_is_rows_and_columns_whatever_its_file(tmp_path, name):
    volume = open_volume(save_picture(tmp_path / name, GREY16), tmp_path / "work")
    assert_boxes_equal(volume, GREY16)


def test_a_slice_of_a_nifti_is_turned_as_that_plane_of_its_volume_is_shown(tmp_path):
    """(I, J, 1) of an oblique coronal slice: rows to the feet, columns to the patient's left, at its place in mm."""
    values = random_array(shape=(5, 8, 1))
    affine = np.array([[0.1, 0.8, 0.3, 5.0], [0.0, -0.3, 0.9, 6.0], [1.2, 0.1, 0.1, 7.0], [0, 0, 0, 1]])  # S, R, A
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii", tmp_path)
    assert_boxes_equal(volume, values[::-1, ::-1, 0])
    np.testing.assert_allclose(volume.affine @ [1, 2, 0, 1], affine @ [3, 5, 0, 1], atol=1e-5)


def test_a_nifti_of_one_slice_without_a_direction_is_rows_and_columns_as_stored(tmp_path):
    nibabel.save(nibabel.Nifti1Image(GREY16[..., None], np.diag([0.5, 0.7, 1, 1])), tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii", tmp_path)
    assert_boxes_equal(volume, GREY16)
    np.testing.assert_allclose(volume.spacing, (0.5, 0.7), rtol=1e-6)


GREY8 = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
GREY16 = GREY8.astype(np.uint16) * 257 + 3


@pytest.mark.parametrize(
    ("name", "picture", "wanted"),
    [
        ("l.png", Image.fromarray(GREY8), GREY8),
        ("i16.png", Image.fromarray(GREY16), GREY16),
        ("i16.tif", Image.fromarray(GREY16), GREY16),
        ("f.tiff", Image.fromarray(GREY8 / np.float32(7)), GREY8 / np.float32(7)),
        ("rgb.png", Image.merge("RGB", [Image.fromarray(GREY8)] * 3), GREY8),
        ("rgba.png", Image.merge("RGBA", [Image.fromarray(GREY8)] * 3 + [Image.fromarray(GREY8 // 2)]), GREY8),
        ("la.png", Image.merge("LA", [Image.fromarray(GREY8), Image.fromarray(GREY8 // 2)]), GREY8),
        ("p.png", Image.fromarray(GREY8).convert("P"), GREY8),
        ("cmyk.tif", Image.merge("RGB", [Image.fromarray(GREY8)] * 3).convert("CMYK"), GREY8),
        ("one.png", Image.fromarray(GREY8 > 99), (GREY8 > 99) * np.uint8(255)),
    ],
)
def test_pictures_become_grey_rows_by_columns_and_lose_their_alpha(tmp_path, name, picture, wanted):
    picture.save(tmp_path / name)
    volume = open_volume(tmp_path / name, tmp_path)
    assert volume.dtype == wanted.dtype and volume.spacing == (1, 1)
    assert_boxes_equal(volume, wanted)


def test_big_endian_16_bit_tiff_has_the_same_values(tmp_path):
    Image.frombytes("I;16B", (5, 4), GREY16.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    volume = read_picture(tmp_path / "a.tif")
    assert_boxes_equal(volume, GREY16)
    assert volume.dtype.isnative


def test_colour_is_luma_and_a_jpegs_default_resolution_means_nothing(tmp_path):
    colour = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.jpg", quality=100, dpi=(72, 72))
    volume = open_volume(tmp_path / "a.jpg", tmp_path)
    assert abs(volume.array.mean() - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) < 1.5
    assert volume.spacing == (1, 1)


def test_a_pictures_resolution_gives_the_spacing_of_rows_and_of_columns(tmp_path):
    image = Image.fromarray(GREY8)
    image.save(tmp_path / "a.png", dpi=(254, 127))
    image.save(tmp_path / "b.tif", dpi=(254, 127))
    image.save(tmp_path / "c.tif", x_resolution=100, y_resolution=50, resolution_unit=3)
    for name in ("a.png", "b.tif", "c.tif"):
        np.testing.assert_allclose(read_picture(tmp_path / name).spacing, (0.2, 0.1), rtol=1e-3)
    image.save(tmp_path / "d.tif", x_resolution=100, y_resolution=50, resolution_unit=1)  # a ratio, no length
    assert read_picture(tmp_path / "d.tif").spacing == (1, 1)


def test_pictures_beyond_pillows_bomb_limit_are_read_and_the_limit_stays(tmp_path, monkeypatch):
    Image.fromarray(GREY8).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    assert read_picture(tmp_path / "a.png").shape == (4, 5)
    assert Image.MAX_IMAGE_PIXELS == 3


@pytest.mark.parametrize("shape", [(7,), (7, 5), (7, 5, 9)])
def test_boxes_cover_every_voxel_once_and_none_beyond(shape):
    count = np.zeros(shape, int)
    for start, size in iter_boxes(shape, 3):
        window = tuple(slice(s, s + n) for s, n in zip(start, size))
        assert count[window].shape == size
        count[window] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/a.b.nii.gz", "a.b"), ("a.NII", "a"), ("x/case 1/", "case 1"), ("v1.2", "v1.2"), ("a.zarr", "a")],
)
def test_case_names_lose_only_an_image_suffix(path, name):
    assert case_name(path) == name


def test_a_folder_of_cases_is_sorted_and_named_without_clashes(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.nii"):
        save_nifti(tmp_path / name, random_array())
    for name in ("a.png", "notes.txt", ".hidden.nii", "d.mha", "d.raw"):
        (tmp_path / name).touch()
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "logs").mkdir()
    found = cases(dataset_dir=tmp_path)
    assert [c["name"] for c in found] == ["a_nii", "a_png", "b", "c", "d", "series", "store"]
    assert [Path(c["image"]).name for c in found][-2:] == ["series", "store.zarr"]


def test_loose_dicom_files_are_one_case_a_radiograph_and_one_case_a_series(tmp_path):
    pytest.importorskip("pydicom")
    from hiresmed.io.dicom_series import write_ct_series

    folder = write_ct_series(ArrayVolume(random_array()), tmp_path / "s")
    assert [c["name"] for c in cases(dataset_dir=folder)] == ["IM00001"]
    assert [c["name"] for c in cases(dataset_dir=tmp_path)] == ["s"]


def test_one_case_a_default_or_a_clear_question(tmp_path):
    phantom = ArrayVolume(random_array(), name="phantom")
    path = save_nifti(tmp_path / "a.nii", random_array())
    assert cases(default=phantom) == [{"image": phantom, "name": "phantom"}]
    assert cases(image=path, default=phantom) == [{"image": path, "name": "a"}]
    assert isinstance(open_volume(phantom, tmp_path), Volume)
    with pytest.raises(InputError, match="got neither"):
        cases()
    with pytest.raises(InputError, match="leave one out"):
        cases(image=path, dataset_dir=tmp_path)
    with pytest.raises(InputError, match=r"got the file .*; give it as image"):
        cases(dataset_dir=path)
    path.unlink()
    with pytest.raises(InputError, match="got none in"):
        cases(dataset_dir=tmp_path)


@pytest.mark.realdata
def test_a_real_ct_equals_monais_reader(tmp_path):
    from monai.transforms import LoadImage

    if "HIRESMED_DATA" not in os.environ:
        pytest.skip("HIRESMED_DATA is not set")
    source = Path(os.environ["HIRESMED_DATA"]) / "ct3d" / "totalseg_example_ct_3mm.nii.gz"
    if not source.is_file():
        pytest.skip(f"no {source.name} in HIRESMED_DATA")
    volume = open_volume(source, tmp_path)
    theirs = LoadImage(image_only=True)(source)
    assert_boxes_equal(volume, theirs.numpy().astype(volume.dtype))
    np.testing.assert_allclose(volume.affine, theirs.affine.numpy(), atol=1e-6)


def test_where_images_lie_deeper_the_folder_to_give_is_named(tmp_path):
    """As archives sort: patient / study / series, or subset0 ... subset9."""
    series = tmp_path / "LIDC-IDRI-0001" / "study" / "series"
    series.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), series / "a.nii.gz")
    with pytest.raises(InputError, match=rf"got none in {tmp_path}; give {series}, or link the images"):
        cases(dataset_dir=tmp_path)
    assert [case["name"] for case in cases(dataset_dir=series)] == ["a"]
    (series / "a.nii.gz").unlink()
    with pytest.raises(InputError, match="check the path"):
        cases(dataset_dir=tmp_path)
