"""sketch_kind through the front door: trained for signed sketches, rendered from them, never mixed up with lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from PIL import Image

DOORS = {
    "msgan_ct3d": front_door.FrontDoor("msgan_ct3d", tile_size=16, base_size=16),
    "msgan_xray2d": front_door.FrontDoor("msgan_xray2d", tile_size=32, base_size=16),
}


def image(bundle: str, folder: Path) -> Path:
    if bundle == "msgan_ct3d":
        path = folder / "chest.nii.gz"
        nibabel.save(nibabel.Nifti1Image(front_door.bricks((40, 36, 28), -1000, 1000, np.int16), np.eye(4)), path)
    else:
        path = folder / "chest.png"
        Image.fromarray(front_door.bricks((90, 70), 0, 255, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module", params=DOORS)
def trained(request, tmp_path_factory) -> SimpleNamespace:
    """Two epochs on listed phantoms and an image, the base stage on random fields of view."""
    door = DOORS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    dims = 3 if request.param == "msgan_ct3d" else 2
    listed = [
        {"image": image(request.param, folder).name, "weight": 2.0},
        {"phantom": 1, "shape": [20] * dims, "stages": [0]},
        {"phantom": 1, "shape": [40] * dims, "section": "validation"},
    ]
    knobs = {
        "bundle_root": str(door.bundle), "dataset_dir": str(folder), "output_dir": str(folder / "run"),
        "cases_list": listed, "network_def#base": front_door.SMALL, "network_def#stage": front_door.SMALL,
        "discriminator_def#channels": 4, "discriminator_def#num_layers": 1, "patch_size": 16, "base_patch": 16,
        "base_size": 16, "iterations": 3, "batch_size": 2, "max_epochs": 2, "val_interval": 1, "base_share": 0.5,
        "sketch_kind": "signed", "base_views": 0.7, "rollout": 0.5, "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    door.run(knobs, workflow="train")
    return SimpleNamespace(door=door, folder=folder, knobs=knobs, weights=folder / "run" / "model.pt")


def test_what_was_trained_for_signed_sketches_renders_from_them_and_says_so(trained, tmp_path):
    source = image(trained.door.bundle.name, trained.folder)
    trained.door.run(trained.door.settings(trained.weights, tmp_path, image=str(source)))
    assert json.loads((tmp_path / "report.json").read_text())["config"]["sketch_kind"] == "signed"
    picture = np.asarray(Image.open(tmp_path / "preview.png").convert("L"))
    assert np.mean(np.abs(picture.astype(int) - 128) <= 1) > 0.01, "the sketch's ground is grey"


def test_an_edge_sketch_and_weights_for_signed_ones_are_refused_and_so_is_the_other_way_round(trained, tmp_path):
    source = image(trained.door.bundle.name, trained.folder)
    with pytest.raises(InputError, match="trained with, signed, got edges; set --sketch_kind signed"):
        trained.door.run(trained.door.settings(trained.weights, tmp_path / "a", image=str(source), sketch_kind="edges"))
    lines = tmp_path / "lines.pt"
    torch.save(front_door.generator(3 if trained.door.bundle.name == "msgan_ct3d" else 2, "edges").state_dict(), lines)
    with pytest.raises(InputError, match="trained with, edges, got signed; set --sketch_kind edges"):
        trained.door.run(trained.door.settings(lines, tmp_path / "b", image=str(source), sketch_kind="signed"))
    with pytest.raises(InputError, match="sketch_kind must be one of edges, signed, got 'canny'"):
        trained.door.run(trained.door.settings(lines, tmp_path / "c", image=str(source), sketch_kind="canny"))


def test_a_drawing_of_lines_given_to_signed_weights_is_refused(trained, tmp_path):
    shape = (24, 22, 20) if trained.door.bundle.name == "msgan_ct3d" else (40, 36)
    drawn = np.zeros(shape, np.uint8)
    drawn[8, 4:18] = 255
    path = tmp_path / ("lines.nii.gz" if len(shape) == 3 else "lines.png")
    if len(shape) == 3:
        nibabel.save(nibabel.Nifti1Image(drawn, np.eye(4)), path)
    else:
        Image.fromarray(drawn).save(path)
    settings = trained.door.settings(trained.weights, tmp_path / "out", sketch=str(path))
    with pytest.raises(InputError, match="must be a signed sketch, middle grey"):
        trained.door.run(settings)


def test_a_cache_of_lines_is_not_taken_for_one_of_signed_sketches(trained):
    """The pyramids of another kind of sketch lie in folders of their own."""
    folders = set((trained.folder / "cache").iterdir())
    trained.door.run(trained.knobs | {"sketch_kind": "edges", "max_epochs": 1, "overwrite": True}, workflow="train")
    assert len(set((trained.folder / "cache").iterdir())) == 2 * len(folders)
