"""The ablation from end to end with tiny networks: trains, scores, draws; done again, it does nothing again."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/studies/msgan_xray2d/ablation.py"
TINY = '{"width": 8, "fine_width": 4, "num_blocks": 1}'
pytestmark = pytest.mark.slow
SIZE = 128


def ablation(work_dir: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    knobs = {"network_def::base": TINY, "network_def::stage": TINY, "discriminator_def::channels": 4}
    knobs |= {"discriminator_def::num_layers": 1, "patch_size": 16, "base_patch": 16, "batch_size": 1}
    own = ["--work_dir", work_dir, "--size", SIZE, "--steps", 2, "--base_steps", 2]
    own += ["--tile_size", 32, "--extractor", "random"]
    words = [*own, *words, *(word for name, value in knobs.items() for word in (f"--{name}", value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory, xray_images) -> pathlib.Path:
    """With its images made already."""
    folder = tmp_path_factory.mktemp("ablation")
    xray_images(folder / f"images_{SIZE}", SIZE)
    return folder


@pytest.mark.timeout(1200)
def test_a_variant_of_two_phases_is_trained_scored_and_drawn_once(work_dir):
    done = ablation(work_dir, "--variants", "finetuned", "--seeds", "3")
    assert done.returncode == 0, done.stderr[-3000:]
    run = work_dir / f"finetuned_{SIZE}px_2_2steps_seed3"
    assert "Resumed from" in done.stderr + done.stdout, "the last third goes on from the first two"
    cases = json.loads((work_dir / "table.json").read_text())["variants"]["finetuned"]["3"]["cases"]
    assert sorted(cases) == ["phantom_8", "phantom_9"], "the held-back ones, and no other"
    trained_on = {c["image"] for c in json.loads((work_dir / f"images_{SIZE}/cases.json").read_text())["cases_list"]}
    assert not trained_on & {"phantom_8.png", "phantom_9.png"} and len(trained_on) == 5
    for case in cases.values():
        assert 0 < case["mae"] < 65535 and -1 < case["ssim"] < 1 and case["retile_discrepancy"] <= 1
    table = (work_dir / "table.md").read_text()
    assert "last third on generated coarse images | 2 on 64 |" in table and "instance norm" in table
    with Image.open(work_dir / "comparison.png") as picture:
        assert picture.width == 1500 and np.asarray(picture.convert("L")).std() > 10

    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    again = ablation(work_dir, "--variants", "finetuned", "--seeds", "3")
    assert again.returncode == 0, again.stderr[-3000:]
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before
    assert (work_dir / "table.md").read_text() == table


def test_a_mistyped_variant_or_a_lone_knob_is_refused_before_any_work(tmp_path):
    for words in (("--variants", "referense"), ("--lonely",)):
        done = ablation(tmp_path / "none", *words)
        assert done.returncode != 0 and "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
