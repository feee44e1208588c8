"""What is shown of a segmentation is where it was found; figures that some cases lack are averaged without them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hiresmed.methods.patchddm import SegmentationContent, SegmentationPictures
from hiresmed.reports import CaseReport
from hiresmed.reports.metrics_file import mean_of
from hiresmed.training.pictures import PictureFolder
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "patchddm_brats"


class Output:
    """A SegmentationOutput's part in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.finished = folder, []

    def case_folder(self, name: str) -> Path:
        return self.folder

    def input_digest(self, case) -> None:
        return None  # of a phantom

    def finish(self, case) -> None:
        self.finished.append(case["name"])


def coloured(path: Path) -> int:
    """Pixels that are not grey."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((np.ptp(pixels[60:-60], axis=-1) > 60).sum())


@pytest.mark.parametrize("place", [(3, 20, 4), (16, 3, 9)])
def test_the_preview_goes_through_the_finding_wherever_it_lies(tmp_path, place):
    pred, image = torch.zeros(1, 20, 24, 12, dtype=torch.uint8), torch.rand(4, 20, 24, 12)
    pred[(0, *(slice(p - 1, p + 2) for p in place))] = 1
    affine = np.diag([-2.0, -2, 3, 1])
    given = MetaTensor(image, affine=torch.from_numpy(affine), meta={"original_affine": affine})
    maps = {"probability": pred.float(), "variance": torch.zeros(1, 20, 24, 12)}
    made = {**maps, "pred": pred, "files": ["a.nii"]}
    output = Output(tmp_path)
    report = CaseReport(output, str(BUNDLE), {"seed": 0}, SegmentationContent())
    case = {"name": "a", "header": "", "given": given}
    engine = SimpleNamespace(state=SimpleNamespace(device="cpu", batch=[case], output=[made]))
    report(engine)
    found = coloured(tmp_path / "preview.png")
    made["pred"] = pred * 0
    report(engine)
    assert found > coloured(tmp_path / "preview.png") + 1000
    assert output.finished == ["a", "a"]


def test_the_training_picture_shows_the_slice_with_most_of_the_label_in_three_columns(tmp_path):
    image, label = torch.full((4, 10, 8, 6), -1.0), torch.zeros(1, 10, 8, 6)
    label[0, 2:5, 3:6, 4] = 1
    case = {"image": image, "pred": label * 0, "label": label}
    validator = Engine(lambda *_: [case, case])
    SegmentationPictures(count=1).attach(None, validator, PictureFolder(tmp_path))
    validator.run([0, 1])
    with Image.open(tmp_path / "samples" / "epoch_0001.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (8, 3 * 10 + 2 * 2), "one row, columns image, prediction, truth"
    assert (pixels[:, :24] == 0).all() and np.array_equal(pixels[3:6, 26:29], np.full((3, 3), 255))
    assert (pixels > 0).sum() == 9


def test_a_figure_that_a_case_has_not_is_averaged_over_the_others():
    cases = [{"hd95": 2.0, "dice": 1.0}, {"hd95": None, "dice": 0.0}]
    assert mean_of(cases) == {"hd95": 2.0, "dice": 0.5}
    assert mean_of([{"hd95": None}]) == {}
