"""Training of the implicit generator through the front door: stages in one run that resume, the other ways to train."""

from __future__ import annotations

import time
from pathlib import Path

import front_door
import nibabel
import numpy as np
import programs
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.io import open_volume
from hiresmed.training import AdversarialTrainer
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {"network_def#channels": [8, 6], "network_def#features": 8, "network_def#style_size": 6, "latent_size": 6}
DOOR = front_door.FrontDoor("inr_gan_multistage", NETWORK, tile_size=10, large_size=None)
run = DOOR.run
TRAINING = {
    **NETWORK, "bundle_root": str(DOOR.bundle), "image_size": [16, 16], "stage_epochs": [1, 2, 1], "iterations": 2,
    "batch_size": 4, "val_interval": 2, "val_samples": 3, "r1_every": 2,
    "discriminator_def#width": 4, "discriminator_def#max_width": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for k in range(7):
        values = np.random.default_rng(k).integers(0, 255, (20, 26, 3))
        Image.fromarray(values.astype(np.uint8)).save(folder / f"photo_{k}.png")
    return folder


def trained(folder: Path, *overlays: str, **knobs) -> dict:
    run(TRAINING | {"output_dir": str(folder)} | knobs, *overlays, workflow="train")
    return torch.load(folder / "checkpoints/latest.pt", weights_only=True)


def assert_same(a, b, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif torch.is_tensor(a):
        assert torch.equal(a, b), where


@pytest.fixture(scope="module")
def three_stages(tmp_path_factory, photographs) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("three")
    return folder, trained(folder, dataset_dir=str(photographs))


def test_three_stages_of_one_run_leave_samples_logs_and_a_model_that_inference_takes(three_stages, tmp_path):
    folder, state = three_stages
    assert state["epoch"] == 4 and state["objects"]["stages"]["stage"] == 3
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["epoch_0002.png", "epoch_0004.png"]
    assert list((folder / "tensorboard").iterdir())
    run(DOOR.settings(folder / "model.pt", tmp_path, num_samples=1, image_size=[16, 16]))
    made = open_volume(tmp_path / "sample_0000_synthetic.png", tmp_path)
    assert made.shape == (16, 16) and made.read((0, 0), (16, 16)).std() > 0


def test_broken_off_within_a_later_stage_and_resumed_it_ends_at_the_same_bits(
    three_stages, tmp_path, photographs, monkeypatch
):
    iteration, done = AdversarialTrainer._iteration, []

    def until_killed(self, engine, batchdata):
        if len(done) == 5:  # in the third epoch, which is the second stage's second
            raise InputError("the power is gone.")
        done.append(1)
        return iteration(self, engine, batchdata)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTrainer, "_iteration", until_killed)
        with pytest.raises(InputError, match="power"):
            trained(tmp_path, dataset_dir=str(photographs))
    state = torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)
    assert state["epoch"] == 2 and state["objects"]["stages"]["stage"] == 2
    assert state["objects"]["stages"]["previous"] is not None
    state = trained(tmp_path, dataset_dir=str(photographs), resume="true")
    assert_same(three_stages[1]["objects"], state["objects"])


def test_exact_and_accumulated_training_are_image_based_training(tmp_path, photographs):
    knobs = {"dataset_dir": str(photographs), "stage_epochs": [2], "batch_size": 8}
    state = {
        mode: trained(tmp_path / mode, f"{mode}.yaml", **knobs) for mode in ("image", "exact", "gradient_accumulation")
    }
    for mode in ("exact", "gradient_accumulation"):
        for name, value in state["image"]["objects"]["generator"].items():
            torch.testing.assert_close(state[mode]["objects"]["generator"][name], value, rtol=1e-3, atol=2e-4)
    other = trained(tmp_path / "patch", "patch.yaml", **knobs)["objects"]["generator"]
    assert any((other[n] - v).abs().max() > 1e-3 for n, v in state["image"]["objects"]["generator"].items())


