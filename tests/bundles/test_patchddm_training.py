"""Training through the front door: broken off and resumed it ends at the same bits; what it leaves can be used."""

from __future__ import annotations

from pathlib import Path

import front_door
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from monai.bundle import ConfigParser
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {
    "network_def::channels": 4, "network_def::channel_multipliers": [1, 2], "network_def::num_res_blocks": 1,
}  # fmt: skip
DOOR = front_door.FrontDoor("patchddm_brats", NETWORK, spacing=10.0, reference_size=[20, 24, 18])
KNOBS = {
    "bundle_root": str(DOOR.bundle), "phantoms": 4, "phantom": {"shape": [18, 20, 16], "look_alike": True},
    "patch_size": 12, "max_epochs": 2, "val_interval": 2, "val_steps": 1, "learning_rate": 1e-3, "device": "cpu",
}  # fmt: skip


def train(folder: Path, *overlays: str, **knobs) -> dict:
    DOOR.run({**KNOBS, **DOOR.tiny, "output_dir": str(folder), **knobs}, *overlays, workflow="train")
    return torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a if torch.is_tensor(a[k]))


def test_broken_off_after_an_epoch_and_resumed_with_a_cache_it_ends_at_the_same_bits(tmp_path, whole):
    """The cache keeps what the loading makes; it must change nothing either."""
    train(tmp_path, max_epochs=1, cache_dir=str(tmp_path / "cache"))
    resumed = train(tmp_path, resume="true", cache_dir=str(tmp_path / "cache"))
    wanted = torch.load(whole / "checkpoints" / "latest.pt", weights_only=True)
    assert resumed["iteration"] == wanted["iteration"] == 6
    for name in ("network", "ema"):
        assert same(resumed["objects"][name], wanted["objects"][name])
    kept = [torch.load(path, weights_only=True) for path in (tmp_path / "cache").glob("*.pt")]
    assert len(kept) == 4 and all(case["image"].shape[0] == 4 for case in kept), "what was loaded, not what to load"


def test_it_leaves_a_model_that_inference_takes_logs_and_a_picture(tmp_path, whole):
    flat = torch.load(whole / "model.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in flat.values())
    assert list((whole / "tensorboard").iterdir())
    with Image.open(whole / "samples" / "epoch_0002.png") as picture:
        assert picture.width > 3 * 14 and np.asarray(picture).std() > 10, "image, result and label side by side"
    knobs = {name.replace("::", "#"): value for name, value in DOOR.tiny.items()}
    image = {"phantom": {"shape": [18, 20, 16]}, "num_samples": 1, "steps": 1}
    DOOR.run({**DOOR.settings(whole / "model.pt", tmp_path), **knobs, **image})
    assert (tmp_path / "brain_phantom_0_labels.nii.gz").is_file()


STUDIES = Path(__file__).resolve().parents[2] / "scripts/studies/patchddm_brats"
OVERLAYS = {
    "paper.yaml": {"network_def::checkpointing": True, "reference_size": [20, 24, 20], "crops": 1, "spacing": 10.0,
                   "crop_brain": True},
    "multiclass.yaml": {},
    str(STUDIES / "no_coordinates.yaml"): {},
    str(STUDIES / "skip_concatenate.yaml"): {},
    str(STUDIES / "segresnet.yaml"): {"segresnet::init_filters": 8, "patch_size": 16, "reference_size": [24, 24, 24]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: Path(overlay).stem)
def test_each_overlay_trains_and_validates(tmp_path, overlay):
    network = {} if "segresnet" in overlay else NETWORK
    knobs = {**KNOBS, **DOOR.tiny, "output_dir": str(tmp_path), "max_epochs": 1, "val_interval": 1, **OVERLAYS[overlay]}
    knobs = {k: v for k, v in knobs.items() if k not in NETWORK or k in network}
    DOOR.run(knobs, overlay, workflow="train")
    best = torch.load(tmp_path / "checkpoints" / "latest.pt", weights_only=True)["objects"]["best"]["best"]
    assert 0 <= best <= 1


MISTAKES = {
    "a patch larger than the grid": ({"patch_size": 40}, "patch_size must fit into the padded grid"),
    "an unknown recipe": ({"recipe": "slow"}, "recipe must be one of fast, paper"),
    "an unknown law": ({"crop_law": "poisson"}, "law must be one of trapezoid"),
    "no crops": ({"crops": 0}, "num_samples must be|num_samples must be at least 1"),
    "a folder without cases": ({"dataset_dir": "."}, "dataset_dir must hold cases"),
    "a patch that the levels do not divide": ({"patch_size": 13}, "Every side must be a multiple of 2"),
    "an existing training": ({"output_dir": None}, "set resume to true"),
    "an unknown skip": ({"skip": "sum"}, "skip must be one of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, tmp_path, whole, monkeypatch):
    knobs, sentence = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    folder = whole if "output_dir" in knobs else tmp_path / "out"
    with pytest.raises(InputError, match=sentence) as caught:
        train(folder, **{k: v for k, v in knobs.items() if v is not None})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_as_one_does(tmp_path):
    """The same global batches, times and noises; sums are taken in another order. No crops."""
    knobs = {**KNOBS, **DOOR.tiny, "max_epochs": 1, "iterations": 2, "val_interval": 1, "batch_size": 2, "crops": 1,
             "amp": False, "phantoms": 6, "patch_size": DOOR.tiny["reference_size"],
             "optimizer::_target_": "torch.optim.SGD", "learning_rate": 0.1}  # fmt: skip
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m")
        words = DOOR.command({**knobs, "output_dir": folder}, launcher, "train.yaml")
        done = front_door.subprocess_run(words)
        assert done.returncode == 0, done.stderr[-3000:]
        ends.append(torch.load(folder / "checkpoints" / "latest.pt", weights_only=True)["objects"]["network"])
    assert all(torch.isfinite(v).all() for v in ends[1].values())
    assert ends[0]["head.2.bias"].abs().max() > 0.1, "a network that learned nothing would be the same, too"
    assert all(torch.allclose(ends[0][k], ends[1][k], atol=1e-4) for k in ends[0])


@pytest.mark.parametrize(
    "recipe, overlays, first, as_noise",
    [("fast", [], 999, False), ("paper", [], 699, True), ("paper", ["paper.yaml"], 999, False)],
)
def test_only_the_paper_recipe_at_a_small_scale_starts_as_noise_and_samples_from_an_earlier_time(
    recipe, overlays, first, as_noise
):
    parser = ConfigParser()
    parser.read_config([str(DOOR.bundle / "configs" / name) for name in ("train.yaml", *overlays)])
    parser["recipe"] = recipe
    assert parser.get_parsed_content("schedule").times(20)[0] == first
    network = parser.get_parsed_content("started")
    assert bool(network.head[-1].weight.any()) == as_noise
