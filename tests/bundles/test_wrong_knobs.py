"""Knobs that are mistyped, or no counts and rates, are refused by every bundle before it reads or draws anything."""

from __future__ import annotations

import time

import pytest
from front_door import FrontDoor
from hiresmed.core.errors import InputError

BUNDLES = ("dcgan_mri", "inr_gan_multistage", "msgan_ct3d", "msgan_xray2d", "patchddm_brats")
TRAINING = {
    "learning_rate": (-1, "learning_rate must be a number above 0, got -1"),
    "val_interval": (0, "val_interval must be a whole number from 1 on, got '0'"),
    "max_epochs": (0, "max_epochs must be a whole number from 1 on, got '0'"),
    "batch_size": (0, "batch_size must be a"),
    "train::trainer::accumulation_step": (2, "did you mean --train::trainer::accumulation_steps?"),
    "max_epoch": (2, "did you mean --max_epochs?"),
}


def refused(bundle: str, workflow: str, knobs: dict) -> str:
    """The sentence; it comes before a phantom could have been drawn."""
    door = FrontDoor(bundle, {})
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        door.run({"bundle_root": str(door.bundle), **knobs}, workflow=workflow)
    assert time.monotonic() - start < 10
    return str(caught.value)


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("name", TRAINING)
def test_a_wrong_knob_of_training_is_one_sentence_before_any_work(bundle, name, tmp_path):
    value, sentence = TRAINING[name]
    if bundle == "inr_gan_multistage" and name.startswith("max_epoch"):
        pytest.skip("its stages have their own epochs")
    assert sentence in refused(bundle, "train", {"output_dir": str(tmp_path / "run"), name: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_mistyped_knob_draws_no_phantom_instead(bundle, tmp_path):
    right = "image" if bundle in ("msgan_ct3d", "msgan_xray2d", "patchddm_brats") else "num_samples"
    knobs = {"output_dir": str(tmp_path / "out"), right + "e": "x"}
    assert refused(bundle, "inference", knobs) == f"--{right}e is no knob of this config; did you mean --{right}?"
    assert not (tmp_path / "out").exists()
