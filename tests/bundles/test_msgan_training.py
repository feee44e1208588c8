"""Training through the front door: killed and resumed it ends at the same weights, bit for bit; two processes work."""

import pathlib
import time

import programs
import pytest
import torch

BUNDLE = pathlib.Path(__file__).resolve().parents[2] / "bundles" / "msgan_ct3d"
PHANTOMS = (
    "[{'phantom': 0, 'shape': [40, 32, 24]}, {'phantom': 1, 'shape': [32, 32, 32]},"
    " {'phantom': 2, 'shape': [32, 32, 32], 'section': 'validation'}]"
)
KNOBS = {
    "cases_list": PHANTOMS,
    "iterations": 3,
    "max_epochs": 3,
    "batch_size": 2,
    "base_size": 16,
    "base_patch": 16,
    "patch_size": 8,
    "base_share": 0.4,
    "rollout": 0.5,
    "val_interval": 2,
    "network_def::base": "{'width': 4, 'fine_width': 4, 'num_blocks': 1}",
    "network_def::stage": "{'width': 4, 'fine_width': 4, 'num_blocks': 1}",
    "discriminator_def::channels": 4,
    "discriminator_def::num_layers": 1,
}


def command(output: pathlib.Path, overlays=(), **knobs) -> list[str]:
    configs = [str(BUNDLE / "configs" / name) for name in ("train.yaml", *overlays)]
    words = ["-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", str(BUNDLE)]
    for name, value in {**KNOBS, "output_dir": output, **knobs}.items():
        words += [f"--{name}", str(value)]
    return words


def weights(output: pathlib.Path) -> dict:
    return torch.load(output / "checkpoints" / "latest.pt", weights_only=True)["objects"]


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for key in a:
        if torch.is_tensor(a[key]):
            assert torch.equal(a[key], b[key]), key
        elif isinstance(a[key], dict):
            assert_same(a[key], b[key])


@pytest.mark.timeout(900)
def test_a_run_killed_in_mid_epoch_and_resumed_ends_at_the_same_bits(tmp_path):
    whole = programs.run(command(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    program = programs.Program(command(tmp_path / "killed"))
    latest = tmp_path / "killed" / "checkpoints" / "latest.pt"
    until = time.time() + 300
    while not latest.exists() and program.poll() is None and time.time() < until:
        time.sleep(0.02)
    program.kill()
    assert latest.exists()
    assert torch.load(latest, weights_only=True)["epoch"] < 3, "the run was over before it could be killed"
    resumed = programs.run(command(tmp_path / "killed", resume="true"))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name in ("generator", "discriminator", "ema"):
        assert_same(a[name], b[name])


@pytest.mark.timeout(600)
def test_two_processes_train_and_leave_logs_samples_and_a_model(tmp_path):
    output = tmp_path / "two"
    for done in programs.run_group(command(output, overlays=("multi_gpu_train.yaml",), max_epochs=2), 2):
        assert done.returncode == 0, done.stderr[-3000:]
    assert weights(output)["generator"]
    flat = torch.load(output / "model.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in flat.values())
    assert list((output / "samples").glob("*.png"))
    assert list((output / "tensorboard").iterdir())
