"""The command after a training says all in which it differs from the defaults, and nothing where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hiresmed.cli.bundle_folders import BundleFolder, loaded
from hiresmed.cli.next_command import command_with
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "bundles").iterdir())
CHANGED = {
    "dcgan_mri": ({"size": 64, "width": 256}, "--size 64 --width 256"),
    "inr_gan_multistage": ({"image_size": [64, 64]}, "--image_size '[64, 64]'"),
    "msgan_ct3d": ({"sketch_kind": "edges", "noise": 0.0}, "--sketch_kind edges --noise 0.0"),
    "msgan_xray2d": ({"base_size": 32}, "--base_size 32"),
    "patchddm_brats": ({"recipe": "paper", "coordinates": None}, "--recipe paper --coordinates null"),
}


def command(name: str, overrides: dict) -> str:
    folder = BundleFolder(ROOT / "bundles" / name)
    training = ConfigParser(loaded(folder.config("train")))
    training.update(overrides)
    return command_with(folder, training, Path("my runs/model.pt"))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_by_default_needs_its_weights_alone(name, monkeypatch):
    monkeypatch.setenv("HIRESMED_BUNDLES", str(ROOT / "bundles"))
    assert command(name, {}) == f"hiresmed run {name} --weights_path 'my runs/model.pt'"


@pytest.mark.parametrize("name", NAMES)
def test_what_both_workflows_have_is_said_where_the_training_had_it_otherwise(name, monkeypatch):
    monkeypatch.setenv("HIRESMED_BUNDLES", str(ROOT / "bundles"))
    overrides, words = CHANGED[name]
    own = {"seed": 3, "output_dir": "elsewhere", "amp": True}
    assert command(name, {**overrides, **own}).endswith(f" --weights_path 'my runs/model.pt' {words}")


def test_a_bundle_that_is_not_found_by_its_name_is_said_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("hiresmed.cli.bundle_folders.search_path", lambda: [tmp_path])
    assert command("dcgan_mri", {}).startswith(f"hiresmed run {ROOT / 'bundles' / 'dcgan_mri'} ")
