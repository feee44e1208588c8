"""The studies of dcgan_mri from end to end with tiny networks; done again, they do nothing again."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/studies/dcgan_mri/comparison.py"


def study(work_dir: Path, xrays: Path) -> subprocess.CompletedProcess:
    own = {"work_dir": work_dir, "xray_dir": xrays, "seeds": "0", "steps": 2, "points": 1, "patients": 2, "sizes": "2"}
    own |= {"size": 16, "width": 8, "batch_size": 4, "pairs": 4, "extractor": "pixels", "xray_size": 300}
    own |= {"latent_size": 4, "phantom": '{"shape": [16, 16, 16]}'}
    words = [str(word) for name, value in own.items() for word in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, *words], env=environment, capture_output=True, text=True, timeout=1500
    )


def test_a_critic_overfits_what_it_grades_above_new_patients(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    critic_overfitting = runpy.run_path(str(SCRIPT))["critic_overfitting"]
    grades = [
        [torch.full((1, 2, 2), v) for v in values] for values in ((4.0, 6.0), (1.0, 3.0), (-1.0, -1.0, 1.0, -3.0))
    ]
    assert critic_overfitting(lambda images: images.mean((1, 2, 3)), *grades) == pytest.approx((5 - 2) / (5 + 1))


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_all_studies_write_their_tables_and_pictures_once(tmp_path, xray_images):
    xray_images(tmp_path / "xrays", 300)
    done = study(tmp_path / "study", tmp_path / "xrays")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    assert set(found) == {"sensitivity", "methods", "data", "memorised", "processes"}
    assert set(found["data"]) == {"their own slices", "DCGAN", "WGAN-GP"}
    for kind, strengths in found["sensitivity"].items():
        distances = [seeds["0"]["distance"] for seeds in strengths.values()]
        assert len(distances) == 5 and distances[-1] > distances[0], kind
    equal, published = (
        "WGAN-GP, 1 critic step",
        "DCGAN, as published",
    )
    assert set(found["methods"]) == {"DCGAN", "WGAN-GP", equal, published}
    assert set(found["processes"]) == {"1", "2"} and all(0 < rate < 1e5 for rate in found["processes"].values())
    for name in ("study.md", "sensitivity.png", "methods.png", "samples.png"):
        assert (tmp_path / "study" / name).stat().st_size > 200
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("latest.pt")}
    assert before and study(tmp_path / "study", tmp_path / "xrays").returncode == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before, "no training was done again"