def test_colour_photographs_volumes_and_phantom_slices_train(tmp_path, photographs):
    short = {"stage_epochs": [1, 1, 1], "iterations": 1}
    knobs = {"image_channels": 3, "intensity": "full", "fit": "crop"}
    state = trained(tmp_path / "colour", dataset_dir=str(photographs), **short, **knobs)
    assert state["objects"]["generator"]["heads.0.weight"].shape[1] == 3
    phantoms = [{"phantom": 0, "shape": [16, 16, 6]}]
    assert trained(tmp_path / "slices", cases_list=phantoms, **short)["epoch"] == 3
    volume = np.random.default_rng(0).normal(size=(9, 10, 11)).astype(np.float32)
    folder = tmp_path / "volumes"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "v.nii.gz")
    knobs = {"image_size": [8, 8, 8], "cases_list": [{"image": "v.nii.gz"}]}
    state = trained(tmp_path / "3d", dataset_dir=str(folder), **short, **knobs)
    assert state["objects"]["generator"]["fourier.frequencies"].shape[0] == 3


TRAINING_MISTAKES = {
    "an odd size": ({"image_size": [18, 16]}, "image_size must be divisible by patch_factor"),
    "too many stages": ({"num_stages": 4, "stage_epochs": [1] * 4}, "image_size must be divisible"),
    "epochs of two stages": ({"stage_epochs": [1, 1]}, "stage_epochs must give the epochs of each of the 3 stages"),
    "no epochs": ({"stage_epochs": [1, 0, 1]}, "stage_epochs must be a whole number from 1 on"),
    "no batch": ({"batch_size": 0}, "batch_size must be a whole number from 1 on"),
    "two channels": ({"image_channels": 2}, "image_channels must be 1"),
    "unknown intensity": ({"intensity": "bright"}, "intensity must be robust, full, or two"),
    "falling intensity": ({"intensity": [5, 1]}, "intensity must be two rising numbers"),
    "unknown fit": ({"fit": "squeeze"}, "fit must be resize or crop"),
    "no folder": ({"dataset_dir": "/nowhere"}, "must be an existing file or folder"),
    "no such image": ({"cases_list": [{"image": "none.png"}]}, "none.png"),
    "unknown norm": ({"consistency#norm": "L7"}, "norm must be one of"),
    "a softness below none": ({"consistency#tolerance": -1}, "tolerance from 0 on"),
    "volumes of pictures": ({"image_size": [8, 8, 8]}, "must have 3 axes as image_size"),
    "a used folder": ({"used": True}, "set resume to true"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TRAINING_MISTAKES)
def test_a_mistake_in_training_is_one_sentence(mistake, tmp_path, photographs, three_stages):
    knobs, sentence = TRAINING_MISTAKES[mistake]
    knobs = {"dataset_dir": str(photographs)} | knobs
    folder = three_stages[0] if knobs.pop("used", False) else tmp_path
    with pytest.raises(InputError, match=sentence) as caught:
        trained(folder, **knobs)
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < 700 and text.endswith((".", ")"))
    assert not (tmp_path / "model.pt").exists()


# ---- several processes, a real kill


def command(folder: Path, photographs: Path, *overlays: str, **knobs) -> list[str]:
    own = {"dataset_dir": photographs, "output_dir": folder} | knobs
    words = DOOR.command(TRAINING | own, config="train.yaml")
    at = words.index("--config_file") + 1
    words[at] = str([words[at], *(str(DOOR.bundle / "configs" / name) for name in overlays)])
    return words


@pytest.mark.slow
def test_killed_in_mid_stage_and_resumed_it_ends_at_the_same_bits(tmp_path, photographs, three_stages):
    process = programs.Program(command(tmp_path, photographs)[1:])
    latest, until = tmp_path / "checkpoints/latest.pt", time.time() + 300
    while not latest.exists() and process.poll() is None and time.time() < until:
        time.sleep(0.01)
    process.kill()
    assert torch.load(latest, weights_only=True)["epoch"] < 4, "the run was over before it could be killed"
    done = front_door.subprocess_run(command(tmp_path, photographs, resume="true"))
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(latest, weights_only=True)
    assert_same(three_stages[1]["objects"], state["objects"])


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["multi_gpu_train.yaml", "exact.yaml"])
def test_two_processes_train(tmp_path, photographs, overlay):
    knobs = {"accumulation_steps": 1, "stage_epochs": "[2]"} if overlay == "exact.yaml" else {"accumulation_steps": 1}
    for done in programs.run_group(command(tmp_path, photographs, overlay, **knobs)[1:], 2):
        assert done.returncode == 0, done.stderr[-3000:]
    flat = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in flat.values())
