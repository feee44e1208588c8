"""The study of one scale more, from end to end with tiny networks."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/studies/msgan_xray2d/one_more_scale.py"
TINY = '{"width": 8, "fine_width": 4, "num_blocks": 1}'
pytestmark = pytest.mark.slow
SIZE = 64


def study(work_dir: pathlib.Path) -> subprocess.CompletedProcess:
    knobs = {"network_def::base": TINY, "network_def::stage": TINY, "discriminator_def::channels": 4}
    knobs |= {"discriminator_def::num_layers": 1, "patch_size": 16, "base_patch": 16, "batch_size": 1, "base_size": 32}
    words = ["--work_dir", work_dir, "--size", SIZE, "--steps", 2, "--base_steps", 2]
    words += ["--tile_size", 32, "--extractor", "random"]
    words += [word for name, value in knobs.items() for word in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.timeout(1200)
def test_both_trainings_are_scored_at_twice_the_size_beside_the_enlarged_images(tmp_path, xray_images):
    for size in (SIZE, 2 * SIZE):
        xray_images(tmp_path / f"images_{size}", size)
    done = study(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "table.json").read_text())["seeds"]["0"]
    mae = {method: np.mean([c["mae"] for c in r["cases"].values()]) for method, r in result.items()}
    assert {len(r["cases"]) for r in result.values()} == {2} and len(mae) == 6
    assert mae["bicubic, real"] < 0.5 * mae["bicubic"], "the real image, enlarged, is nearer than a first drawing"
    assert len(set(mae.values())) == 6, "no two methods gave the same images"
    table = (tmp_path / "table.md").read_text()
    assert "trained to 64, one scale more" in table
    assert "2 steps of the base stage, 2 of either training, seeds 0" in " ".join(table.split())
    for name in ("comparison", "four_times"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width == 1500 and np.asarray(picture.convert("L")).std() > 10

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")}
    assert study(tmp_path).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")} == before, "done again, nothing is trained again"
