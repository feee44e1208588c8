"""Laws: however a volume is stored, the same patient looks the same; the whole volume is never read."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.reports.preview import LABEL_COLOURS, MARGIN, WIDTH, Panel, ruler_length, write_preview
from hiresmed.reports.preview_planes import Source, plane_views, read_plane
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff
from PIL import Image


class Volume:
    def __init__(self, array, affine=None):
        self.array, self.shape = array, array.shape
        self.affine = np.eye(4) if affine is None else np.asarray(affine, float)
        self.spacing = tuple(np.linalg.norm(self.affine[:3, : array.ndim], axis=0))

    def read(self, start, shape):
        return self.array[tuple(slice(s, s + n) for s, n in zip(start, shape))]


def plane(volume, name):
    return read_plane(plane_views(Source(volume))[name], 10**6, 10**6)


def ras_ramp():
    """Values that tell where they lie: 10000 right-to-left index, 100 posterior-to-anterior, 1 feet-to-head."""
    r, a, s = np.meshgrid(np.arange(9), np.arange(11), np.arange(13), indexing="ij")
    return Volume((10000 * r + 100 * a + s).astype(np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))


def stored_as(volume, codes):
    """The same patient with its array axes permuted and flipped."""
    ornt = axcodes2ornt(codes)
    swap = np.zeros((3, 2))
    for target, (world, sign) in enumerate(ornt):
        swap[int(world)] = target, sign
    return Volume(apply_orientation(volume.array, swap), volume.affine @ inv_ornt_aff(swap, volume.shape))


def test_the_patients_right_is_left_and_anterior_and_head_are_up():
    axial, coronal, sagittal = (plane(ras_ramp(), name) for name in ("axial", "coronal", "sagittal"))
    # the top left pixel: right (8), anterior (10), head (12), in the middle of the axis across
    assert axial[0, 0] == 81006 and axial[-1, -1] == 6
    assert coronal[0, 0] == 80512 and coronal[-1, -1] == 500
    assert sagittal[0, 0] == 41012 and sagittal[-1, -1] == 40000
    assert axial.shape == (11, 9) and coronal.shape == (13, 9) and sagittal.shape == (13, 11)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "SPR", "AIL", "PSR"])
def test_however_it_is_stored_the_patient_looks_the_same(codes):
    stored = stored_as(ras_ramp(), codes)
    assert "".join(nibabel.aff2axcodes(stored.affine)) == codes
    for name in ("axial", "coronal", "sagittal"):
        np.testing.assert_array_equal(plane(stored, name), plane(ras_ramp(), name))


def test_planes_have_the_proportions_of_the_patient():
    views = plane_views(Source(stored_as(ras_ramp(), "SPR")))
    assert views["axial"].size_mm == (9, 22) and views["coronal"].size_mm == (9, 39)
    assert views["sagittal"].size_mm == (22, 39)


def test_a_ball_in_voxels_of_1_1_5_mm_is_drawn_round(tmp_path):
    x = np.stack(np.meshgrid(np.arange(100), np.arange(100), np.arange(0, 100, 5), indexing="ij"))
    ball = (((x - 50) ** 2).sum(0) < 35**2).astype(np.float32)
    write_preview(tmp_path / "p.png", [("", Volume(ball, np.diag([1, 1, 5.0, 1]))), ("", ball)], (0, 1))
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    height = (pixels.shape[0] - 100) // 3
    coronal = pixels[60 + height : 40 + 2 * height, MARGIN : WIDTH // 2 - 20] > 150
    wide, high = np.ptp(np.flatnonzero(coronal.any(0))), np.ptp(np.flatnonzero(coronal.any(1)))
    assert wide > 100 and high / wide == pytest.approx(1, abs=0.12)


def test_a_plane_of_a_huge_volume_costs_a_band_and_never_the_volume(tmp_path):
    class Huge:
        shape = (2048, 2048, 2048)
        spacing = (0.2, 0.2, 0.2)
        largest = total = 0

        def read(self, start, shape):
            n = int(np.prod(shape))
            self.largest, self.total = max(self.largest, n), self.total + n
            return np.zeros(shape, np.int16)

    huge = Huge()
    write_preview(tmp_path / "p.png", [("huge", huge), ("again", huge)], (0, 1))
    assert huge.largest <= 128 * 2048
    assert huge.total == 2 * 3 * 2048**2


def test_reduction_is_the_mean_of_blocks_over_band_borders():
    image = np.random.default_rng(0).normal(size=(1000, 600)).astype(np.float32)
    found = read_plane(plane_views(Source(image))[""], 100, 200)
    np.testing.assert_allclose(found, image.reshape(200, 5, 100, 6).mean((1, 3)), atol=1e-5)


def test_an_image_of_rows_and_columns_is_shown_as_it_is_and_a_nifti_slice_as_its_plane():
    image = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(plane(image, ""), image)
    np.testing.assert_array_equal(plane(Volume(image, np.diag([0.5, 0.5, 1, 1])), ""), image)
    # array axes left, posterior (a DICOM slice in NIfTI): axis 0 runs along the columns
    np.testing.assert_array_equal(plane(Volume(image, np.diag([-1, -1, 1, 1])), ""), image.T)
    rows_down = [[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(plane(Volume(image, rows_down), ""), image)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_window_maps_to_black_and_white_in_every_layout(tmp_path, count, dims):
    shape = (40, 30, 20)[:dims]
    low, high = np.full(shape, -2000.0), np.full(shape, 700.0)
    write_preview(tmp_path / "p.png", [("", (low, high)[i % 2]) for i in range(count)], (-1000, 600))
    picture = np.asarray(Image.open(tmp_path / "p.png"))
    assert picture.shape[1] == WIDTH
    column = (WIDTH - 2 * MARGIN) / count
    for i in range(count):
        x = int(MARGIN + column * (i + 0.3))
        patch = picture[120:130, x : x + 5]
        assert (patch == (0, 255)[i % 2]).all()


def test_panels_of_their_own_window_and_of_two_dimensions_stand_beside_volumes(tmp_path):
    sketch = Panel("sketch", np.full((20, 20, 20), 0.5), window=(0, 1))
    panels = [("ct", np.full((20, 20, 20), 600.0)), sketch, ("x", np.ones((20, 20)))]
    write_preview(tmp_path / "p.png", panels, (0, 600))
    colours = {int(v) for v in np.unique(np.asarray(Image.open(tmp_path / "p.png"))[:, 650])}
    assert {127, 128} & colours


def test_a_picture_of_fewer_panels_has_the_scale_of_more_where_these_have_room(tmp_path):
    image = np.tile(np.arange(40, dtype=np.float32), (30, 1))
    for name, count, columns in (("three", 3, 1), ("one", 1, 3)):
        write_preview(tmp_path / f"{name}.png", [("a", image)] * count, (0, 40), columns=columns)
    three, one = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("three", "one"))
    assert three.shape == one.shape
    column = (three.shape[1] - 16) // 3
    np.testing.assert_array_equal(three[:-40, :column], one[:-40, :column])
    rest = one[60:-60, column + 40 :]
    assert (rest == rest[0, 0]).all() and not (three[60:-60, column + 40 :] == rest[0, 0]).all(), "the rest is empty"


def test_labels_are_tinted_and_the_rest_stays_grey(tmp_path):
    image, labels = np.full((60, 60), 100.0), np.zeros((60, 60), np.uint8)
    labels[:, 30:] = 2
    write_preview(tmp_path / "p.png", [("", image, labels)], (0, 200))
    picture = np.asarray(Image.open(tmp_path / "p.png")).astype(int)
    grey, tinted = picture[700, 200], picture[700, 1300]
    assert np.ptp(grey) == 0
    expected = grey + (np.array(LABEL_COLOURS[1]) - grey) * 0.35
    np.testing.assert_allclose(tinted, expected, atol=1)


def test_fractions_over_an_image_are_heat(tmp_path):
    heat = np.linspace(0, 1, 60)[None] * np.ones((60, 1))
    write_preview(tmp_path / "p.png", [("", np.zeros((60, 60)), heat)], (0, 1))
    row = np.asarray(Image.open(tmp_path / "p.png"))[700, :, 0].astype(int)
    assert row[100] < row[600] < row[1400]


def test_the_ruler_is_a_round_length_of_true_size(tmp_path):
    assert [ruler_length(v) for v in (0.7, 3, 9.99, 10, 199, 260)] == [0.5, 2, 5, 10, 100, 200]
    # 300 mm over the one column of 1468 pixels: 40 % is 120 mm, the ruler 100 mm = 489 pixels
    write_preview(tmp_path / "p.png", [("", Volume(np.zeros((100, 100)), np.diag([3, 3, 1, 1])))], (0, 1))
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    line = max(len(list(run)) for row in picture[-45:] for value, run in itertools.groupby(row > 200) if value)
    assert line == pytest.approx(100 / 300 * 1468, abs=3)


def test_nan_and_constants_draw_and_long_titles_stay_in_their_column(tmp_path):
    broken = np.full((30, 30), np.nan)
    write_preview(tmp_path / "p.png", [("Müller → " * 40, broken), ("", np.zeros((30, 30)))], footer="é → ü " * 99)
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert (picture[MARGIN : MARGIN + 30, WIDTH // 2 + 8 :] == picture[0, 0]).all()
    assert (picture[:, WIDTH - 5 :] == picture[0, 0]).all()


def test_the_picture_is_whole_or_absent(tmp_path, monkeypatch):
    def broken(*_args, **_more):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_preview(tmp_path / "p.png", [("", np.zeros((8, 8)))], (0, 1))
    assert list(tmp_path.iterdir()) == []


def test_no_panels_and_a_channel_axis_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        write_preview(tmp_path / "p.png", [])
    with pytest.raises(ValueError, match="two or three axes"):
        write_preview(tmp_path / "p.png", [("", np.zeros((1, 8, 8, 8)))])
    with pytest.raises(ValueError, match="cannot lie over"):
        write_preview(tmp_path / "p.png", [("", np.zeros((8, 8)), np.zeros((8, 9)))])


@pytest.mark.realdata
def test_a_real_patients_table_is_below_and_the_head_end_above(tmp_path):
    path = Path(os.environ.get("HIRESMED_DATA", "/nowhere")) / "ct3d" / "Lung_Dx-A0001_s3_5mm.nii.gz"
    if not path.exists():
        pytest.skip("HIRESMED_DATA names no folder with ct3d/Lung_Dx-A0001_s3_5mm.nii.gz")
    scan = nibabel.load(path)
    volume = Volume(np.asarray(scan.dataobj), scan.affine)
    axial, coronal = plane(volume, "axial"), plane(volume, "coronal")
    assert (axial[-60:] > -500).mean() > 5 * (axial[:60] > -500).mean()  # the table lies behind the back
    lungs = coronal < -700
    middle = lungs[:, 150:360]
    assert middle[:20].mean() < middle[25:45].mean() and middle[-8:].mean() < middle[25:45].mean()
    # the heart, and so less lung, is on the patient's left, the picture's right
    assert lungs[36:44, :256].sum() > lungs[36:44, 256:].sum()
