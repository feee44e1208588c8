"""Each bundle as its user meets it: `python -m monai.bundle run` trains, resumes, infers and evaluates, at a tiny size.

CI runs these under a second Python: `pytest -m front_door`. Under the first, each bundle's own tests say more.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import front_door
import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = [pytest.mark.front_door, pytest.mark.slow, pytest.mark.timeout(1800)]

CASCADE = {"network_def#base": front_door.SMALL, "network_def#stage": front_door.SMALL, "base_size": 16}
NETWORKS = {
    "msgan_ct3d": CASCADE,
    "msgan_xray2d": CASCADE,
    "patchddm_brats": {
        "network_def#channels": 4,
        "network_def#channel_multipliers": [1, 2],
        "network_def#num_res_blocks": 1,
        "spacing": 8.0,
        "reference_size": [24, 30, 24],
        "phantom": {"shape": [29, 34, 25], "seed": 5, "look_alike": True},
    },
    "inr_gan_multistage": {
        "network_def#channels": [8, 6],
        "network_def#features": 8,
        "network_def#style_size": 6,
        "latent_size": 6,
        "image_size": [16, 16],
    },
    "dcgan_mri": {"size": 16, "width": 8, "last_width": 4, "latent_size": 4},
}
PHANTOMS = {"phantoms": 4, "phantom": {"shape": [16, 16, 24]}}
STAGES = {
    "base_patch": 16, "patch_size": 8, "batch_size": 2, "iterations": 1, "val_interval": 1,
    "discriminator_def#channels": 4, "discriminator_def#num_layers": 1,
}  # fmt: skip
# one iteration in each of two epochs, the second of which is resumed
TRAININGS = {
    "msgan_ct3d": STAGES | {
        "cases_list": [
            {"phantom": 0, "shape": [32, 24, 24]},
            {"phantom": 2, "shape": [24, 24, 24], "section": "validation"},
        ],
    },
    "msgan_xray2d": STAGES | {
        "cases_list": [
            {"phantom": 0, "shape": [48, 40]},
            {"phantom": 0, "shape": [32, 32], "section": "validation"},
        ],
    },
    "patchddm_brats": {"phantoms": 4, "patch_size": 12, "iterations": 1, "val_interval": 1, "val_steps": 1},
    "inr_gan_multistage": {
        "stage_epochs": [1, 1, 1], "iterations": 1, "batch_size": 4, "val_interval": 1, "val_samples": 3,
        "discriminator_def#width": 4, "discriminator_def#max_width": 8,
        "cases_list": [{"phantom": 0, "shape": [16, 16, 6]}],
    },
    "dcgan_mri": PHANTOMS | {"batch_size": 16, "val_samples": 6},
}  # fmt: skip
INFERENCES = {
    "msgan_ct3d": {"tile_size": 16, "phantom_size": [40, 36, 24]},
    "msgan_xray2d": {"tile_size": 32, "phantom_size": [48, 40]},
    "patchddm_brats": {"tile_size": 16, "num_samples": 2, "steps": 1},
    "inr_gan_multistage": {"num_samples": 4, "large_size": None},
    "dcgan_mri": {"num_samples": 6},
}
EVALUATIONS = {
    "msgan_ct3d": {"extractor": "none"},
    "msgan_xray2d": {"extractor": "none"},
    "patchddm_brats": {},
    "inr_gan_multistage": {"extractor": "random", "pairs": 2},
    "dcgan_mri": PHANTOMS | {"extractor": "random", "pairs": 2},
}


def monai_bundle_run(bundle: str, configs: list[str], knobs: dict) -> subprocess.CompletedProcess:
    """`python -m monai.bundle run` in a process of its own; it must end well."""
    root = front_door.BUNDLES / bundle
    files = str([str(root / "configs" / name) for name in configs])
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", str(root)]
    words += [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    done = front_door.subprocess_run(words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def latest(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)


def numbers(entry):
    """Every number in nested dicts and lists."""
    if isinstance(entry, dict | list):
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from numbers(part)
    elif isinstance(entry, int | float) and not isinstance(entry, bool):
        yield entry


@pytest.mark.parametrize("bundle", NETWORKS)
def test_a_bundle_trains_resumes_infers_and_evaluates(bundle, tmp_path):
    trained = tmp_path / "trained"
    last_epoch = "train#trainer#max_epochs" if bundle == "inr_gan_multistage" else "max_epochs"
    training = NETWORKS[bundle] | TRAININGS[bundle] | {"output_dir": trained, "device": "cpu"}

    monai_bundle_run(bundle, ["train.yaml"], training | {last_epoch: 1})
    assert latest(trained)["epoch"] == 1
    monai_bundle_run(bundle, ["train.yaml"], training | {last_epoch: 2, "resume": True})
    assert latest(trained)["epoch"] == 2

    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())
    inference = NETWORKS[bundle] | INFERENCES[bundle] | {"weights_path": trained / "model.pt", "device": "cpu"}
    done = monai_bundle_run(bundle, ["inference.yaml"], inference | {"output_dir": tmp_path / "result"})
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    assert done.stdout.strip().splitlines()[-1].startswith(f"{bundle} made ")
    assert report["bundle"] == bundle and report["output"]
    with Image.open(tmp_path / "result" / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 1

    evaluation = inference | EVALUATIONS[bundle] | {"output_dir": tmp_path / "evaluation"}
    monai_bundle_run(bundle, ["inference.yaml", "evaluate.yaml"], evaluation)
    figures = list(numbers(json.loads((tmp_path / "evaluation" / "metrics.json").read_text())))
    assert len(figures) > 3 and any(math.isfinite(figure) and figure > 0 for figure in figures)
