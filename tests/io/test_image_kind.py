"""An image is of the kind that the network was trained on, or that is said: kinds, what comes, what is wanted."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import make_slice
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, picture_affine
from hiresmed.io import CaseOutput, ImageKind, LoadImageStreamd
from hiresmed.io.readers import open_volume
from hiresmed.phantoms import ChestXrayPhantom, ThoraxPhantom
from PIL import Image

SHAPE = (48, 48, 48)
PHANTOM = ThoraxPhantom(SHAPE)
HU = PHANTOM.read((0, 0, 0), SHAPE).astype(np.float32)
XRAY = ChestXrayPhantom((96, 96))
GREY = XRAY.read((0, 0), XRAY.shape)


def judged(kind, volume, caplog, source="case.nii", check="check"):
    """("refused" or "warned" or "passed", the sentences)."""
    caplog.clear()
    try:
        ImageKind(kind, check)(source, volume)
    except InputError as refused:
        return "refused", str(refused)
    told = " ".join(record.getMessage() for record in caplog.records)
    return ("warned" if told else "passed"), told


def ct(values, affine=None):
    return ArrayVolume(values, PHANTOM.affine if affine is None else affine, "case")


MAGNITUDES = np.abs(HU + 1000) * np.random.default_rng(0).uniform(0.5, 1.5, SHAPE)  # as an MR's
CTS = [
    ("a CT in HU", ct(HU), "passed", ""),
    ("the same as whole numbers", ct(HU.astype(np.int16)), "passed", ""),
    ("padded with -3024", ct(np.where(HU < -990, -3024, HU)), "passed", ""),
    ("with metal", ct(np.where(HU.max() == HU, 30000, HU)), "passed", ""),
    ("scaled to 0 ... 1", ct((HU.clip(-1000, 1000) + 1000) / 2000), "refused", "values from 0 to 0.79"),
    ("scaled to -1 ... 1", ct(HU.clip(-1000, 1000) / 1000), "refused", "as if scaled"),
    ("8 bits", ct(((HU.clip(-1000, 1000) + 1000) / 8).astype(np.uint8)), "refused", "8-bit"),
    ("shifted by 1024", ct((HU.clip(-1024) + 1024).astype(np.uint16)), "refused", "subtract 1024"),
    ("shifted by 1000", ct(HU.clip(-1000) + 1000), "refused", "subtract 1024"),
    ("rescaled twice", ct(HU - 1024), "warned", "soft tissue"),
    ("an MR's magnitudes", ct(MAGNITUDES), "warned", "least value"),
    ("a crop inside the body", ct(np.full(SHAPE, 40.0) + HU[20:21] * 0.01), "warned", "contrast turned round"),
    ("a small field of view", ct(HU, np.diag([2, 2, 2, 1])), "warned", "field of view is 96 x 96 mm"),
]


@pytest.mark.parametrize(("volume", "wanted", "words"), [pytest.param(*row[1:], id=row[0]) for row in CTS])
def test_the_values_of_a_ct_are_hounsfield_units_of_a_chest(volume, wanted, words, caplog):
    got, told = judged("ct", volume, caplog)
    assert got == wanted and words in told, told
    assert "\n" not in told
    # what is refused is warned of where that is asked for, and nothing is said where nothing is to be checked
    assert judged("ct", volume, caplog, check="warn")[0] == {"refused": "warned"}.get(wanted, wanted)
    assert judged("ct", volume, caplog, check="ignore") == ("passed", "")


def test_the_default_phantoms_are_what_the_networks_were_trained_on(caplog):
    assert judged("ct", PHANTOM, caplog) == ("passed", "")
    assert judged("ct", PHANTOM, caplog, source=PHANTOM) == ("passed", "")
    assert judged("radiograph", XRAY, caplog, source=XRAY) == ("passed", "")


def dicom(folder, modality, count=12, **tags):
    pydicom = pytest.importorskip("pydicom", reason="the series are made by pydicom")
    air = {"RescaleSlope": 1, "RescaleIntercept": -1000, "PixelSpacing": [60, 60]}
    sop = {"MR": pydicom.uid.MRImageStorage}.get(modality, pydicom.uid.CTImageStorage)
    for k in range(count):
        value = 0 if k < count // 2 else 1040
        make_slice(folder / f"{k}.dcm", (0, 0, 25 * k), value=value, Modality=modality, SOPClassUID=sop, **air, **tags)
    return folder if count > 1 else folder / "0.dcm"


@pytest.mark.parametrize(("kind", "modality", "tags", "wanted", "words"), [
    ("ct", "CT", {}, "passed", ""),
    ("ct", "CT", {"BodyPartExamined": "CHEST"}, "passed", ""),
    ("ct", "CT", {"BodyPartExamined": "HEAD"}, "warned", "BodyPartExamined names another part"),
    ("ct", "MR", {}, "refused", "modality MR"),
    ("ct", "PT", {}, "refused", "modality PT"),
    ("ct", "NM", {}, "refused", "modality NM"),
    ("radiograph", "MR", {}, "refused", "modality MR"),
    ("radiograph", "CT", {}, "refused", "modality CT"),
    ("radiograph", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "warned", "localizer"),
    ("radiograph", "US", {}, "refused", "modality US"),
    ("radiograph", "DX", {"BodyPartExamined": "CHEST"}, "passed", ""),
    ("radiograph", "CR", {"BodyPartExamined": "HAND"}, "warned", "names another part"),
    ("radiograph", "MG", {}, "warned", "modality is MG"),
])  # fmt: skip
def test_what_dicom_says_of_its_kind_decides(tmp_path, kind, modality, tags, wanted, words, caplog):
    source = dicom(tmp_path / "in", modality, 12 if kind == "ct" else 1, **tags)
    volume = open_volume(source, tmp_path / "work")
    if kind == "radiograph":
        volume = ArrayVolume(GREY, picture_affine(1, 1), "case")
    got, told = judged(kind, volume, caplog, source)
    assert got == wanted and words in told, told


def test_colours_and_cameras_are_no_radiographs(tmp_path, caplog):
    grey = Image.fromarray((GREY // 256).astype(np.uint8))
    colours = np.zeros((96, 96, 3), np.uint8)
    colours[..., 0], colours[..., 2] = np.asarray(grey), 255 - np.asarray(grey)
    exif = Image.Exif()
    exif[271] = "a camera's maker"
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "rgb.jpg")
    Image.fromarray(colours).save(tmp_path / "colours.png")
    grey.save(tmp_path / "camera.jpg", exif=exif)
    wanted = {"grey.png": "", "rgb.jpg": "", "colours.png": "has colours", "camera.jpg": "names a camera"}
    for name, words in wanted.items():
        got, told = judged("radiograph", open_volume(tmp_path / name, tmp_path), caplog, tmp_path / name)
        assert (got, words in told) == ("warned" if words else "passed", True), told


def test_a_refused_image_leaves_no_copy(tmp_path):
    nibabel.save(nibabel.Nifti1Image((HU + 1024) / 2048, PHANTOM.affine), tmp_path / "a.nii.gz")
    output = CaseOutput(str(tmp_path / "out"))
    (case,) = output.cases(image=tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="as if scaled"):
        LoadImageStreamd("image", output, kind=ImageKind("ct"))(case)
    assert not list((tmp_path / "out").rglob("*.nii*"))


@pytest.mark.parametrize(("kind", "check"), [("mr", "check"), ("ct", "false"), ("ct", "no")])
def test_other_kinds_and_checks_are_refused(kind, check):
    with pytest.raises(InputError, match="must be"):
        ImageKind(kind, check)


@pytest.mark.realdata
def test_real_scans_and_radiographs_pass(tmp_path, caplog):
    import os

    if "HIRESMED_DATA" not in os.environ:
        pytest.skip("HIRESMED_DATA is not set")
    root = Path(os.environ["HIRESMED_DATA"])
    chests = ["LIDC-IDRI-0314_iso2mm.nii.gz", "Lung_Dx-A0001_s3_5mm.nii.gz", "totalseg_example_ct_3mm.nii.gz"]
    for path in [*(root / "ct3d" / name for name in chests), root / "ct3d" / "LIDC-IDRI-0001_dicom"]:
        assert judged("ct", open_volume(path, tmp_path), caplog, path) == ("passed", ""), path.name
    for path in sorted((root / "xray2d").glob("*.*"))[:6]:
        if path.suffix in (".jpg", ".dcm"):
            assert judged("radiograph", open_volume(path, tmp_path), caplog, path) == ("passed", ""), path.name


def test_what_the_package_warns_of_goes_to_its_loggers_and_what_others_warn_of_does_not(caplog, monkeypatch):
    import warnings

    from hiresmed.core.errors import install_warning_hook
    from hiresmed.core.volumes import grey_values

    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: shown.append(str(message)))
    install_warning_hook()
    install_warning_hook()  # of two runs of one process
    grey_values(np.full((2, 2), -5.0), "case")
    warnings.warn("of another package", stacklevel=1)
    assert [record.getMessage()[:4] for record in caplog.records] == ["case"] and shown == ["of another package"]
