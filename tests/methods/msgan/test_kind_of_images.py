"""Images of a training are checked as those of a run; what lacks air is warned of once."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.io import CaseOutput, ImageKind, LoadImageStreamd
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator, training_cases
from hiresmed.phantoms import ThoraxPhantom

SHAPE = (48, 48, 48)
PHANTOM = ThoraxPhantom(SHAPE)
HU = PHANTOM.read((0, 0, 0), SHAPE).astype(np.float32)


# ---- images of a training


def training_folder(folder, **images):
    folder.mkdir()
    for name, values in images.items():
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), PHANTOM.affine), folder / f"{name}.nii.gz")
    return [{"image": f"{name}.nii.gz"} for name in images]


def trained_on(tmp_path, caplog, images, check="check", **options):
    """What is said of a training's images, or ("refused", the sentence)."""
    caplog.clear()
    listed = training_folder(tmp_path / "data", **images)
    network = SimpleNamespace(spatial_dims=3, factor=2)
    kind = ImageKind("ct", check)
    try:
        training_cases(str(tmp_path / "data"), "training", network, GradientSketch(), base_size=16, cases_list=listed,
                       kind=kind, **options)  # fmt: skip
    except InputError as refused:
        return "refused", str(refused)
    return [record.getMessage() for record in caplog.records if record.name == "hiresmed.io.image_kind"]


SCALED = (HU.clip(-1000, 1000) + 1000) / 2000
CROPS = {name: np.full(SHAPE, 40.0) + HU[n : n + 1] * 0.01 for n, name in enumerate("bcd")}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("images", "check", "wanted"), [
    ({"a": HU}, "check", []),
    ({"a": HU, "b": SCALED}, "check", "b.nii.gz must hold HU (air -1000, water 0), got values from 0 to 0.79"),
    ({"a": HU, "b": SCALED}, "warn", ["b.nii.gz must hold HU"]),
    ({"a": HU, "b": SCALED}, "ignore", []),
    ({"a": HU} | CROPS, "check", ["b.nii.gz should hold HU of a chest with the air around it"]),
    ({"a": HU} | CROPS | {"e": HU - 1024}, "warn", ["b.nii.gz should hold HU of", "e.nii.gz should hold HU, b"]),
    ({"a": HU} | CROPS, "ignore", []),
])  # fmt: skip
def test_a_trainings_images_are_checked_as_those_of_a_run_and_each_doubt_is_told_once(
    tmp_path, caplog, images, check, wanted, cached
):
    told = trained_on(tmp_path, caplog, images, check, cache_dir=str(tmp_path / "cache") if cached else None)
    if isinstance(wanted, str):
        assert told[0] == "refused" and told[1].startswith(wanted)
        assert told[1].endswith("; leave it out of the training, or set check to ignore.")
    else:
        assert len(told) == len(wanted) and all(sentence.startswith(start) for sentence, start in zip(told, wanted))
        assert not {*CROPS} <= {*images} or not told or "; likewise 2 more of the training images (" in told[0]


# ---- a crop is told once


def rendered(tmp_path, caplog, check):
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, 40, np.int16) + (HU / 100).astype(np.int16), PHANTOM.affine),
                 tmp_path / "crop.nii")  # fmt: skip
    output = CaseOutput(str(tmp_path / "out"), overwrite=True)
    load = LoadImageStreamd("image", output, kind=ImageKind("ct", check))
    network = MultiScaleGenerator(3, base={"width": 8, "num_blocks": 1, "fine_width": 4},
                                  stage={"width": 8, "num_blocks": 1, "fine_width": 4}).eval()  # fmt: skip
    inferer = CascadeInferer(GradientSketch(), output, 32, num_scales=1, progress=False, air=-950)
    (case,) = output.cases(image=str(tmp_path / "crop.nii"))
    told = []
    of_a_run, of_a_server = (lambda: load(case)), (lambda: load({"image": case["image"]})["image"][None])
    for loaded in (of_a_run, of_a_server):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            inferer(loaded(), network)
        said = [record.getMessage() for record in caplog.records] + [str(w.message) for w in shown]
        told.append([sentence for sentence in said if " air " in sentence])
        caplog.clear()
    return told


def test_what_lacks_air_is_told_once_by_check_or_not_at_all(tmp_path, caplog):
    for told in rendered(tmp_path, caplog, "check"):
        assert len(told) == 1 and told[0].startswith("crop.nii should hold HU of a chest with the air around it"), told
    assert rendered(tmp_path, caplog, "ignore") == [[], []]
