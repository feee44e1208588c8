"""The study of the stages from end to end at a few iterations; done again, it does nothing again."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/studies/inr_gan_multistage/stages.py"
pytestmark = pytest.mark.slow


def study(*words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_blobs_are_counted_for_every_method_and_seed_once(tmp_path):
    words = ("blobs", "--work_dir", tmp_path, "--iterations", 10, "--samples", 8, "--seeds", 0, 1)
    done = study(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    methods = json.loads((tmp_path / "blobs.json").read_text())["methods"]
    assert len(methods) == 7 and all(len(runs) == 2 for runs in methods.values())
    assert methods["multistage"][0]["iterations"] == [5, 2, 3] and methods["patch"][0]["iterations"] == [10]
    assert all(sum(run["counts"]) == 8 and 0 <= run["one_blob"] <= 1 for runs in methods.values() for run in runs)
    with Image.open(tmp_path / "blobs.png") as picture:
        assert picture.size == (170 + 8 * 34 * 2, 8 * 34 * 2) and np.asarray(picture).std() > 10
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert study(*words).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")} == before


@pytest.mark.timeout(1800)
def test_the_table_has_distance_memory_and_seconds_of_every_method(tmp_path):
    words = ("--seconds", 1, "--size", 32, "--samples", 8, "--seeds", 0, "--extractor", "random")
    done = study("table", "--work_dir", tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "table.json").read_text())["methods"]
    memory = {name: one["live_mebibytes"] for name, one in found.items()}
    # so small, an optimiser's step may need as much as the images
    assert 0 < memory["patch"] <= memory["exact"] <= memory["gradient accumulation"] <= memory["image"]
    assert all(one["runs"][0]["seconds"] >= 1 and one["runs"][0]["iterations"] >= 3 for one in found.values())
    assert "N = " in (tmp_path / "table.md").read_text()
    # three stages, each but the last on its own grid and on the full one
    for method in ("multistage", "multistage__means_of_2_x_2_blocks"):
        with Image.open(tmp_path / f"table_{method}_32px_1s_seed0" / "stages.png") as picture:
            rows = np.asarray(picture)[:, 170:].reshape(5, 34 * 2, 12, 34 * 2).swapaxes(1, 2)[:, :, 2:-2, 2:-2]
        assert (rows[0, :, ::8, ::8] == rows[0, :, 7::8, 7::8]).all(), "8 x 8 samples, enlarged"
        assert (rows[1, :, ::8, ::8] != rows[1, :, 7::8, 7::8]).any()
        assert not (rows[1] == rows[3]).all() and not (rows[3] == rows[4]).all()


def test_an_unknown_method_is_refused_before_any_work(tmp_path):
    done = study("blobs", "--work_dir", tmp_path / "none", "--methods", "multistaged")
    assert done.returncode != 0 and "multistaged came" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
