"""A training is resumed with the images that it was begun with, in all five bundles, or refused in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.datasets.sections import section_of
from hiresmed.phantoms import BrainPhantom
from hiresmed.training import training_data
from hiresmed.training.checkpoint import save_atomically
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES = {
    "network_def#base": front_door.SMALL, "network_def#stage": front_door.SMALL, "base_size": 16, "base_patch": 16,
    "patch_size": 8, "batch_size": 2, "iterations": 1, "discriminator_def#channels": 4,
    "discriminator_def#num_layers": 1, "check": "ignore",
}  # fmt: skip
TRAININGS = {
    "msgan_ct3d": STAGES,
    "msgan_xray2d": STAGES,
    "patchddm_brats": {
        "network_def#channels": 4, "network_def#channel_multipliers": [1, 2], "network_def#num_res_blocks": 1,
        "spacing": 10.0, "reference_size": [20, 24, 18], "patch_size": 12, "iterations": 1,
    },
    "inr_gan_multistage": {
        "network_def#channels": [8, 6], "network_def#features": 8, "network_def#style_size": 6, "latent_size": 6,
        "image_size": [16, 16], "stage_epochs": [1, 1, 1], "iterations": 1, "batch_size": 2, "val_samples": 3,
        "discriminator_def#width": 4, "discriminator_def#max_width": 8,
    },
    "dcgan_mri": {
        "size": 32, "width": 8, "last_width": 4, "latent_size": 4, "slices": [6, 9], "batch_size": 2, "val_samples": 3,
        "iterations": 1,
    },
}  # fmt: skip
TRAINING = [n for n in "abcdefghijkl" if section_of(n) == "training"]
VALIDATION = [n for n in "abcdefghijklmnopqrstuvwxyz" if section_of(n) == "validation"]


def write_image(bundle: str, folder: Path, name: str, seed: int) -> Path:
    """One image of what the bundle learns from; returns a file of it."""
    if bundle in ("patchddm_brats", "dcgan_mri"):
        head = BrainPhantom((18, 20, 16), seed=seed)
        image, label = head.read()
        files = {s: folder / name / f"{name}_{s}.nii.gz" for s in ("t1", "t1ce", "t2", "flair", "seg")}
        (folder / name).mkdir(parents=True, exist_ok=True)
        for values, path in zip([*image, label], files.values()):
            nibabel.save(nibabel.Nifti1Image(values, head.affine), path)
        return files["flair"]
    folder.mkdir(exist_ok=True)
    shape = (24, 24, 24) if bundle == "msgan_ct3d" else (32, 32)
    values = np.random.default_rng(seed).integers(0, 255, shape)
    if bundle == "msgan_ct3d":
        path = folder / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)
    else:
        path = folder / f"{name}.png"
        Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def train(bundle: str, folder: Path, epochs: int, **knobs) -> int:
    """Trains to so many epochs; returns what the checkpoint says."""
    door = front_door.FrontDoor(bundle, {})
    until = {"train#trainer#max_epochs" if bundle == "inr_gan_multistage" else "max_epochs": epochs}
    own = {"bundle_root": str(door.bundle), "output_dir": str(folder / "runs"), "dataset_dir": str(folder / "images")}
    door.run(TRAININGS[bundle] | until | own | {"val_interval": 9, "device": "cpu"} | knobs, workflow="train")
    return torch.load(folder / "runs/checkpoints/latest.pt", weights_only=True)["epoch"]


@pytest.mark.parametrize("bundle", TRAININGS)
def test_a_training_is_not_resumed_on_other_images(bundle, tmp_path):
    images = tmp_path / "images"
    written = {name: write_image(bundle, images, name, ord(name)) for name in (*TRAINING[:3], VALIDATION[0])}
    assert train(bundle, tmp_path, 1) == 1
    changed = written[TRAINING[0]]
    refused = "resume must have the training images .*another set.*--resume_rates configured.*--overwrite true"

    shape = nibabel.load(changed).shape if changed.name.endswith((".nii", ".nii.gz")) else None
    write_image(bundle, images, TRAINING[0], 1)  # another one under the same name, of the same shape
    assert shape is None or nibabel.load(changed).shape == shape
    with pytest.raises(InputError, match=refused):
        train(bundle, tmp_path, 2, resume="true")
    write_image(bundle, images, TRAINING[0], ord(TRAINING[0]))

    added = write_image(bundle, images, TRAINING[3], 3)
    with pytest.raises(InputError, match=refused):
        train(bundle, tmp_path, 2, resume="true")
    whole = added.parent if added.parent != images else added
    shutil.rmtree(whole) if whole.is_dir() else whole.unlink()

    moved = images.rename(tmp_path / "moved")  # of the same content elsewhere it goes on
    assert train(bundle, tmp_path, 2, resume="true", dataset_dir=str(moved)) == 2


def test_a_later_phase_may_have_other_images_and_an_early_checkpoint_is_not_asked_for_its_own(tmp_path):
    bundle, names = "msgan_xray2d", (*TRAINING[:2], VALIDATION[0])
    for name in names:
        write_image(bundle, tmp_path / "images", name, ord(name))
    train(bundle, tmp_path, 1)
    write_image(bundle, tmp_path / "images", TRAINING[0], 1)
    assert train(bundle, tmp_path, 2, resume="true", resume_rates="configured") == 2

    latest = tmp_path / "runs/checkpoints/latest.pt"
    early = torch.load(latest, weights_only=True)
    del early["data"]  # as versions up to 0.1 wrote it
    save_atomically(early, latest)
    write_image(bundle, tmp_path / "images", TRAINING[1], 2)
    assert train(bundle, tmp_path, 3, resume="true") == 3


def test_of_a_large_set_each_file_is_read_in_part(tmp_path, monkeypatch):
    """Of half a mebibyte each a share of 16 KiB: a change at the very beginning or in the size is noticed."""
    monkeypatch.setattr(training_data, "_MOST_BYTES", 1)
    paths = [tmp_path / f"{k}.nii" for k in range(3)]
    for k, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(k).bytes(2**19))
    images = [{"image": path} for path in paths]
    digests = [training_data.data_digest(images)]
    begin = paths[1].read_bytes()
    paths[1].write_bytes(bytes([begin[0] ^ 1]) + begin[1:])
    digests.append(training_data.data_digest(images))
    paths[1].write_bytes(begin + b"0")
    digests.append(training_data.data_digest(images))
    paths[1].write_bytes(begin)
    assert len(set(digests)) == 3 and training_data.data_digest(images[::-1]) == digests[0]
