"""X-ray cases for training: through each image's own window, patients kept together, phantoms of their own."""

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.windows import WindowedView, robust_window
from hiresmed.datasets import list_cases
from hiresmed.datasets.sections import section_of, subject_of
from hiresmed.methods.msgan import GradientSketch, MultiScaleGenerator, training_cases
from hiresmed.methods.msgan import prepared_cases as multiscale_cases
from hiresmed.phantoms import ChestXrayPhantom, ThoraxPhantom
from PIL import Image

SMALL = {"width": 4, "num_blocks": 1, "fine_width": 4}


def network(dims=2):
    return MultiScaleGenerator(dims, base=SMALL, stage=SMALL)


def xray(n, shape=(48, 40), top=4095):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = (np.sin(rows / (5 + n)) + np.cos(columns / 7) + 2) / 4 * top
    return (values + np.random.default_rng(n).normal(0, top / 50, shape)).clip(0, top).astype(np.uint16)


def prepared(folder, cache=None, **options):
    return training_cases(
        str(folder), "training", network(), GradientSketch(), base_size=16, cache_dir=cache, **options
    )


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("region", [None, [[8, 40], [4, 36]]])
def test_an_xray_is_kept_as_uint16_through_the_window_of_its_whole(tmp_path, cached, region):
    (tmp_path / "in").mkdir()
    values = xray(0)
    Image.fromarray(values).save(tmp_path / "in" / "a.png")
    cache = str(tmp_path / "cache") if cached else None
    listed = [{"image": "a.png", "region": region}]
    volume = ArrayVolume(values)
    expected = WindowedView(volume, robust_window(volume)).read((0, 0), values.shape)
    if region:
        expected = expected[8:40, 4:36]
    times = None
    for _ in range(2):  # the second time from the cache
        case = prepared(tmp_path / "in", cache, cases_list=listed, intensity="robust")[0]
        fine, coarse = case.images[:2]
        assert fine.dtype == coarse.dtype == np.uint16
        np.testing.assert_array_equal(fine.read((0, 0), fine.shape), expected)
        h, w = (n // 2 for n in expected.shape)
        mean = expected.reshape(h, 2, w, 2).mean((1, 3))
        assert np.abs(coarse.read((0, 0), coarse.shape) - mean).max() <= 0.51
        assert coarse.read((0, 0), coarse.shape).max() > 40000  # int16 would have cut it
        made = [path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("image.nii")]
        assert len(made) == int(cached) and times in (None, made), "once"
        times = made


def test_sketches_are_those_of_the_windowed_image(tmp_path):
    """An image and the same one in other units teach the same."""
    for name, values in (("a", xray(1)), ("b", xray(1) * 3 + 700)):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.2, 0.2, 1.0, 1.0])), tmp_path / f"{name}.nii")
    listed = [{"image": "a.nii"}, {"image": "b.nii"}]
    one, other = (c.sketches[0] for c in prepared(tmp_path, cases_list=listed, intensity="robust"))
    drawn = one.read((0, 0), one.shape)
    assert 0.01 < (drawn > 0).mean() < 0.5
    np.testing.assert_allclose(drawn, other.read((0, 0), other.shape), atol=2 / 255)


def test_without_an_intensity_values_stay_and_ct_stays_int16(tmp_path):
    values = xray(0)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16) - 1000, np.eye(4)), tmp_path / "b.nii")
    plain, ct = prepared(tmp_path, cases_list=[{"image": "a.nii"}, {"image": "b.nii"}], window=(0, 4095))
    assert [v.dtype for v in plain.images] == [np.uint16] * 3 and [v.dtype for v in ct.images] == [np.int16] * 3
    np.testing.assert_array_equal(plain.images[0].read((0, 0), values.shape), values)
    np.testing.assert_array_equal(ct.images[0].read((0, 0), values.shape), values.astype(int) - 1000)


