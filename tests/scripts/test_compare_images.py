"""Two folders compared from the command line: the same figures whatever the files' format, and plain errors."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_images.py"


def pictures(folder: Path, count: int = 8, seed: int = 0, size: int = 24) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for k in range(count):
        grey = random.integers(0, 255, (size // 4, size // 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(grey).save(folder / f"{k:03d}.png")
    return folder


def stack(folder: Path, of: Path) -> Path:
    """The pictures of a folder as one NIfTI, as bundles write their samples."""
    folder.mkdir()
    values = np.stack([np.asarray(Image.open(p)).T for p in sorted(of.iterdir())], 2)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), folder / "samples.nii.gz")
    return folder


def main(monkeypatch, *words, weights: str | None = None) -> None:
    """The script in this process."""
    monkeypatch.delenv("HIRESMED_WEIGHTS", raising=False)
    if weights:
        monkeypatch.setenv("HIRESMED_WEIGHTS", weights)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    hook = sys.excepthook
    try:
        runpy.run_path(str(SCRIPT))["main"]()
    finally:
        sys.excepthook = hook


def figures(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_pictures_and_the_stack_of_them_give_the_same_figures_and_identical_folders_none(tmp_path, monkeypatch, capsys):
    real, made = pictures(tmp_path / "real"), pictures(tmp_path / "made", seed=1)
    folded = stack(tmp_path / "stack", made)
    for name, other in (("png", made), ("nii", folded), ("self", real)):
        words = (real, other, "--output_dir", tmp_path / name, "--extractor", "pixels", "--training", real)
        main(monkeypatch, *words)
    png, nii, itself = (figures(tmp_path / name) for name in ("png", "nii", "self"))
    drop = ("generated",)
    assert {k: v for k, v in png.items() if k not in drop} == {k: v for k, v in nii.items() if k not in drop}
    assert png["pixels_frechet_distance"]["value"] > 1 > itself["pixels_frechet_distance"]["value"] >= 0
    assert itself["pixels_memorisation"]["median"] == pytest.approx(0, abs=1e-6)
    assert png["pixels_frechet_distance"]["n_generated"] == 8 and png["ms_ssim_diversity"]["scales"] >= 1
    assert (tmp_path / "png" / "comparison.png").exists()
    assert "8 real and 8 generated images" in capsys.readouterr().out


def test_a_random_network_is_taken_only_on_request_and_says_so(tmp_path, monkeypatch, capsys):
    real, made = pictures(tmp_path / "real"), pictures(tmp_path / "made", seed=1)
    with pytest.raises(InputError, match=r"squeezenet1_1_imagenet_bgr\.pth must be on this machine"):
        main(monkeypatch, real, made, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    main(monkeypatch, real, made, "--output_dir", tmp_path / "out", "--extractor", "random")
    assert "comparable with nothing" in capsys.readouterr().out
    assert figures(tmp_path / "out")["made_by"]["comparable"] is False


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    real, made = pictures(tmp_path / "real"), pictures(tmp_path / "made", seed=1)
    floats = tmp_path / "floats"
    floats.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.random.rand(24, 24, 5).astype(np.float32), np.eye(4)), floats / "a.nii")
    mixed = pictures(tmp_path / "mixed", size=32)
    (tmp_path / "empty").mkdir()
    few = pictures(tmp_path / "few", count=3)
    pixels = ("--extractor", "pixels", "--output_dir", tmp_path / "out")
    for words, sentence in (
        ((real, floats, *pixels), "a.nii must have 8 or 16 bit without sign, got float32"),
        ((real, made, *pixels, "--window", "[5, 1]"), "window must be two rising numbers"),
        ((real, mixed, *pixels), "All images must have one size for the MS-SSIM"),
        ((real, tmp_path / "empty", *pixels), "empty"),
        ((real, tmp_path / "none", *pixels), "none"),
        ((real, few, *pixels), "at least four images of each side, got 3 generated"),
        ((real, made, "--extractor", "vgg"), "extractor must be one of"),
    ):
        with pytest.raises(InputError) as caught:
            main(monkeypatch, *words)
        assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists()
    main(monkeypatch, real, floats, *pixels, "--window", "[0, 1]")
    with pytest.raises(InputError, match="must not exist yet, but does"):
        main(monkeypatch, real, made, *pixels)
    main(monkeypatch, real, mixed, *pixels, "--overwrite", "--size", "16")
    assert figures(tmp_path / "out")["size"] == 16


@pytest.mark.slow
def test_two_processes_find_what_one_does_and_a_mistake_is_no_traceback(tmp_path):
    real, made = pictures(tmp_path / "real", 40), pictures(tmp_path / "made", 21, seed=1)
    words = [str(SCRIPT), str(real), str(made), "--extractor", "pixels", "--output_dir"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher in (("one", []), ("two", two)):
        subprocess.run(
            [sys.executable, *launcher, *words, str(tmp_path / name)], env=environment, check=True, timeout=300
        )
    one, both = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert one.keys() == both.keys()
    for name in ("pixels_kernel_distance", "pixels_prdc", "ms_ssim_diversity"):
        assert one[name] == both[name]
    frechet = [f["pixels_frechet_distance"]["value"] for f in (one, both)]
    assert frechet[0] == pytest.approx(frechet[1], rel=1e-9)
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path / "one")], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr and "error: " in done.stderr
