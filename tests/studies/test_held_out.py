"""The judgement of held-out images: its figures on cases whose answer is known, and from end to end on phantoms."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hiresmed.methods.msgan import MultiScaleGenerator

STUDIES = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "studies"


def script(bundle: str):
    spec = importlib.util.spec_from_file_location(f"held_out_{bundle}", STUDIES / bundle / "held_out.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def body() -> np.ndarray:
    """Lung, soft tissue and bone, with the noise of a CT."""
    values = np.full((40, 40, 40), 30.0)
    values[:14], values[30:34, :8] = -850, 600
    return values + np.random.default_rng(0).normal(0, 12, values.shape)


def test_a_perfect_rendering_has_no_error_the_truths_tissues_and_its_grain():
    found = script("msgan_ct3d").figures(body(), body())
    assert found["mae"] == 0 and found["grain"] == pytest.approx(1)
    for name, mean in (("lung", -850), ("soft", 30), ("bone", 600)):
        assert found[name]["truth"] == found[name]["result"] == pytest.approx(mean, abs=3)


def test_blur_and_noise_are_seen_by_the_grain_and_an_offset_by_the_tissues_alone():
    figures, truth = script("msgan_ct3d").figures, body()
    noise = np.random.default_rng(1).normal(0, 12, truth.shape)
    assert figures(np.rint(truth / 1000) * 1000, truth)["grain"] < 0.1
    assert figures(truth + noise, truth)["grain"] == pytest.approx(2**0.5, rel=0.05)
    shifted = figures(truth + 50, truth)
    assert shifted["grain"] == pytest.approx(1, abs=1e-3) and shifted["mae"] == pytest.approx(50, abs=0.1)
    assert shifted["soft"]["result"] - shifted["soft"]["truth"] == pytest.approx(50, abs=0.1)
    assert figures(truth[:10], truth[:10])["bone"] is None, "no bone there"


def test_patients_of_different_sections_are_apart():
    names = [f"nofinding_{p:08d}_{k:03d}.jpg" for p in range(25) for k in range(2)]
    of = script("msgan_xray2d").nih_section
    test, development = (of(names, section) for section in ("test", "development"))
    assert {n.split("_")[1] for n in test} == {f"{p:08d}" for p in (0, 10, 20)} and len(test) == 6
    assert {n.split("_")[1] for n in development} == {f"{p:08d}" for p in (5, 15)}


@pytest.mark.slow
@pytest.mark.parametrize("bundle, dims, options", [
    ("msgan_ct3d", 3, ["--phantom_size", "40", "--tasks", "rendering", "inpainting", "super_resolution"]),
    ("msgan_xray2d", 2, ["--phantom_size", "128", "--extractor", "random"]),
])  # fmt: skip
def test_from_end_to_end_on_phantoms_with_weights_for_both_kinds_of_sketch(tmp_path, bundle, dims, options):
    """Base stages of other sizes, too: what network a file belongs to is read from it."""
    paths = []
    for kind, width in (("edges", 8), ("signed", 16)):
        stage = {"width": 48, "num_blocks": 3}
        base = {"width": width, "fine_width": 4, "num_blocks": 1}
        network = MultiScaleGenerator(dims, num_stages=3, base=base, stage=stage, sketch_kind=kind)
        paths.append(tmp_path / f"{kind}.pt")
        torch.save(network.state_dict(), paths[-1])
    words = ["--work_dir", tmp_path / "out", "--tile_size", "64", "--weights", *paths, *options]
    done = subprocess.run(
        [sys.executable, STUDIES / bundle / "held_out.py", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {row["weights"] for row in rows} == set(map(str, paths))
    assert all(np.isfinite(row["mae"]) for row in rows)
    assert len((tmp_path / "out" / "table.md").read_text().splitlines()) >= len(rows) + 2
    assert {row["block_means_off"] for row in rows if row.get("part") == "super_resolution"} <= {0.0}
    assert list((tmp_path / "out").glob("comparison*.png"))