def test_a_cache_is_not_shared_between_intensities(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(xray(0)).save(tmp_path / "in" / "a.png")
    for intensity in (None, "robust", "robust"):
        prepared(tmp_path / "in", str(tmp_path / "c"), cases_list=[{"image": "a.png"}], intensity=intensity)
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_images_of_one_patient_share_a_section_and_the_patient_alone_decides(tmp_path):
    names = [f"site_p{patient}_view{view}" for patient in range(12) for view in range(3)]
    for name in names:
        Image.fromarray(xray(0, (4, 4))).save(tmp_path / f"{name}.png")
    parts = [list_cases(str(tmp_path), s, subject=r"site_(p\d+)_") for s in ("training", "validation")]
    patients = [{case["name"].split("_")[1] for case in part} for part in parts]
    assert patients[0] and patients[1] and not patients[0] & patients[1]
    assert sum(map(len, parts)) == len(names)
    assert patients[1] == {p for p in patients[0] | patients[1] if section_of(p) == "validation"}
    split = [{c["name"].split("_")[1] for c in list_cases(str(tmp_path), s)} for s in ("training", "validation")]
    assert split[0] & split[1]  # by the file names alone, patients would be torn apart


def test_a_subject_is_a_group_or_the_match_and_mistakes_are_named():
    assert subject_of("a_p12_x", r"_(p\d+)_") == "p12" and subject_of("a_p12_x", r"p\d+") == "p12"
    assert subject_of("a_p12_x", None) == "a_p12_x"
    with pytest.raises(InputError, match=r"finds none in scan7"):
        subject_of("scan7", r"_(p\d+)_")
    with pytest.raises(InputError, match="regular expression"):
        subject_of("scan7", "(")


def test_phantoms_are_of_the_networks_kind_and_the_last_quarter_validates(tmp_path, monkeypatch):
    found = {s: list_cases(None, s, phantoms=12, phantom="xray") for s in ("training", "validation")}
    assert [len(f) for f in found.values()] == [9, 3]
    images = [case["image"] for part in found.values() for case in part]
    assert all(isinstance(image, ChestXrayPhantom) for image in images) and len({i.seed for i in images}) == 12
    assert min(min(i.shape) for i in images) >= 512 and max(max(i.shape) for i in images) <= 1024
    for image in images:
        assert image.spacing[0] == pytest.approx(image.spacing[1])  # square pixels, whatever the shape
    assert isinstance(list_cases(None, "training", phantoms=1)[0]["image"], ThoraxPhantom)
    with pytest.raises(InputError, match="thorax or xray"):
        list_cases(None, "training", phantom="brain")

    kinds = []
    monkeypatch.setattr(multiscale_cases, "list_cases", lambda *arguments: kinds.append(arguments[4]) or [])
    for dims in (2, 3):
        training_cases(None, "training", network(dims), GradientSketch())
    training_cases(None, "training", network(2), GradientSketch(), phantom="thorax")
    assert kinds == ["xray", "thorax", "thorax"]


def test_an_unknown_intensity_is_refused(tmp_path):
    with pytest.raises(InputError, match="robust or null"):
        prepared(tmp_path, intensity="full")


def test_a_cache_holds_what_the_files_and_settings_are_now(tmp_path):
    """A corrected file under its old name, another window, another sketch: nothing old is taken."""
    folder = tmp_path / "data"
    folder.mkdir()

    def seen(brightness: int, sketcher=None, window=(-1024.0, 1024.0)) -> tuple[list[float], list[float]]:
        values = np.full((48, 48, 40), -1000, np.int16)
        values[10:38, 10:38, 8:32] = brightness
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "case7.nii.gz")
        listed = [{"image": str(folder / "case7.nii.gz")}]
        (case,) = training_cases(
            None, "training", network(3), sketcher or GradientSketch(), window, 16, str(tmp_path / "cache"), listed
        )
        return (
            [float(level.read([0] * 3, level.shape).max()) for level in case.images],
            [float(level.read([0] * 3, level.shape).mean()) for level in case.sketches],
        )

    first = seen(40)
    assert first[0][0] == 40 and all(value > -1000 for value in first[0])
    corrected = seen(400)
    assert corrected[0][0] == 400 and all(a < b for a, b in zip(first[0], corrected[0]))
    assert seen(400, window=(-1024.0, 4096.0))[1] != corrected[1], "the sketch is of the image in its window"
    assert seen(400, GradientSketch(binary=True))[1] != corrected[1]
    assert seen(400) == corrected, "and what is still true is found again"
