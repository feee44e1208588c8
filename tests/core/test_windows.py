"""A robust window is the image's own percentiles, whatever the boxes; frames and letters do not move it."""

import numpy as np
import pytest
from hiresmed.core import windows
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.windows import WindowedView, robust_window
from hiresmed.io import LoadImageStreamd


def picture(dtype=np.uint16, shape=(90, 70), peak=3000):
    rng = np.random.default_rng(0)
    values = rng.gamma(3.0, peak / 12, shape).clip(5, peak)
    return values.astype(dtype)


def percentiles(values, low=0.5, high=99.5):
    kept = values[(values > values.min()) & (values < values.max())]
    return tuple(np.percentile(kept, (low, high), method="inverted_cdf"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_the_window_of_integers_is_exactly_their_percentiles_whatever_the_box(dtype, monkeypatch):
    values = picture(dtype, peak=250 if dtype == np.uint8 else 3000)
    monkeypatch.setattr(windows, "_MOST_IN_MEMORY", 0)
    found = {robust_window(ArrayVolume(values), box=box) for box in (1000, 64, 7)}
    assert found == {percentiles(values)}
    monkeypatch.setattr(windows, "_MOST_IN_MEMORY", 10**9)
    assert robust_window(ArrayVolume(values)) in found


@pytest.mark.parametrize("outlier", [0.0, 1e6, -1e7])
def test_the_window_of_floats_is_their_percentiles_even_beside_an_outlier(outlier, monkeypatch):
    values = picture(np.float32) / 1000
    values[3, 4] = outlier or values[3, 4]
    monkeypatch.setattr(windows, "_MOST_IN_MEMORY", 0)
    found = {robust_window(ArrayVolume(values), box=box) for box in (1000, 13)}
    assert len(found) == 1
    a, b = found.pop()
    np.testing.assert_allclose((a, b), percentiles(values), atol=(b - a) / 4096)


def test_a_volume_of_three_axes_has_a_window_too():
    values = picture(shape=(20, 18, 16))
    assert robust_window(ArrayVolume(values), box=5) == percentiles(values)


@pytest.mark.parametrize("frame", [0, 4095])
def test_a_constant_frame_does_not_move_the_window(frame):
    values = picture()
    framed = np.full((150, 120), frame, np.uint16)
    framed[40:130, 0:70] = values  # nothing on the left
    assert robust_window(ArrayVolume(framed), box=31) == robust_window(ArrayVolume(values))


def test_burnt_in_letters_at_the_extremes_do_not_move_the_window():
    values = picture()
    lettered = values.copy()
    lettered[5:20, 5:15], lettered[5:20, 20:30] = 4095, 0  # 2.4 % each
    a, b = robust_window(ArrayVolume(values))
    c, d = robust_window(ArrayVolume(lettered))
    assert abs(c - a) < 0.05 * (b - a) and abs(d - b) < 0.05 * (b - a)
    assert np.percentile(lettered, 99.5) == 4095  # plain percentiles would have been moved


def test_a_ramp_is_a_picture_and_not_all_border():
    ramp = np.repeat(np.arange(100, dtype=np.uint16)[:, None], 8, axis=1)
    a, b = robust_window(ArrayVolume(ramp))
    assert a <= 2 and b >= 97


def test_two_values_are_a_picture():
    two = np.zeros((9, 9), np.uint8)
    two[3:6, 3:6] = 7
    assert robust_window(ArrayVolume(two)) == (0, 7)
    assert robust_window(ArrayVolume(two.astype(np.float32))) == (0, 7)


def test_a_nearly_constant_picture_gets_its_whole_range():
    values = np.full((50, 50), 10, np.int16)
    values[10, 10], values[20, 20], values[30, 30] = 0, 20, 11
    assert robust_window(ArrayVolume(values)) == (0, 20)
    assert robust_window(ArrayVolume(values.astype(np.float32))) == (0, 20)


@pytest.mark.parametrize("value", [0, 7.5])
def test_a_constant_image_is_refused_in_one_sentence(value):
    with pytest.raises(
        InputError, match=r"flat must hold at least two values, got .* in every one of its 4 x 5 pixels"
    ) as caught:
        robust_window(ArrayVolume(np.full((4, 5), value), name="flat"))
    assert str(caught.value).endswith(".")


def test_a_value_that_is_not_finite_is_named():
    values = picture(np.float32)
    values[4, 5] = np.nan
    with pytest.raises(InputError, match=r"\(4, 5\)"):
        robust_window(ArrayVolume(values))


def test_the_view_is_linear_rounded_clipped_and_keeps_its_place():
    affine = np.diag([0.2, 0.3, 1.0, 1.0])
    view = WindowedView(ArrayVolume(np.arange(-5, 15, dtype=np.int16).reshape(4, 5), affine, "x.png"), (0, 10))
    assert (view.name, view.window, view.dtype, view.spacing) == ("x.png", (0.0, 10.0), np.uint16, (0.2, 0.3))
    whole = view.read((0, 0), (4, 5))
    expected = np.rint(np.arange(-5, 15).clip(0, 10) * 6553.5).reshape(4, 5)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(view.read((1, 2), (2, 3)), whole[1:3, 2:5])
    assert whole.dtype == np.uint16


class Opened:
    """Stands for a CaseOutput: gives the volume itself."""

    def open(self, path, name):
        return path

    def check(self, case, shape):
        pass


def test_loading_shows_the_image_through_its_window_and_neither_sketch_nor_mask():
    image, sketch, mask = (ArrayVolume(picture()) for _ in range(3))
    case = {"name": "a", "image": image, "sketch": sketch, "mask": mask}
    load = LoadImageStreamd(["image", "sketch", "mask"], Opened(), intensity="robust")
    loaded = load(case)
    assert isinstance(loaded["image"], WindowedView) and loaded["image"].window == robust_window(image)
    assert loaded["sketch"] is sketch and loaded["mask"] is mask
    assert LoadImageStreamd(["image"], Opened())(case)["image"] is image
    assert "image" not in load({"name": "a", "sketch": sketch})
    with pytest.raises(InputError, match="robust or null"):
        LoadImageStreamd(["image"], Opened(), intensity="full")


def test_a_bare_path_gets_the_same_values_as_a_streamed_case(tmp_path):
    import nibabel

    values = picture()
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 1.0, 1.0])), tmp_path / "a.nii")
    loaded = LoadImageStreamd(["image", "sketch"], None, intensity="robust")(
        {"image": str(tmp_path / "a.nii"), "sketch": str(tmp_path / "a.nii")}
    )
    volume = ArrayVolume(values)
    view = WindowedView(volume, robust_window(volume)).read((0, 0), values.shape)
    np.testing.assert_array_equal(loaded["image"].numpy()[0], view)
    np.testing.assert_array_equal(loaded["sketch"].numpy()[0], values)
    assert loaded["image"].affine[0, 0] == 2
