"""A new bundle works before anybody has changed it: it passes the checks of all bundles, trains, and infers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import nibabel
import numpy as np
import programs
import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "new_bundle.py"


def python(*words, cwd=ROOT, **environment) -> subprocess.CompletedProcess:
    return programs.run(words, cwd, os.environ | environment)


def run_config(bundle: pathlib.Path, files: str, **knobs) -> None:
    words = [word for name, value in knobs.items() for word in (f"--{name}", value)]
    done = python("-m", "monai.bundle", "run", "--config_file", files, *words, cwd=bundle)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("bundles")
    done = python(SCRIPT, "mri_denoise2", "--into", folder)
    assert done.returncode == 0, done.stderr
    return folder / "mri_denoise2"


def test_a_new_bundle_passes_every_check_of_the_bundles_here(bundle):
    # without the cache, that of the outer run would be overwritten
    checks = ("-m", "pytest", "-p", "no:cacheprovider", ROOT / "tests/test_configs.py")
    done = python(*checks, HIRESMED_BUNDLES=str(bundle.parent))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_no_mark_of_the_template_is_left_in_it(bundle):
    texts = {
        path.name: path.read_text() for path in bundle.rglob("*") if path.suffix in (".yaml", ".json", ".md", ".txt")
    }
    assert [name for name, text in texts.items() if "@NAME@" in text or "@monai@" in text] == []
    assert "mri_denoise2" in texts["README.md"] and '"name": "mri_denoise2"' in texts["metadata.json"]


def test_it_trains_resumes_denoises_a_region_on_the_grid_of_the_image_and_evaluates(bundle, tmp_path):
    size = "[24,20,16]"
    knobs = {"output_dir": "runs", "patch_size": "[8,8,8]", "phantom_size": size}
    run_config(bundle, "configs/train.yaml", **knobs, max_epochs=1)
    run_config(bundle, "configs/train.yaml", **knobs, max_epochs=2, resume="true")
    checkpoint = torch.load(bundle / "runs/checkpoints/latest.pt", weights_only=True)
    assert checkpoint["epoch"] == 2 and {"network", "optimizer", "best", "history"} == set(checkpoint["objects"])
    (bundle / "runs/model.pt").rename(bundle / "models/model.pt")
    affine = np.array([[0.0, -1.5, 0, 7], [0.8, 0, 0, -3], [0, 0.1, 2.5, 11], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(-900, 900, (25, 19, 14)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "odd.nii.gz")
    knobs = {"image": tmp_path / "odd.nii.gz", "tile_size": 12}
    files = "['configs/inference.yaml','configs/evaluate.yaml']"
    run_config(bundle, files, **knobs, output_dir=tmp_path / "all")
    names = {"odd_denoised.nii.gz", "preview.png", "report.json"}
    assert {path.name for path in (tmp_path / "all").iterdir()} == names | {"metrics.json"}
    result = nibabel.load(tmp_path / "all/odd_denoised.nii.gz")
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)
    assert result.shape == voxels.shape and np.ptp(result.dataobj) > 0
    assert json.loads((tmp_path / "all/metrics.json").read_text())["mean"]["mae"] > 0
    run_config(bundle, "configs/inference.yaml", **knobs, region="[[3,20],[0,9],[5,14]]", output_dir=tmp_path / "part")
    assert {path.name for path in (tmp_path / "part").iterdir()} == names
    part = nibabel.load(tmp_path / "part/odd_denoised.nii.gz")
    np.testing.assert_array_equal(part.dataobj, np.asarray(result.dataobj)[3:20, 0:9, 5:14])


def test_a_new_bundle_can_be_exported(bundle, tmp_path):
    done = python(ROOT / "scripts/export_bundle.py", bundle, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mri_denoise2_v0.1.0.zip").exists()


@pytest.mark.parametrize("name", ["Upper", "two words", "9lives", "with-dash", "../up", ""])
def test_a_name_that_is_no_lower_case_word_is_refused_in_one_sentence(name, tmp_path):
    done = python(SCRIPT, name, "--into", tmp_path / "bundles")
    assert done.returncode == 1 and not (tmp_path / "bundles").exists()
    assert done.stderr.count("\n") == 1 and "lower case" in done.stderr and f"'{name}'" in done.stderr


def test_an_existing_bundle_is_refused_and_left_as_it_is(bundle):
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*.yaml")}
    done = python(SCRIPT, bundle.name, "--into", bundle.parent)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "must be that of a new folder" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*.yaml")} == before
